"""Decode speed of the project's loop, optimum-intel's generate and OpenVINO GenAI's LLMPipeline, side by side.

    python bench/loop.py [--rounds 9] [--tokens 128] [--json FILE]

Protocol.  Each engine loads the same export once, in a process of its own, with the same device and ov_config, KV
cache precision said.  Then they take turns, A-B-C-A-B-C, one working while the others sleep; round 0 is a warm-up.
A round is the same prompt ids, greedy, exactly --tokens new ones, end tokens ignored.  Decode speed counts from the
first new token to the last, so the prompt is not in it.  The figures are medians; the ratio is the median of the
ratios within a round, which a neighbour on the machine disturbs least.  Needs `pip install openvino-genai`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from helpers import settings

ENGINES = ("helpers.generate", "optimum-intel generate", "openvino-genai LLMPipeline")
TARGETS = {ENGINES[1]: 1.10, ENGINES[2]: 0.97}
OV_CONFIG = settings.DOCUMENT_OV_CONFIG | {"KV_CACHE_PRECISION": "u8"}
QUESTION = "Explain to a child why the sky is blue and why the evening sky is red."


def ours(folder: Path, device: str, prompt_ids: list[int], n: int):
    """A function that runs one round and returns the new ids and the time of each."""
    from helpers.generate import Cache, generate

    model = optimum_model(folder, device)

    def play():
        steps = generate(model, prompt_ids, n, stop_ids=(), cache=Cache(model))
        ids_and_times = [(step.id, time.perf_counter()) for step in steps]
        return [index for index, _ in ids_and_times], [moment for _, moment in ids_and_times]

    return play


def optimum(folder: Path, device: str, prompt_ids: list[int], n: int):
    import torch

    class Clock:
        """As a streamer: generate hands it the prompt, then each id."""

        def put(self, ids):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    model, clock, prompt = optimum_model(folder, device), Clock(), torch.tensor([prompt_ids])
    model.generation_config.eos_token_id = None

    def play():
        clock.times = []
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, do_sample=False, streamer=clock
        )
        return out[0, len(prompt_ids) :].tolist(), clock.times[1:]

    return play


def genai(folder: Path, device: str, prompt_ids: list[int], n: int):
    import numpy as np
    import openvino as ov
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(folder, device, **OV_CONFIG)
    prompt = openvino_genai.TokenizedInputs(
        ov.Tensor(np.array([prompt_ids])), ov.Tensor(np.ones((1, len(prompt_ids)), dtype=np.int64))
    )

    def play():
        out = pipeline.generate(prompt, max_new_tokens=n, do_sample=False, ignore_eos=True)
        # Its own stamps, taken in C++; a streamer would cost it time.  Milliseconds.
        return list(out.tokens[0]), [at / 1000 for at in out.perf_metrics.raw_metrics.m_new_token_times]

    return play


def optimum_model(folder: Path, device: str):
    from optimum.intel.openvino import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(folder, export=False, device=device, ov_config=dict(OV_CONFIG))


def worker(name: str, tokens: int) -> None:
    """Load, then for each line on the standard input run one round and write one line of JSON."""
    from transformers import AutoTokenizer

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    choice = settings.load()
    tok = AutoTokenizer.from_pretrained(choice.model_dir)
    messages = [{"role": "user", "content": QUESTION}]
    prompt_ids = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    engine = dict(zip(ENGINES, (ours, optimum, genai), strict=True))[name]
    play = engine(choice.model_dir, choice.device, prompt_ids, tokens)
    print(json.dumps({"ready": len(prompt_ids)}), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        ids, times = play()
        whole = time.perf_counter() - start
        assert len(ids) == len(times) == tokens, f"{name}: {len(ids)} ids, {len(times)} times"
        decode = (tokens - 1) / (times[-1] - times[0])
        result = {"decode": decode, "rest_ms": 1000 * (whole - (times[-1] - times[0])), "ids": ids}
        print(json.dumps(result), file=answers, flush=True)


class Worker:
    """One engine in its process."""

    def __init__(self, name: str, tokens: int) -> None:
        argv = [sys.executable, __file__, "--worker", name, "--tokens", str(tokens)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A worker ended; its error stands above.")
        return json.loads(line)

    def play(self) -> dict:
        print("go", file=self.process.stdin, flush=True)
        return self.answer()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(rounds: int, tokens: int) -> dict[str, list[dict]]:
    """The results of each engine, round by round, without the warm-up."""
    workers = {name: Worker(name, tokens) for name in ENGINES}
    try:
        played = [{name: worker.play() for name, worker in workers.items()} for _ in range(rounds + 1)]
    finally:
        for worker in workers.values():
            worker.end()
    return {name: [one[name] for one in played[1:]] for name in ENGINES}


def summary(results: dict[str, list[dict]]) -> dict:
    """Medians per engine, and ours ÷ theirs round by round."""
    decode = {name: [one["decode"] for one in rounds] for name, rounds in results.items()}
    mine = ENGINES[0]
    return {
        "decode_tokens_per_second": {name: median(values) for name, values in decode.items()},
        "rest_milliseconds": {name: median(one["rest_ms"] for one in rounds) for name, rounds in results.items()},
        "same_ids_as_ours": {
            name: all(one["ids"] == results[mine][0]["ids"] for one in rounds) for name, rounds in results.items()
        },
        "ratio_of_medians": {name: median(decode[mine]) / median(decode[name]) for name in TARGETS},
        "ratio": {name: median(a / b for a, b in zip(decode[mine], decode[name], strict=True)) for name in TARGETS},
        "decode_by_round": decode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, at least 7")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.tokens)
    figures = summary(measure(args.rounds, args.tokens))
    for name, value in figures["decode_tokens_per_second"].items():
        rest, same = figures["rest_milliseconds"][name], figures["same_ids_as_ours"][name]
        print(f"{name:28} {value:7.1f} tokens/s   prompt and rest {rest:6.0f} ms   same ids {same}")
        print(" " * 28, *(f"{one:.0f}" for one in figures["decode_by_round"][name]))
    for name, target in TARGETS.items():
        print(f"ours ÷ {name:28} {figures['ratio'][name]:.3f}   target {target:.2f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

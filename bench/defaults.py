"""Which weights and which sampling the tutorial should use by default: `nox -s defaults`.

    python bench/defaults.py [--minutes 8] [--scratch FOLDER] [--report]

Measures SmolLM2-135M-Instruct piece by piece and stores each result in bench/defaults.json, so that an interrupted run
resumes where it stopped.  After --minutes no new piece is started.  docs/defaults.md is written at the end of each run;
--report writes it without measuring.  To measure everything again, delete bench/defaults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
from rehearsal import cpu_name

from helpers import catalog, export, settings
from helpers.chat.degenerate import describe_degeneration
from helpers.files import atomic_write_text
from helpers.generate.sampling import GREEDY, Sampling
from helpers.metrics import quality, timing

RESULTS = settings.ROOT / "bench" / "defaults.json"
SCRATCH = Path(tempfile.gettempdir()) / "defaults"
MODEL = catalog.SMOLLM2
REFERENCE = "fp16"
CHUNK = 64  # tokens: neighbours depend on each other, so the bootstrap draws chunks of this length, not tokens
DRAWS = 2_000
ROUNDS, TOKENS = 9, 64  # of the measurement of speed
HEAD = 200  # characters of an answer in which its fact has to stand


def int4(ratio: str, *more: str) -> tuple[str, ...]:
    return ("--weight-format", "int4", "--group-size", "64", "--ratio", ratio, "--sym", *more)


RATIOS = ("0.3", "0.6", "1.0")
WEIGHTS = {f"int4 {ratio}": int4(ratio) for ratio in RATIOS}
WEIGHTS |= {f"int4 {ratio} awq": int4(ratio, "--awq") for ratio in RATIOS}
WEIGHTS |= {name: catalog.PLAIN_FORMATS[name] for name in ("int8", REFERENCE)}

PENALTIES, SEEDS = (1.0, 1.1, 1.2, 1.3), (1, 2, 3)
GREEDY_GRID = [replace(GREEDY, repetition_penalty=penalty) for penalty in PENALTIES]
SAMPLED_GRID = [
    Sampling(temperature, top_p=0.9, repetition_penalty=penalty, seed=seed)
    for temperature in (0.3, 0.7)
    for penalty in PENALTIES
    for seed in SEEDS
]
# The weights of the grids: greedy for the best int4 recipes and int8, sampled for the best recipe of all int4 ones.
GREEDY_WEIGHTS = ("int4 0.3 awq", "int4 0.6 awq", "int8")
SAMPLED_WEIGHTS = ("int4 0.3 awq",)


# ---------------------------------------------------------------------------------------------------- what is measured
def choice(scratch: Path, weights: str) -> settings.Settings:
    """Return settings with which load_fast finds the export `weights` in the scratch folder."""
    return replace(settings.Settings(), model_root=str(scratch), format=weights.replace(" ", "-"))


def make_export(scratch: Path, weights: str) -> dict:
    """Export the checkpoint; return seconds, and bytes of all weights and of those that a decode step reads."""
    argv = export.command(settings.Settings(), WEIGHTS[weights])
    folder = choice(scratch, weights).model_dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    export.run([*argv[:-1], str(folder)])
    manifest = json.loads((folder / "tutorial_manifest.json").read_text(encoding="utf-8"))
    return {
        "flags": list(WEIGHTS[weights]),
        "seconds": manifest["seconds"],
        "bytes": (folder / "openvino_model.bin").stat().st_size,
        "bytes_per_token": timing.weight_bytes_per_token(folder),
    }


def texts(tok) -> list[list[int]]:
    """Return the ids of all shipped texts: the evaluation text, and each calibration chat in the chat template."""
    from helpers.tokenize import prompt_ids

    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in quality.calibration_chats()
    ]
    return [tok(quality.evaluation_text())["input_ids"], *(prompt_ids(tok, chat, False) for chat in chats)]


def measure_quality(scratch: Path, weights: str) -> dict:
    """Return sums per chunk at reference settings: tokens, negative log-likelihood, KL, same top-1."""
    from optimum.intel.openvino import OVModelForCausalLM

    from helpers.checkpoint.tokenizer import load_tokenizer

    folder = choice(scratch, weights).model_dir
    model = OVModelForCausalLM.from_pretrained(folder, export=False, ov_config=quality.REFERENCE, device="CPU")
    chunks = []
    for number, ids in enumerate(texts(load_tokenizer(folder))):
        file = scratch / f"reference-{number}.npy"
        log_p = quality.log_probabilities(model, ids)
        if weights == REFERENCE:
            np.save(file, log_p)
        expected = np.load(file, mmap_mode="r")
        for start in range(0, len(log_p), CHUNK):
            p, q = np.array(expected[start : start + CHUNK]), log_p[start : start + CHUNK]
            nll = -q[np.arange(len(q)), ids[start + 1 : start + 1 + len(q)]].sum(dtype=np.float64)
            divergence = len(q) * quality.kl(p, q)
            chunks.append([len(q), float(nll), divergence, int((p.argmax(1) == q.argmax(1)).sum())])
    return {"chunks": chunks}


def measure_speed(scratch: Path) -> dict:
    """Return tokens per second of each round: all weights loaded, one generating at a time, in turns."""
    from helpers.generate import generate
    from helpers.load import load_fast

    sides = {}
    for weights in WEIGHTS:
        model, tok, _ = load_fast(choice(scratch, weights))
        ids = tok("The history of the harbour begins with")["input_ids"]

        def play(model=model, ids=ids) -> float:
            # The EOS token does not end it, so that each side generates as many tokens.
            moments = [time.perf_counter() for _ in generate(model, ids, TOKENS, stop_ids=())]
            assert len(moments) == TOKENS
            return (TOKENS - 1) / (moments[-1] - moments[0])

        sides[weights] = play
    return {"tokens_per_second": timing.interleaved(sides, ROUNDS, warm_up=2)}


def judge(question: tuple[str, tuple[str, ...]], text: str, ids: list[int]) -> str:
    """Return e: empty, l: loop, r: right, w: without the fact, o: open, because there is no single right answer."""
    _, words = question
    if not text.strip():
        return "e"
    if describe_degeneration(text, ids):
        return "l"
    if not words:
        return "o"
    return "r" if re.search(rf"\b({'|'.join(words)})\b", text[:HEAD], re.IGNORECASE) else "w"


def ask_all(scratch: Path, weights: str, sampling: Sampling, mode: str, **options) -> dict:
    """Ask the 24 questions as the chat does, in one "conversation" or "apart"; return a verdict for each."""
    from helpers.chat.conversation import Conversation
    from helpers.load import load_fast

    model, tok, _ = load_fast(replace(choice(scratch, weights), **options))
    chat = Conversation(model, tok, sampling=sampling, max_new_tokens=MODEL.max_new_tokens, alternatives=0)
    verdicts, limits, answers, start = "", "", [], time.perf_counter()
    for question in quality.beginner_questions():
        if mode == "apart":
            chat.clear()
        for _ in chat.say(question[0]):
            pass
        message = chat.messages[-1]
        verdicts += judge(question, message.content, [token.id for token in message.tokens])
        limits += "m" if message.stats.finish_reason == "max_new_tokens" else "."
        answers.append([question[0], message.content])
    found = {"verdicts": verdicts, "limits": limits, "seconds": round(time.perf_counter() - start, 1)}
    keep(scratch, answers_key(weights, sampling, mode, **options), answers)
    return found


def answers_key(weights: str, sampling: Sampling, mode: str, **options) -> str:
    parts = [f"temperature {sampling.temperature:g}", f"penalty {sampling.repetition_penalty:g}"]
    if sampling.temperature:
        parts += [f"top_p {sampling.top_p:g}", f"seed {sampling.seed}"]
    return " | ".join(["answers", weights, ", ".join(parts), mode, *(["reference settings"] if options else [])])


def keep(scratch: Path, key: str, answers: list) -> None:
    file = scratch / "answers" / (re.sub(r"[^\w.]+", "-", key) + ".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(answers, indent=1), encoding="utf-8")


def pieces(scratch: Path) -> dict[str, Callable[[], dict]]:
    """Return all measurements by name, in the order in which they run."""
    todo: dict[str, Callable[[], dict]] = {}
    for weights in WEIGHTS:
        todo[f"export | {weights}"] = lambda weights=weights: make_export(scratch, weights)
    for weights in (REFERENCE, *(name for name in WEIGHTS if name != REFERENCE)):
        todo[f"quality | {weights}"] = lambda weights=weights: measure_quality(scratch, weights)

    def add(weights: str, samplings: Iterable[Sampling], modes: tuple[str, ...]) -> None:
        for sampling in samplings:
            for mode in modes:
                key = answers_key(weights, sampling, mode)
                todo[key] = lambda w=weights, s=sampling, m=mode: ask_all(scratch, w, s, m)

    both = ("conversation", "apart")
    for weights in WEIGHTS:
        add(weights, GREEDY_GRID[:1], both)
    for weights in GREEDY_WEIGHTS:
        add(weights, GREEDY_GRID, both)
    todo["speed"] = lambda: measure_speed(scratch)
    for weights in SAMPLED_WEIGHTS:
        add(weights, SAMPLED_GRID, ("conversation",))
        add(weights, (one for one in SAMPLED_GRID if one.seed == SEEDS[0]), ("apart",))
    return todo


# ---------------------------------------------------------------------------------------------------------- the program
def rounded(value):
    """Return `value` with four digits of each float in it: the others change from run to run."""
    if isinstance(value, dict):
        return {name: rounded(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inside) for inside in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def about() -> dict:
    """Return what the results hold for."""
    libraries = ("openvino", "nncf", "optimum-intel", "transformers")
    versions = {each: metadata.version(each) for each in libraries}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new piece after so many minutes")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="folder for the exports, 1.5 GB; it is kept")
    parser.add_argument("--report", action="store_true", help="only write docs/defaults.md")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"about": about()}
    todo = {} if given.report else pieces(given.scratch)
    missing = [name for name in todo if name not in results]
    start = time.perf_counter()
    for number, name in enumerate(missing, 1):
        if time.perf_counter() - start > 60 * given.minutes:
            print(f"{len(missing) - number + 1} of {len(todo)} pieces remain: run it again.")
            break
        piece_start = time.perf_counter()
        results[name] = rounded(todo[name]())
        seconds = time.perf_counter() - piece_start
        shown = results[name].get("verdicts", "")
        print(f"{number}/{len(missing)} {name}: {seconds:.0f} s {shown}", flush=True)
        results["minutes"] = round(results.get("minutes", 0) + seconds / 60, 2)
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in results.items())
        atomic_write_text(RESULTS, f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()

"""What is measured: a function per section, which returns plain figures, round by round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from shutil import copytree, rmtree

import psutil
from causes import attention, fusion, matmuls
from engines import ENGINES, LONGEST, LOOKUP_ENGINES, OURS, Worker, bytes_per_token, gguf_file, ov_config
from rehearsal import family_bytes

from helpers import export, settings
from helpers.metrics import quality, timing

PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Plan:
    """How much is measured: lengths of prompts, tokens before the decode and in it, turns of the long chat."""

    rounds: int = 7
    warm_up: int = 1
    few: int = 3  # rounds of what takes half a minute each
    prefill: tuple[int, ...] = (32, 512, 1024)
    depths: tuple[int, ...] = (0, 512)
    tokens: int = 128
    turns: int = 200
    chat_tokens: int = 256
    answer_tokens: int = 96
    prompts: int = 6  # of each workload
    threads: int = 2
    engines: tuple[str, ...] = tuple(ENGINES)

    def plays(self) -> list[tuple[int, int]]:
        """Return (prompt tokens, new tokens) of each request; one with a long prompt times both phases."""
        assert max(*self.prefill, max(self.depths) + self.tokens) < LONGEST
        alone = [(length, 1) for length in self.prefill if length not in self.depths]
        return alone + [(max(depth, 1), self.tokens) for depth in self.depths]


QUICK = Plan(1, 0, 1, (8, 16, 32), (0, 16), 8, 40, 16, 8, 1)  # fewer turns would not fill the long chat's context
choice = settings.load()


def text_ids() -> list[int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(choice.model_dir)(quality.evaluation_text())["input_ids"]


def engines(plan: Plan) -> dict:
    """Return the milliseconds to the first token by length of the prompt, and per token by depth, round by round."""
    ids = text_ids()
    with ExitStack() as stack:
        if "llama.cpp" in plan.engines and find_spec("llama_cpp"):
            gguf_file(choice)  # before any clock runs
        workers = {name: stack.enter_context(Worker(name, plan.threads)) for name in plan.engines}
        found = {name: dict(worker.ready) for name, worker in workers.items()}
        there = {name: worker for name, worker in workers.items() if "missing" not in worker.ready}
        busy, sides = idle_cpu(there), {name: player(worker, ids, plan) for name, worker in there.items()}
        played = timing.interleaved(sides, plan.rounds, plan.warm_up)
    for name, rounds in played.items():
        engine = found[name]
        engine["kv"], engine["idle_cpu"] = ENGINES[name].kv, busy[name]
        engine["weight_bytes"], engine["kv_bytes"] = bytes_per_token(ENGINES[name], choice)
        engine |= {what: [figures[what] for figures, _ in rounds] for what in rounds[0][0]}
        if OURS in played:
            engine["same_ids_as_ours"] = [ids for _, ids in rounds] == [ids for _, ids in played[OURS]]
    return found


def idle_cpu(workers: dict[str, Worker], seconds: float = 1.0) -> dict[str, float]:
    """Return the share of a core that each uses while it waits: near 0, or it would disturb the others."""

    def used() -> dict[str, float]:
        return {name: sum(psutil.Process(worker.process.pid).cpu_times()[:2]) for name, worker in workers.items()}

    before = used()
    time.sleep(seconds)
    return {name: (after - before[name]) / seconds for name, after in used().items()}


def player(worker: Worker, ids: list[int], plan: Plan):
    rounds = count()

    def play() -> tuple[dict[str, float], list[int]]:
        mine, figures, written = ids[7 * next(rounds) :], {}, []
        for length, n in plan.plays():
            assert len(mine) >= length, "the text is too short for so many rounds"
            answer = worker.play(mine[:length], n)
            if length in plan.prefill:
                figures[f"prefill {length}"] = answer["first_ms"]
            if n > 1:
                figures[f"decode {length if length > 1 else 0}"] = answer["token_ms"]
            written += answer["ids"]
        return figures, written

    return play


def lookup(plan: Plan) -> dict:
    """Return the milliseconds per token after the first of each workload, round by round, with lookup and without.

    Each answer is as long as our plain one, at most plan.answer_tokens, so that all engines generate the same number.
    """
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(choice.model_dir)
    file = Path(__file__).with_name("workloads.json")
    prompts = {}
    for name, texts in json.loads(file.read_text(encoding="utf-8")).items():
        chats = [[{"role": "user", "content": text}] for text in texts[: plan.prompts]]
        prompts[name] = tok.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    with ExitStack() as stack:
        if find_spec("llama_cpp"):
            gguf_file(choice)
        workers = {name: stack.enter_context(Worker(name, plan.threads)) for name in LOOKUP_ENGINES}
        found = {name: dict(worker.ready) for name, worker in workers.items()}
        plain = {
            name: [workers[OURS].play(ids, plan.answer_tokens)["ids"] for ids in prompts[name]] for name in prompts
        }
        lengths = {
            name: [max(2, (ids + [tok.eos_token_id]).index(tok.eos_token_id) + 1) for ids in answers]
            for name, answers in plain.items()
        }
        lengths = {name: [min(n, plan.answer_tokens) for n in given] for name, given in lengths.items()}

        def play(worker: Worker) -> dict[str, tuple[float, int]]:
            """Return for each workload ms per token, and how many answers equal those of our plain decoding."""
            answered = {}
            for name, given in prompts.items():
                played = [(worker.play(ids, n), n) for ids, n in zip(given, lengths[name], strict=True)]
                spent = sum(answer["token_ms"] * (n - 1) for answer, n in played)
                same = sum(a["ids"] == ids[:n] for (a, n), ids in zip(played, plain[name], strict=True))
                answered[name] = spent / sum(n - 1 for n in lengths[name]), same
            return answered

        there = {name: worker for name, worker in workers.items() if "missing" not in worker.ready}
        sides = {name: (lambda worker=worker: play(worker)) for name, worker in there.items()}
        played = timing.interleaved(sides, plan.rounds, plan.warm_up)
    for engine, rounds in played.items():
        found[engine] |= {name: [figures[name][0] for figures in rounds] for name in prompts}
        found[engine]["same_text"] = {name: [figures[name][1] for figures in rounds] for name in prompts}
    tokens = {name: sum(given) for name, given in lengths.items()}
    return {"tokens": tokens, "prompts": plan.prompts, "engines": found}


def memory(plan: Plan) -> dict:
    """Return the peak MiB of each engine's process after a long prompt and some tokens: libraries, weights, cache."""
    found, ids = {}, text_ids()
    for name in plan.engines:
        with Worker(name, plan.threads) as worker:
            if "missing" not in worker.ready:
                found[name] = worker.play(ids[: max(plan.depths)], 16)["peak_mib"]
    return found


def load(plan: Plan) -> dict:
    """Return the seconds to load and to the first token in a new process.

    The sides are ours, and optimum-intel without a CACHE_DIR (cold) and with a filled one (cached).  The system's page
    cache holds the files.
    """
    ids = text_ids()[:32]

    def fresh(folder: str, name: str = "optimum-intel generate") -> tuple[float, float]:
        with Worker(name, plan.threads, CACHE_DIR=folder) as worker:
            first = worker.play(ids, 1)["first_ms"] / 1000
            return worker.ready["load_seconds"], worker.ready["load_seconds"] + first

    with tempfile.TemporaryDirectory() as folder:
        sides = {"ours": lambda: fresh("", OURS), "cold": lambda: fresh(""), "cached": lambda: fresh(folder)}
        found = timing.interleaved(sides, plan.few, warm_up=1)  # the warm-up fills the cache
    return {
        side: {"load_seconds": [one[0] for one in rounds], "first_token_seconds": [one[1] for one in rounds]}
        for side, rounds in found.items()
    }


def bandwidth(plan: Plan) -> dict:
    size, _ = bytes_per_token(ENGINES[OURS], choice)
    return {"size_bytes": size, "gb_per_second": timing.read_bandwidth(size, plan.threads, plan.rounds)}


def chat(plan: Plan) -> dict:
    """Return the figures of bench/chat.py: a later turn, streaming, many turns."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chat.json"
        given = {"rounds": plan.few, "turns": plan.turns, "tokens": plan.chat_tokens, "json": file}
        argv = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, Path(__file__).with_name("chat.py"), *argv], check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def timed(argv: list[str], watched: bool = False, **environ: str) -> tuple[float, float]:
    """Return seconds, and if `watched` the peak MiB of the process and its children.  Raises SystemExit if it fails."""
    most, start = 0, time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, cwd=settings.ROOT, env=os.environ | environ, stdout=log, stderr=log)
        while watched and process.poll() is None:
            try:
                most = max(most, family_bytes(psutil.Process(process.pid))[0])
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        if process.wait():
            log.seek(0)
            words = log.read().decode("utf-8", errors="replace")
            raise SystemExit(f"{export.shell_command(argv)} failed:\n{words[-2000:]}")
    return time.perf_counter() - start, most / 2**20


def exporting(plan: Plan) -> dict:
    """Return seconds, and from separate runs peak MiB, of the export through helpers and of the command that it runs.

    Without the self-check, which has no counterpart in the bare command.
    """
    with tempfile.TemporaryDirectory() as folder:
        there = replace(choice, model_root=folder)
        copytree(choice.checkpoint_dir, there.checkpoint_dir)
        *argv, _ = export.command(there)
        target = {"ours": there.model_dir, "bare": there.model_dir.with_name("bare")}
        command = {
            "ours": [*PYTHON, "helpers", "export", "--no-check"],
            "bare": [*PYTHON, "optimum.commands.optimum_cli", *argv[1:], str(target["bare"])],
        }

        def once(side: str, watched: bool = False) -> tuple[float, float]:
            rmtree(target[side], ignore_errors=True)
            return timed(command[side], watched, TUTORIAL_MODEL_ROOT=folder, TMPDIR=folder)

        watched = {"ours": lambda: once("ours", True)[1], "bare": lambda: once("bare", True)[1]}
        most = timing.interleaved(watched, plan.few, warm_up=0)  # this is also the warm-up for the times
        sides = {"ours": lambda: once("ours")[0], "bare": lambda: once("bare")[0]}
        seconds = timing.interleaved(sides, plan.few, warm_up=0)
    return {side: {"seconds": seconds[side], "memory_mib": most[side]} for side in command}


def ask(plan: Plan) -> dict:
    """Return the seconds from the command's start to its first output; the system's page cache holds the files."""

    def once() -> float:
        start = time.perf_counter()
        argv = [*PYTHON, "helpers", "ask", "What is the capital of France?"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(argv, cwd=settings.ROOT, **pipes) as process:
            assert process.stdout.read(1), "no answer"
            seconds = time.perf_counter() - start
            process.stdout.read()
        return seconds

    return {"seconds": timing.interleaved({"ask": once}, plan.rounds, warm_up=plan.warm_up)["ask"]}


def notebook(plan: Plan) -> dict:
    """Return the seconds of page 00 from the start of its kernel to its last cell, with the export on disk."""
    import nbformat
    from nbclient import NotebookClient

    page = settings.ROOT / "notebooks" / "00_quickstart.ipynb"

    def once() -> float:
        pages = nbformat.read(page, as_version=4)
        start = time.perf_counter()
        NotebookClient(pages, timeout=600, resources={"metadata": {"path": str(page.parent)}}).execute()
        return time.perf_counter() - start

    return {"seconds": timing.interleaved({"page": once}, plan.few, warm_up=plan.warm_up)["page"]}


def perplexities(plan: Plan) -> dict:
    """Return the perplexity of the default export and of fp16 on the project's text; only the weights differ."""
    from optimum.intel.openvino import OVModelForCausalLM

    ids, found, exact = text_ids()[: 64 if plan.few == 1 else None], {}, dict(quality.REFERENCE)
    with tempfile.TemporaryDirectory() as folder:
        fp16 = replace(choice, model_root=folder, format="fp16")
        copytree(choice.checkpoint_dir, fp16.checkpoint_dir)
        export.run(export.command(fp16))
        for form in (choice, fp16):
            model = OVModelForCausalLM.from_pretrained(form.model_dir, export=False, device="CPU", ov_config=exact)
            found[form.format] = quality.perplexity(model, ids)
            del model  # Windows removes no folder whose files are open
    return {"perplexity": found, "ratio": found[choice.format] / found["fp16"], "tokens": len(ids)}


def causes(plan: Plan) -> dict:
    """Return where the time of our loop goes."""
    given = replace(choice, device="CPU", ov_config=ov_config(plan.threads)), plan, text_ids()
    return {"attention": attention(*given), "matmuls": matmuls(*given), "fusion": fusion(*given)}


SECTIONS = {
    "bandwidth": bandwidth,
    "engines": engines,
    "lookup": lookup,
    "causes": causes,
    "memory": memory,
    "load": load,
    "ask": ask,
    "notebook": notebook,
    "chat": chat,
    "export": exporting,
    "quality": perplexities,
}

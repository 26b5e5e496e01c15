"""What Phi-3-mini will cost on this machine: its true shape with random weights, made, exported, loaded and run.

    nox -s rehearsal              measure, and write the table into README.md
    nox -s rehearsal -- --keep    and keep the 10 GB in model/phi3-rehearsal

Each step is a process of its own, so that its memory is its own.  Memory is the largest sum of the resident sets of the
process and its children, sampled ten times a second; disk is the largest growth of the model folder meanwhile.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from helpers import settings
from helpers.files import GIB

ROOT = settings.ROOT
MODEL = "phi3-rehearsal"
TOKENS = 32
README_PART = re.compile(r"(<!-- rehearsal -->\n).*(<!-- /rehearsal -->)", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """One step's price.  `note` is what it printed that is worth telling."""

    step: str
    seconds: float
    memory_gib: float
    disk_gib: float
    note: str = ""


def folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # temporary files come and go while we count
            continue
    return total


def family_bytes(process: psutil.Process) -> int:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def measure(step: str, argv: list[str], folder: Path) -> Cost:
    """Run `argv` and watch it.  Raises CalledProcessError, with what it printed, if it fails."""
    before, memory, disk = folder_bytes(folder), 0, 0
    start = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            memory = max(memory, family_bytes(watched))
        except psutil.NoSuchProcess:
            break
        disk = max(disk, folder_bytes(folder) - before)
        time.sleep(0.1)
    printed = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv, printed)
    note = next((line[5:] for line in printed.splitlines() if line.startswith("NOTE ")), "")
    return Cost(step, time.perf_counter() - start, memory / GIB, disk / GIB, note)


def run_and_write() -> None:
    """Load the export, write TOKENS tokens twice, print the second run's speed: the worker's part."""
    from helpers.generate import GenerationStats, generate
    from helpers.load import load_model
    from helpers.tokenize import prompt_ids

    start = time.perf_counter()
    model, tok, _ = load_model(settings.load())
    load_seconds = time.perf_counter() - start
    ids = prompt_ids(tok, [{"role": "user", "content": "Can you introduce yourself?"}])
    list(generate(model, ids, TOKENS, stop_ids=()))  # warm-up: the first call prepares the kernels
    stats = GenerationStats.from_tokens(list(generate(model, ids, TOKENS, stop_ids=())))
    print(
        f"NOTE load {load_seconds:.1f} s, first token {stats.ttft_ms / 1000:.1f} s, "
        f"then {stats.tokens_per_second:.1f} tokens/s"
    )


def cpu_name() -> str:
    import openvino

    return openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")


def table(costs: list[Cost]) -> str:
    memory = psutil.virtual_memory().total / GIB
    lines = [
        f"Measured by `nox -s rehearsal` on {cpu_name()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()}:",
        "",
        "| step | time | peak memory | disk | |",
        "|---|---:|---:|---:|---|",
    ]
    for c in costs:
        lines += [f"| {c.step} | {c.seconds:.0f} s | {c.memory_gib:.1f} GiB | {c.disk_gib:.1f} GiB | {c.note} |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the made-up model and its export")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return run_and_write()
    os.environ["TUTORIAL_MODEL"] = MODEL
    folder = settings.load().checkpoint_dir.parent
    shutil.rmtree(folder, ignore_errors=True)  # what is there already would cost nothing
    python = [sys.executable, "-m", "helpers"]
    steps = {
        "make the checkpoint (instead of downloading 7.6 GB)": [*python, "fetch"],
        "export, with the document's flags": [*python, "export"],
        f"load, and write {TOKENS} tokens": [sys.executable, __file__, "--worker"],
    }
    costs = []
    for step, argv in steps.items():
        costs.append(measure(step, argv, folder))
        print(asdict(costs[-1]), flush=True)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(README_PART.sub(lambda part: part[1] + table(costs) + part[2], text), encoding="utf-8")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

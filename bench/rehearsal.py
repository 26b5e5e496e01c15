"""What Phi-3-mini costs on this machine: its shape with random weights, created, exported, loaded and run.

    nox -s rehearsal              measure; write bench/rehearsal.json, docs/benchmarks.md and the README's table
    nox -s rehearsal -- --keep    and keep the 10 GB in model/phi3-rehearsal

Each step runs in its own process, so that its memory can be measured.  Memory is the largest sum of the resident sets
of the process and its children, sampled ten times a second; disk is the largest growth of the model folder meanwhile.
The last two steps are repeated in a cgroup with less memory, because resident sets include mapped files, which the
system drops when memory is short.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import psutil

from helpers import settings
from helpers.files import GIB

ROOT = settings.ROOT
MODEL = "phi3-rehearsal"
CONVERTED = "OpenVINO/Phi-3-mini-4k-instruct-int4-ov"  # the name under which a local hub offers the export for download
TOKENS = 32
ROUNDS = 7
PASSES = (1, 4, 8, 16)  # tokens of a forward pass, as helpers.generate.speculate makes them
BEFORE = (("", None), (" after 5", 5))  # tokens of the pass before: the same number, or 5
FIGURES = ("seconds", "memory_gib", "disk_gib")


@dataclass(frozen=True)
class Cost:
    """The cost of one step; `note` is what it printed after NOTE."""

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


def family_bytes(process: psutil.Process) -> tuple[int, int]:
    """Return the resident set of a process and its children, in all and without mapped files, which can be dropped."""
    total = private = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            memory = member.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss
        private += memory.rss - getattr(memory, "shared", 0)  # Linux: mapped files
    return total, private


@contextmanager
def limited(argv: list[str], limit: int, files: list[Path]) -> Iterator[list[str] | None]:
    """Yield `argv` so that it runs with at most `limit` bytes of memory, or None if no Linux cgroup can be created.

    `files` are dropped from the page cache first, because pages already there would not count for the cgroup.
    """
    lines = Path("/proc/self/cgroup").read_text().splitlines() if sys.platform == "linux" else ["0::"]
    own = dict(line.split(":", 2)[1:] for line in lines)  # {controller: path}; version 2 has one, without a name
    root, most = ("memory" + own["memory"], "limit_in_bytes") if "memory" in own else (own[""], "max")
    group = Path("/sys/fs/cgroup", root.strip("/"), f"rehearsal-{os.getpid()}")
    try:
        group.mkdir()
        (group / f"memory.{most}").write_text(str(limit))
    except OSError:
        yield None
        return
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        yield ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *argv]
    finally:
        with suppress(OSError):
            group.rmdir()


def measure(step: str, argv: list[str], folder: Path) -> Cost:
    """Run `argv` and watch it.  Raises CalledProcessError, with what it printed, if it fails."""
    before, memory, private, disk = folder_bytes(folder), 0, 0, 0
    start = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            total, unmapped = family_bytes(watched)
            memory, private = max(memory, total), max(private, unmapped)
        except psutil.NoSuchProcess:
            break
        disk = max(disk, folder_bytes(folder) - before)
        time.sleep(0.1)
    printed = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv, printed)
    note = next((line[5:] for line in printed.splitlines() if line.startswith("NOTE ")), "")
    if memory > 1.2 * private:
        note = "; ".join(filter(None, [note, f"{private / GIB:.1f} GiB without mapped files"]))
    return Cost(step, time.perf_counter() - start, memory / GIB, disk / GIB, note)


def load_and_generate() -> None:
    """Load the export, generate TOKENS tokens twice, and print the speed of the second run."""
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


def compare_with_bandwidth() -> None:
    """Print as JSON the decode speed, the limit that memory bandwidth sets, and what drafts cost and gain."""
    from replay import replay

    from helpers.generate import PromptCache, generate
    from helpers.load import load_model
    from helpers.metrics import timing

    choice = settings.load()
    model, *_ = load_model(choice)
    cache = PromptCache(model)
    threads = cache.request.get_compiled_model().get_property("INFERENCE_NUM_THREADS")
    weight_bytes = timing.weight_bytes_per_token(choice.model_dir)

    def decode() -> float:
        cache.ids = []
        steps = list(generate(model, [1], TOKENS // 2, stop_ids=(), cache=cache))
        return 1000 * (len(steps) - 1) / sum(step.milliseconds for step in steps[1:])

    def limit() -> float:
        return timing.read_bandwidth(GIB, threads, rounds=3) * 1e9 / weight_bytes

    text = list(range(64 + max(PASSES)))

    def pass_ms(size: int, before: int) -> float:
        """Return the milliseconds of a pass over `size` tokens, with 64 in the cache, after a pass over `before`."""
        for n in (before, size):
            cache.trim(text[:65])
            start = time.perf_counter()
            cache.last_logits(text[: 64 + n], n)
        return 1000 * (time.perf_counter() - start)

    rounds = timing.interleaved({"limit": limit, "tokens_per_second": decode}, ROUNDS)
    cache.logits(text[:64])
    sides = {f"{size}{name}": partial(pass_ms, size, before or size) for size in PASSES for name, before in BEFORE}
    passes = timing.interleaved(sides, ROUNDS)
    sizes = {"weight_bytes": weight_bytes, "kv_bytes": timing.kv_bytes_per_token(model, "u8"), "threads": threads}
    print("NOTE " + json.dumps(sizes | rounded(rounds | {"pass_ms": passes, "replayed": replay(model)})))


def cpu_name() -> str:
    import openvino

    return openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")


def rounded(value):
    """Return `value` with its floats rounded to four significant digits; later digits differ from run to run."""
    if isinstance(value, dict):
        return {name: rounded(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inside) for inside in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the random checkpoint and its export")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return WORKERS[options.worker]()
    import report  # here, because the workers do not need what it imports

    sys.path.insert(0, str(ROOT / "tests"))
    from hub import Hub

    os.environ["TUTORIAL_MODEL"] = MODEL
    folder = settings.load().checkpoint_dir.parent
    shutil.rmtree(folder, ignore_errors=True)  # a step whose result exists would do nothing
    python, worker = [sys.executable, "-m", "helpers"], [sys.executable, __file__, "--worker"]
    steps = {
        "create the checkpoint (instead of downloading 7.6 GB)": [*python, "fetch"],
        "export, with the sample's flags": [*python, "export"],
        f"load, and generate {TOKENS} tokens": [*worker, "generate"],
    }
    costs = []

    def run(step: str, argv: list[str]) -> None:
        costs.append(measure(step, argv, folder.parent))
        print(asdict(costs[-1]), flush=True)

    for step, argv in steps.items():
        run(step, argv)
    taken = replace(settings.load(), model=CONVERTED)
    shutil.rmtree(taken.home, ignore_errors=True)
    download = [*python, "export", "--model", CONVERTED]
    first = [*python, "ask", "Hello!", "--model", CONVERTED, "--max-new-tokens", str(TOKENS)]
    with Hub(settings.load().model_dir) as hub:
        hub.origin = CONVERTED
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        run("instead of checkpoint and export: download the IR from a local hub", download)
        run("first answer of the IR", first)
        files = [file for file in taken.model_dir.iterdir() if file.is_file()]
        limit = int(1.5 * sum(file.stat().st_size for file in files) + 0.8e9)
        shutil.rmtree(taken.home)
        for step, command in {"the same download": download, "and first answer": first}.items():
            with limited(command, limit, list(taken.model_dir.glob("*.bin"))) as argv:
                if argv:
                    run(f"{step}, in a cgroup limited to {limit / GIB:.1f} GiB", argv)
    shutil.rmtree(taken.home, ignore_errors=True)
    about = {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system(), "date": date.today().isoformat()}
    about["memory_gib"] = round(psutil.virtual_memory().total / GIB)
    subprocess.run([*python, "export", "--model", "smollm2-instruct"], cwd=ROOT, check=True)  # for replay.py
    decode = json.loads(measure("decode", [*worker, "bandwidth"], folder).note.partition("; ")[0])
    rows = [asdict(cost) | {key: round(getattr(cost, key), 2) for key in FIGURES} for cost in costs]
    rehearsal = {"about": about, "steps": rows, "decode": decode}
    report.REHEARSAL.write_text(json.dumps(rehearsal, indent=1) + "\n", encoding="utf-8")
    report.write(report.stored(report.RESULTS), rehearsal)
    if not options.keep:
        shutil.rmtree(folder)


WORKERS = {"generate": load_and_generate, "bandwidth": compare_with_bandwidth}

if __name__ == "__main__":
    main()

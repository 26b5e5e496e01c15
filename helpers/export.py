"""checkpoint → IR by optimum-cli: the command as data, then run with progress, atomic, locked, errors decoded."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.catalog import TASK
from helpers.errors import TutorialError
from helpers.files import (
    GIB,
    ProgressLine,
    Report,
    atomic_directory,
    damaged_error,
    disk_full_error,
    find_damaged,
    is_disk_full_message,
    require_disk_space,
)
from helpers.settings import ROOT, Settings, display_path

RECORD = "tutorial_export.json"  # which command made the folder, and what its files were then
SCRATCH = 1.4  # of the checkpoint's size: what an export needs on the disk for a while
# optimum-cli reports success without the last two when it could not write them.
EXPORT_FILES = ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml")
# A line of optimum-cli's log that has the first words opens the phase of that name.
PHASES = [
    ("Fetching|Downloading", "downloading"),
    ("Loading weights|Loading checkpoint", "reading the checkpoint"),
    ("TracerWarning|loss_type", "tracing the model into a graph"),
    ("Mixed-Precision|bitwidth", "choosing each layer's precision"),
    ("Applying Weight Compression", "compressing the weights"),
]


def command(settings: Settings, flags: tuple[str, ...] | None = None) -> list[str]:
    """The argument list of `optimum-cli export openvino` for these settings: the document's, with our folders.

    `flags` replace the catalog's compression flags.  Folders are relative to the project, where run() starts it.
    """
    flags = settings.spec.flags[settings.format] if flags is None else flags
    trust = ("--trust-remote-code",) * settings.spec.trust_remote_code
    source, target = display_path(settings.checkpoint_dir), display_path(settings.model_dir)
    return ["optimum-cli", "export", "openvino", "--model", source, *TASK, *flags, *trust, target]


def shell_command(argv: list[str]) -> str:
    """`argv` as one would type it in this system's terminal."""
    return subprocess.list2cmdline(argv) if os.name == "nt" else shlex.join(argv)


def run(argv: list[str], report: Report = print) -> Path:
    """Run an `optimum-cli export openvino … <folder>` and return the folder, which is whole or absent.

    A folder that is there already is returned at once, if the same flags made it.  The log goes to <folder>.log.
    Raises TutorialError with a cure for each failure that is known, and with the log's end for one that is not.
    """
    if not {"--model", "-m"} & set(argv):
        raise TutorialError("This export names no model.", "Make the list with export.command(settings).")
    target = ROOT / argv[-1]
    if target.exists():
        return _same_flags(target, argv, report)
    log = target.with_name(f"{target.name}.log")
    require_disk_space(target, _scratch_gib(argv))
    with atomic_directory(target, report) as part:
        if part is None:
            return _same_flags(target, argv, report)
        scratch = part / "tmp"
        scratch.mkdir()
        code, seconds = _run([*argv[:-1], str(part)], log, scratch)
        words = log.read_text(encoding="utf-8", errors="replace")
        whole = all((part / name).exists() for name in EXPORT_FILES)
        if code != 0 or not whole or is_disk_full_message(words):
            raise diagnose(code, words, argv) from RuntimeError(words[-2000:])
        shutil.rmtree(scratch)
        write_record(part, argv, seconds)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    report(f"{argv[-1]} is complete: {size:.0f} MB in {seconds:.0f} s.")
    return target


def write_record(folder: Path, argv: list[str], seconds: float) -> None:
    """Note in the export's `folder` which command made it, and the size and hash of each file."""
    record = {"command": argv, "seconds": round(seconds, 1), "files": files_of(folder)}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_record(folder: Path) -> dict:
    """What write_record() noted; {} where there is no record, or one that cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def files_of(folder: Path, hashes: bool = True) -> dict[str, dict[str, int | str]]:
    """{name: {"bytes": size, "sha256": hash}} of the files in `folder`, the record aside; hashing reads all of them."""
    files = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != RECORD:
            files[file.name] = {"bytes": file.stat().st_size}
            if hashes:
                with file.open("rb") as stream:
                    files[file.name]["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return files


def _scratch_gib(argv: list[str]) -> float:
    """What an export needs for a while: the checkpoint again as a 16-bit graph, and the compressed one beside it."""
    source = ROOT / argv[argv.index("--model") + 1] if "--model" in argv else ROOT / "not there"
    return SCRATCH * sum(file.stat().st_size for file in source.glob("*.safetensors")) / GIB


def _same_flags(target: Path, argv: list[str], report: Report) -> Path:
    def flags(words):
        at = words.index("--model") if "--model" in words else words.index("-m")
        return sorted(words[3:at] + words[at + 2 : -1])

    if wrong := find_damaged(target, (*EXPORT_FILES, "config.json")):
        raise damaged_error(argv[-1], wrong)
    made_by = read_record(target).get("command", argv)
    if flags(made_by) != flags(argv):
        raise TutorialError(
            f"{argv[-1]} is there, but other flags made it: {shell_command(made_by)}",
            "Delete that folder, or give this export another one.",
        )
    report(f"{argv[-1]} is there and whole; nothing to do.")
    return target


def _run(argv: list[str], log: Path, scratch: Path) -> tuple[int, float]:
    """Run it in the project's folder; returns the exit code and the seconds.  One live line, a kept line per phase."""
    # optimum-cli writes the 16-bit graph into the temporary folder first: 7.6 GB for Phi-3, too much for many a /tmp,
    # where a killed export would also leave it.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    # -m instead of the script: it works when the scripts folder is not on PATH, and never picks another Python's.
    module = [sys.executable, "-m", "optimum.commands.optimum_cli", *argv[1:]]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "COLUMNS": "100"} | temporary
    line, phase, since = ProgressLine(), "starting", time.perf_counter()
    start = since
    with log.open("wb") as kept:
        process = subprocess.Popen(
            module,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            for text in _pieces(process.stdout, kept):
                found = next((name for words, name in reversed(PHASES) if re.search(words, text)), phase)
                now = time.perf_counter()
                if found != phase:
                    line.keep(f"  {phase}: {now - since:.0f} s")
                    phase, since = found, now
                percent = re.search(r"(\d+)%", text)
                line.update(f"  {phase} … {percent[0] if percent else ''} {now - since:.0f} s")
            code = process.wait()
        finally:
            _kill(process)
    line.keep(f"  {phase}: {time.perf_counter() - since:.0f} s")
    return code, time.perf_counter() - start


def _pieces(stream, kept) -> Iterator[str]:
    """The output in lines (a progress bar's \\r ends one too), written to `kept`; "" every half second of silence."""
    pieces: queue.Queue[bytes | None] = queue.Queue()

    def read():
        while data := os.read(stream.fileno(), 65536):
            pieces.put(data)
        pieces.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            data = pieces.get(timeout=0.5)
        except queue.Empty:
            yield ""
            continue
        if data is None:
            return
        kept.write(data)
        kept.flush()
        yield from re.split(r"[\r\n]+", data.decode("utf-8", errors="replace"))


def _kill(process: subprocess.Popen) -> None:
    """End the command and its children, which outlive an interrupt of the notebook otherwise."""
    if process.poll() is None:
        family = psutil.Process(process.pid)
        for member in [*family.children(recursive=True), family]:
            with suppress(psutil.NoSuchProcess):  # it may end by itself at this very moment
                member.kill()
        process.wait()
    process.stdout.close()


def diagnose(code: int, words: str, argv: list[str]) -> TutorialError:
    """What a failed export's exit code and log mean, and the cure."""
    model = argv[argv.index("--model") + 1] if "--model" in argv else ""
    if "InvalidGroupSizeError" in words:
        return _group_size(words, argv)
    if is_disk_full_message(words):
        return disk_full_error(Path(argv[-1]))
    no_memory = ("MemoryError", "bad_alloc", "allocate memory", "not enough memory")
    if code in (-9, 137) or any(sign in words for sign in no_memory):
        return TutorialError(
            "The export was killed: this machine ran out of memory.",
            "Close other programs and run it again, or export a smaller one. Their needs: python -m helpers models",
        )
    no_hub = ("ConnectError", "ConnectionError", "ProxyError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled")
    if any(sign in words for sign in no_hub):
        return TutorialError(
            f"The hub cannot be reached, and {model} is not a folder on this disk.",
            "Check the network, HTTPS_PROXY and HF_ENDPOINT; or fetch first: python -m helpers fetch",
        )
    if any(sign in words for sign in ("RepositoryNotFound", "not a valid model identifier", "HFValidationError")):
        return TutorialError(
            f"There is no model {model}: not a folder on this disk, and not a repository on the hub.",
            "Check the spelling; a folder is looked for from the project's. "
            "The catalog's models come by: python -m helpers fetch",
        )
    if any(sign in words for sign in ("SafetensorError", "is not a valid JSON file")):
        return TutorialError(f"The checkpoint {model} is damaged.", "Delete that folder, then: python -m helpers fetch")
    if usage := re.search(r": error: (.+)", words):
        return TutorialError(
            f"optimum-cli does not understand these flags: {usage[1]}.", "See: optimum-cli export openvino --help"
        )
    if code == 0:
        return TutorialError(
            f"optimum-cli reported success, but did not write all of {', '.join(EXPORT_FILES)}.",
            f"Is the disk full? The whole log: {argv[-1]}.log",
        )
    end = "\n".join(text for text in words.strip().splitlines()[-3:])
    return TutorialError(f"optimum-cli ended with code {code}:\n{end}", f"The whole log: {argv[-1]}.log")


def _group_size(words: str, argv: list[str]) -> TutorialError:
    size = f"A group size of {argv[argv.index('--group-size') + 1]}" if "--group-size" in argv else "The group size"
    widths = sorted({int(width) for width in re.findall(r"channel size: (\d+)", words)})
    # The largest power of two that divides a number is its lowest bit.
    fits = min((width & -width for width in widths), default=0)
    choice = f"--group-size {fits}, which divides them, or " if fits >= 32 else ""
    return TutorialError(
        f"{size} does not divide the width of some layers ({', '.join(map(str, widths))}), "
        f"so their rows cannot be cut into whole groups.",
        f"Use {choice}--group-size-fallback adjust, which lowers it for those layers only.",
    )

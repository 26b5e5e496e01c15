"""Export a checkpoint to OpenVINO IR with optimum-cli: the command as data, then run with progress."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from helpers import catalog, files, shapes
from helpers.catalog import TASK
from helpers.checkpoint.tokenizer import has_chat_template, restore_tokenizer
from helpers.errors import TutorialError, printable
from helpers.files import EXPORT_FILES, GIB, ProgressLine, Report, find_damaged
from helpers.settings import ROOT, Settings, display_path, shell_command

SCRATCH_FACTOR = 1.4  # disk space that an export needs while it runs, as a multiple of the checkpoint's size
PHASES = [  # (pattern of a line in optimum-cli's log, the phase that it begins)
    ("Fetching|Downloading", "downloading"),
    ("Loading weights|Loading checkpoint", "reading the checkpoint"),
    ("TracerWarning|loss_type", "tracing the model into a graph"),
    ("Mixed-Precision|bitwidth", "choosing each layer's precision"),
    ("Applying Weight Compression", "compressing the weights"),
]
FAILURES = [  # (pattern in the log, message, hint): the first match counts; {0} is the model, {1} the pattern's group
    (
        "MemoryError|bad_alloc|allocate memory|not enough memory",
        "The export was killed: this machine ran out of memory.",
        "Close other programs and run it again, or export a smaller model. See: python -m helpers models",
    ),
    (
        "Connect(?:ion)?Error|ProxyError|(?:Connect|Read)Timeout|OfflineMode|RepositoryNotFound|model identifier|HFVal",
        "{0} is not a folder on this disk, and the hub did not provide a model of that name.",
        "Check the spelling, the network, HTTPS_PROXY and HF_ENDPOINT; or fetch first: python -m helpers fetch",
    ),
    (
        "SafetensorError|not a valid JSON",
        "The checkpoint {0} is damaged.",
        "Get its files again. If python -m helpers fetch made it: delete it, then run that.",
    ),
    (": error: (.+)", "optimum-cli does not accept these flags: {1}.", "See: optimum-cli export openvino --help"),
]


def command(settings: Settings, flags: tuple[str, ...] | None = None) -> list[str]:
    """Return the arguments of `optimum-cli export openvino` for `settings`: the sample's, with our folders and flags.

    `flags` replace the catalog's compression flags.  Folders are relative to the project, where run() starts it.
    """
    flags = settings.spec.flags[settings.format] if flags is None else flags
    trust = ("--trust-remote-code",) * settings.spec.trust_remote_code
    source, target = display_path(settings.checkpoint_dir), display_path(settings.model_dir)
    return ["optimum-cli", "export", "openvino", "--model", source, *TASK, *flags, *trust, target]


def reason(settings: Settings) -> str:
    """Return why command() uses its flags; "" if the catalog states them, or if no export is needed."""
    folder, named = settings.checkpoint_dir, catalog.find(settings.model)
    if settings.format != "int4" or named.flags["int4"] or files.is_ir(folder):
        return ""
    found = []
    with suppress(OSError, TutorialError, *files.MALFORMED):
        found = shapes.checkpoint_shapes(folder)
    return shapes.flags_for(named, found)[1]


def run(argv: list[str], report: Report = print) -> Path:
    """Run an `optimum-cli export openvino … <folder>` and return the folder, which is complete or absent.

    An existing folder is checked and returned unless made with different flags.  The log is written to <folder>.log.
    Raises TutorialError: with a hint for each known failure, and with the end of the log for an unknown one.
    """
    if not (parsed := _parse(argv)):
        raise TutorialError("This export command names no model.", "Create it with export.command(settings).")
    name, target, source = argv[-1], ROOT / argv[-1], parsed[0]
    if target == source:  # an IR that others have converted; it may be the reader's own folder, so nothing is written
        if wrong := find_damaged(target, EXPORT_FILES):
            raise files.damaged_error(name, wrong, None)
        facts = "; ".join(shapes.ir_facts(target))
        report(printable(f"{name} is an OpenVINO IR already; skipping export. {facts}."))
        if not has_chat_template(target):
            report("It has no chat template, so it completes text but cannot chat.")
        return target
    if target.exists():
        made_by = files.read_manifest(target).get("command")
        if (made := _parse(made_by)) and made[1] != parsed[1]:
            what = f"{name} was made with different flags: {shell_command(made_by)}"
            raise TutorialError(what, "Delete that folder, or give this export a different one.")
        return files.reuse(target, name, EXPORT_FILES, "export", report)
    log = target.with_name(f"{target.name}.log")
    # Space for a 16-bit graph and the compressed one beside it.
    files.require_disk_space(target, SCRATCH_FACTOR * files.size(source, "*.safetensors") / GIB)
    with files.atomic_directory(target, report) as part:
        if part is None:
            return run(argv, report)
        scratch = part / "tmp"
        scratch.mkdir()
        code, seconds = _run([*argv[:-1], str(part)], log, scratch)
        text = log.read_text(encoding="utf-8", errors="replace")
        wrong = find_damaged(part, EXPORT_FILES)
        if code != 0 or wrong or files.is_disk_full_message(text):
            raise diagnose(code, text, argv, wrong) from RuntimeError(text[-2000:])
        shutil.rmtree(scratch)
        restore_tokenizer(source, part)
        files.write_manifest(part, command=argv, seconds=round(seconds, 1))
    report(f"{name} is complete: {files.size(target) / 1e6:.0f} MB in {seconds:.0f} s.")
    return target


def _parse(argv: object) -> tuple[Path, list[str]] | None:
    """Return the checkpoint's folder and the sorted flags of an export command; None for anything else.

    The folder does not exist if the command names a model on the hub.
    """
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv) or not {"--model", "-m"} & {*argv}:
        return None
    at = argv.index("--model" if "--model" in argv else "-m")
    return ROOT / argv[at + 1], sorted(argv[3:at] + argv[at + 2 : -1])


def _run(argv: list[str], log: Path, scratch: Path) -> tuple[int, float]:
    """Run `argv` in the project's folder with its output in `log`; print each phase; return exit code and seconds."""
    # optimum-cli first writes the 16-bit graph into the temporary folder: 7.6 GB for Phi-3, more than many a /tmp has.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "COLUMNS": "100"}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    # Run the module, not the script: this works if the script's folder is not on PATH, and uses this very Python.
    module = [sys.executable, "-P", "-m", "optimum.commands.optimum_cli", *argv[1:]]
    line, phase, code = ProgressLine(), "starting", None
    start = since = time.perf_counter()
    log.unlink(missing_ok=True)  # it may belong to a different user
    with log.open("wb") as stream, log.open(encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            module, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            while code is None:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(0.5)
                for text in output.read().splitlines() or [""]:  # a progress bar's \r ends a line too
                    found = next((name for pattern, name in reversed(PHASES) if re.search(pattern, text)), phase)
                    now = time.perf_counter()
                    if found != phase:
                        line.finish(f"  {phase}: {now - since:.0f} s")
                        phase, since = found, now
                    percent = re.search(r"(\d+)%", text)
                    line.update(f"  {phase} … {percent[0] if percent else ''} {now - since:.0f} s")
        finally:
            end_process_tree(process)
    line.finish(f"  {phase}: {time.perf_counter() - since:.0f} s")
    return code, time.perf_counter() - start


def end_process_tree(process: subprocess.Popen) -> None:
    """End the command and its children, which would outlive an interrupt of the notebook."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for member in [*parent.children(recursive=True), parent]:
            with suppress(psutil.NoSuchProcess):  # it may just have ended
                member.kill()
        process.wait()


def diagnose(code: int, text: str, argv: list[str], wrong: dict[str, str] | None = None) -> TutorialError:
    """Return the error for an export with exit code `code`, `text` in its log, and damaged or missing files `wrong`."""
    if "InvalidGroupSizeError" in text:
        return _group_size_error(text, argv)
    if files.is_disk_full_message(text):
        return files.disk_full_error(Path(argv[-1]))
    model = argv[argv.index("--model") + 1] if "--model" in argv else ""
    for pattern, message, hint in FAILURES:
        if found := re.search(pattern, "MemoryError" if code in (-9, 137) else text):  # killed
            return TutorialError(message.format(model, *found.groups()), hint)
    hint = f"The complete log: {argv[-1]}.log"
    if code == 0:
        parts = ", ".join(f"{name} is {why}" for name, why in sorted((wrong or {}).items()))
        hint = f"Is the disk full, or is this tokenizer not supported? {hint}"
        return TutorialError(f"optimum-cli reported success, but {parts}.", hint)
    end = "\n".join(text.strip().splitlines()[-3:])
    return TutorialError(f"optimum-cli ended with code {code}:\n{end}", hint)


def _group_size_error(text: str, argv: list[str]) -> TutorialError:
    size = f"A group size of {argv[argv.index('--group-size') + 1]}" if "--group-size" in argv else "The group size"
    widths = sorted({int(width) for width in re.findall(r"channel size: (\d+)", text)})
    # The largest power of two that divides a number is its lowest set bit.
    fits = min((width & -width for width in widths), default=0)
    choice = f"--group-size {fits}, which divides them, or " if fits >= 32 else ""
    what = f"{size} does not divide the width of some layers ({', '.join(map(str, widths))}), "
    what += "so their rows cannot be split into equal groups."
    return TutorialError(what, f"Use {choice}--group-size-fallback adjust, which lowers it for those layers only.")

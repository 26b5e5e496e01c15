"""Folders that are complete or absent, the manifest of their files, disk space, and a line of progress."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.errors import TutorialError

Report = Callable[[str], None]
GIB = 1024**3
MANIFEST = "tutorial_manifest.json"  # how the folder was made, and the size and hash of each of its files
# Files that a checkpoint must have besides its weights, that optimum-cli must write (it reports success even if it
# could not write the tokenizers), and that our loader reads.
CHECKPOINT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
IR_FILES = ("openvino_model.xml", "openvino_model.bin")
LOAD_FILES = (*IR_FILES, *CHECKPOINT_FILES)
WEIGHTS_INDEX = "model.safetensors.index.json"  # which of several files has each weight
EXPORT_FILES = (*LOAD_FILES, "openvino_tokenizer.xml", "openvino_detokenizer.xml")
MALFORMED = (ValueError, AttributeError, LookupError, TypeError)  # raised by JSON of an unexpected shape
NEEDED = "Get its files again from where they came: safetensors or an OpenVINO IR, config.json, and the tokenizer's."
OTHER_WEIGHTS = "unsafe: its transformers_weights can select a pickle"
NOT_JSON = "not a JSON object in plain UTF-8"
JSON_LIMIT = 2**26  # bytes; the largest known tokenizer.json has 35 MB
# How C, Windows, a quota, and OpenVINO (whose C++ streams give no reason) report a full disk.
NO_SPACE = ("No space left on device", "not enough space on the disk", "quota exceeded", "basic_ios::clear")


def write_manifest(folder: Path, **facts: object) -> None:
    """Write `facts` and the size and SHA-256 of each file in `folder` to its manifest.  Reads every file once."""
    listed = {file.name: {"bytes": file.stat().st_size, "sha256": _hash(file)} for file in _content(folder)}
    atomic_write_text(folder / MANIFEST, json.dumps({"files": listed} | facts, indent=1))


def read_manifest(folder: Path) -> dict:
    """Return the manifest of `folder`, or {} when there is none that can be used."""
    with suppress(OSError, TutorialError, *MALFORMED):
        manifest = read_json(folder / MANIFEST)
        if all(entry["bytes"] >= 0 and entry["sha256"] for entry in manifest.get("files", {}).values()):
            return manifest
    return {}


def read_json(file: Path) -> dict:
    """Return the JSON object in `file`.  For anything else, raises a TutorialError that calls the file damaged."""
    try:
        return parse_json(file.read_bytes() if file.stat().st_size <= JSON_LIMIT else b"")
    except ValueError as error:
        raise damaged_error(str(file.parent), {file.name: NOT_JSON}) from error


def parse_json(data: bytes) -> dict:
    """Return the JSON object in `data`.  Raises ValueError for anything else, however malformed."""

    def integer(text: str) -> int:  # transformers writes int(1e30) for "no limit"
        return int(text if len(text) < 40 else "no number")

    try:
        found = json.loads(data.decode("utf-8"), parse_int=integer)
        json.dumps(found, allow_nan=False)  # refuses NaN, and 1e999, which is infinite
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def read_shards(index: Path) -> set[str]:
    """Return the files that a *.safetensors.index.json lists.  Raises TutorialError or one of MALFORMED.

    A name may not end differently, because transformers would unpickle that file, and may not lead out of the folder.
    """
    names = set(read_json(index)["weight_map"].values())
    if not names or not all(re.fullmatch(r"[^/\\:\0]+\.safetensors", name) for name in names):
        raise ValueError(f"{index.name} lists no safetensors of its folder")
    return names


def reuse(folder: Path, name: str, required: Iterable[str], step: str, report: Report) -> Path:
    """Return the existing `folder` (called `name` in messages), and report that `step` is skipped.

    Raises TutorialError when a file is missing or damaged.  Writes the manifest if there is none, because the folder
    was copied by hand or made by an earlier version.
    """
    if wrong := find_damaged(folder, required):
        raise damaged_error(name, wrong)
    if not read_manifest(folder).get("files"):
        with suppress(TutorialError):  # a read-only folder does without
            write_manifest(folder, **{"adopted": True} | read_manifest(folder))
            report(f"{name} had no valid {MANIFEST}. Its files are complete, so one was written.")
    report(f"{name} is complete; skipping {step}.")
    return folder


def find_damaged(folder: Path, required: Iterable[str], hashes: bool = False) -> dict[str, str]:
    """Return what is wrong with the files of `folder`, {} when nothing is.

    A file that is `required` or in the manifest can be "missing", "of a different size", or, with `hashes`, "changed".
    If no manifest lists it, a required file, a required graph's constants, or the index of the weights is checked by
    its own format, and can be "incomplete" or "malformed"; no other file is checked, because it may have any content.
    """
    noted = read_manifest(folder).get("files", {})
    names, wrong = {*required, *noted}, {}
    more = {WEIGHTS_INDEX} | {f"{name[:-4]}.bin" for name in names if name.endswith(".xml")}
    for name in names | {name for name in more if (folder / name).is_file()}:
        file = folder / name
        if not file.is_file():
            wrong[name] = "missing"
        elif name in noted and file.stat().st_size != noted[name]["bytes"]:
            wrong[name] = "of a different size"
        elif name in noted and hashes and _hash(file) != noted[name]["sha256"]:
            wrong[name] = "changed"
        elif (name not in noted or name == "config.json") and (flaw := _flaw_of(file)):
            wrong[name] = flaw
    return wrong


def selects_weights(config: dict) -> bool:
    """Return whether `config` makes transformers read other weights than those that are checked here."""
    return config.get("transformers_weights") is not None


def damaged_error(folder: str, wrong: dict[str, str], hint_command: str | None = "") -> TutorialError:
    """Return the error for these `wrong` files; `hint_command` makes `folder` again ("": this one, None: nothing)."""
    parts = ", ".join(f"{name} is {why}" for name, why in sorted(wrong.items()))
    then = f": {hint_command}" if hint_command else " run this again."
    hint = NEEDED if hint_command is None else f"Delete that folder, then{then}"
    return TutorialError(f"{folder} is damaged: {parts}.", hint)


def is_ir(folder: Path) -> bool:
    """Return whether `folder` contains a model in OpenVINO IR format."""
    return (folder / "openvino_model.xml").exists()


def _content(folder: Path) -> list[Path]:
    """Return the sorted files of `folder`, without the manifest and hidden files; [] if there is no folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    # The macOS Finder may write .DS_Store at any time, and ._* beside files that it copies.
    return sorted(file for file in files if file.is_file() and file.name != MANIFEST and file.name[0] != ".")


def size(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of the files of `folder` whose names match `pattern`; 0 when there is no folder."""
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def _hash(file: Path, kind="sha256") -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _flaw_of(file: Path) -> str:
    """Return what is wrong with the format of a model's file, such as "incomplete"; "" if nothing is found."""
    try:
        size, data_end = file.stat().st_size, 0
        if file.name == WEIGHTS_INDEX:
            read_shards(file)
        elif file.name == "config.json":
            return OTHER_WEIGHTS if selects_weights(read_json(file)) else ""
        elif file.suffix == ".json":
            read_json(file)
        elif file.suffix == ".xml":
            return "" if file.read_bytes().rstrip().endswith(b"</net>") else "incomplete"
        elif file.suffix == ".bin" and file.with_suffix(".xml").exists():  # the graph has each constant's position
            constants = re.findall(rb'offset="(\d+)" size="(\d+)"', file.with_suffix(".xml").read_bytes())
            data_end = max((int(start) + int(size) for start, size in constants), default=0)
        elif file.suffix == ".safetensors":  # 8 bytes with the header's length, the header as JSON, the data
            with file.open("rb") as stream:
                header_end = data_end = 8 + int.from_bytes(stream.read(8), "little")
                if header_end <= size:
                    header = parse_json(stream.read(min(header_end, JSON_LIMIT) - 8))
                    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
                    data_end += max(ends, default=0)
        return "incomplete" if size < data_end else ""
    except TutorialError:
        return NOT_JSON
    except MALFORMED:
        return "malformed"


@contextmanager
def atomic_directory(target: Path, report: Report = print, keep: bool = False) -> Iterator[Path | None]:
    """Yield an empty folder beside `target` that is renamed to `target` when the block ends without an error.

    Yields None if `target` exists; a lock makes other processes wait.  After an error `target` is not created.  The
    next run removes what a killed process left, or, with `keep`, gets that folder to continue a download.
    """
    if target.exists():
        yield None
        return
    with translate_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"), mode=0o666)  # anyone who can write here can lock
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            report(f"Another process is creating {target.name}; waiting for it.")
            held = lock.acquire()
        with held:
            if target.exists():  # the process that we waited for made it
                yield None
                return
            part = _part_directory(target, keep)
            try:
                yield part
                _rename(part, target)
            finally:
                if not keep:
                    shutil.rmtree(part, ignore_errors=True)


def _part_directory(target: Path, keep: bool) -> Path:
    part = target.with_name(f"{target.name}.part-kept")
    if keep:
        if part.is_symlink() or part.is_file():  # do not write through a link into a different folder
            part.unlink()
        part.mkdir(exist_ok=True)
        return part
    # A new name each time, because a child of a killed process may still be writing into the old folder.
    for stale in target.parent.glob(f"{target.name}.part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    part = target.with_name(f"{target.name}.part-{secrets.token_hex(4)}")
    part.mkdir()  # not mkdtemp, whose folders are private, on Windows also after a chmod: others share a prepared one
    return part


def _rename(part: Path, target: Path) -> None:
    """Rename `part` to `target`; on Windows, retry for several seconds, because a virus scanner may hold a file."""
    for wait in (0.2, 0.5, 1, 2, 4, 0):
        try:
            os.replace(part, target)
            return
        except PermissionError:
            if os.name != "nt" or not wait:
                raise
            time.sleep(wait)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, so that a failure leaves the old file.  Raises TutorialError."""
    # Each writer has its own file.  path.with_name() would fail for ".", which has no name.
    part = path.parent / f"{path.name}.{secrets.token_hex(4)}.part"
    try:
        if path.exists() and not path.is_file():  # a folder, or a device, which a file would replace
            raise TutorialError(f"{path} cannot be written: it is not a file.", "Choose a different name.")
        with translate_os_errors(path):
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except (OSError, ValueError) as error:  # there is no folder to write into, or the name is invalid
        why = getattr(error, "strerror", None) or error
        raise TutorialError(f"{path} cannot be written: {why}.", "Choose a different name.") from error
    finally:
        with suppress(OSError, ValueError):  # the folder itself may be the problem
            part.unlink()


@contextmanager
def translate_os_errors(target: Path) -> Iterator[None]:
    """Raise TutorialError instead of the operating system's errors while the block writes `target`."""
    try:
        yield
    except Exception as error:  # safetensors and OpenVINO report a full disk with their own errors
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or is_disk_full_message(str(error)):
            raise disk_full_error(target) from error
        if code == errno.EFBIG or "File too large" in str(error):
            what = f"A file of {target.name} exceeds the file size limit of this disk (FAT32: 4 GB), or your quota."
            hint = "Set TUTORIAL_MODEL_ROOT to a folder on a disk with NTFS, APFS, ext4 or similar."
            raise TutorialError(what, hint) from error
        if code in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EINVAL):
            what = f"The folder {target.parent} cannot be written to: {error.strerror}."
            hint = "Make it writable. For models, you can also set TUTORIAL_MODEL_ROOT to a folder of your own."
            raise TutorialError(what, hint) from error
        raise


def is_disk_full_message(text: str) -> bool:
    return any(sign in text for sign in NO_SPACE)


def disk_full_error(target: Path) -> TutorialError:
    hint = "Free some space, or set TUTORIAL_MODEL_ROOT to a folder on a larger disk, and run this again."
    return TutorialError(f"The disk filled up while writing {target}; incomplete files are not used.", hint)


def require_disk_space(folder: Path, gib: float) -> float:
    """Return the free GiB on the disk of `folder`, which need not exist yet; below `gib`, raise TutorialError."""
    free = shutil.disk_usage(existing_parent(folder)).free / GIB
    if free < gib:
        what = f"{folder} needs {gib:.1f} GiB of free disk space; {free:.1f} GiB is free."
        raise TutorialError(what, "Free some space, or set TUTORIAL_MODEL_ROOT to a folder on a larger disk.")
    return free


def existing_parent(folder: Path) -> Path:
    """Return `folder` itself if it exists, or the nearest parent that does, or its drive, which may not exist."""
    return next((parent for parent in [folder, *folder.parents] if parent.exists()), Path(folder.anchor))


def check_hash(file: Path, expected: str, kind="sha256") -> None:
    """Raise TutorialError unless `file` has the hash `expected`; `kind` as hashlib.file_digest takes it."""
    if (found := _hash(file, kind)) != expected:
        what = f"{file.name} is not the published file: it has {file.stat().st_size:,} bytes and the hash "
        what += f"{found[:12]}… instead of {expected[:12]}…. It is incomplete, or was changed in transit."
        raise TutorialError(what, "Run this again. If the error persists, tell the operator of your mirror.")


class ProgressLine:
    """One line that a terminal or notebook shows and rewrites during a step; a log file gets only finished lines."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() or "ipykernel" in sys.modules
        self.width, self.text = 0, ""

    def update(self, text: str) -> None:
        if self.live and text != self.text:
            self.text = text
            print("\r" + text.ljust(self.width), end="", flush=True)
            self.width = len(text)

    def finish(self, text: str) -> None:
        print(("\r" if self.live else "") + text.ljust(self.width), flush=True)
        self.width = 0

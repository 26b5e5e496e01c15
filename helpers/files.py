"""What several rooms share: errors that speak to the reader, folders that are whole or absent, one live line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

from helpers.errors import TutorialError

Report = Callable[[str], None]
GIB = 1024**3
# A full disk in the words of C, Windows, a quota, and of OpenVINO, whose C++ streams give no reason.
NO_SPACE = ("No space left on device", "not enough space on the disk", "quota exceeded", "basic_ios::clear")


@contextmanager
def translate_os_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `target` into sentences."""
    try:
        yield
    except Exception as error:  # safetensors and OpenVINO report a full disk by errors of their own
        code = getattr(error, "errno", None)
        if (
            code in (errno.ENOSPC, errno.EDQUOT)
            or getattr(error, "winerror", 0) == 112
            or is_disk_full_message(str(error))
        ):
            raise disk_full_error(target) from error
        if code == errno.EFBIG or "File too large" in str(error):
            raise TutorialError(
                f"{target.name} has a file that is larger than one may be there (FAT32: 4 GB), or than your quota.",
                "Set TUTORIAL_MODEL_ROOT to a folder on a disk with NTFS, APFS, ext4 or the like.",
            ) from error
        if code in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise TutorialError(
                f"The folder {target.parent} cannot be written to: {error.strerror}.",
                "Make it writable. For the models' folder, you can also set TUTORIAL_MODEL_ROOT to one of your own, "
                "or have the model prepared in this one.",
            ) from error
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` so that no reader sees half of it, and a failure leaves nothing.  Raises TutorialError."""
    part = path.parent / f"{path.name}.part"  # not with_name: "." has no name to change
    try:
        with translate_os_errors(path):
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except OSError as error:  # a folder of that name, or none
        raise TutorialError(f"{path} cannot be written: {error.strerror}.", "Choose another name.") from error
    finally:
        with suppress(OSError):  # the folder itself may be the trouble
            part.unlink()


def is_disk_full_message(words: str) -> bool:
    return any(sign in words for sign in NO_SPACE)


def disk_full_error(target: Path) -> TutorialError:
    return TutorialError(
        f"The disk filled up while writing {target}; nothing half-made is in use.",
        "Free some space, or set TUTORIAL_MODEL_ROOT to a folder on a larger disk, and run this again.",
    )


def require_disk_space(folder: Path, gib: float) -> None:
    """Stop before the first byte moves when `folder` (which may not exist yet) has less than `gib` GiB free."""
    there = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(there).free / GIB
    if free < gib:
        raise TutorialError(
            f"{folder} needs {gib:.1f} GiB of free disk and has {free:.1f} GiB.",
            "Free some space, or set TUTORIAL_MODEL_ROOT to a folder on a larger disk.",
        )


def check_hash(file: Path, expected: str, kind="sha256") -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != expected:
        raise TutorialError(
            f"{file.name} is not the file that was published: {file.stat().st_size:,} bytes with hash {found[:12]}…, "
            f"expected {expected[:12]}…. It was cut short, or changed on its way.",
            "Run this again. If it stays so, tell whoever runs your mirror; the file was deleted.",
        )


def find_damaged(folder: Path, wanted: Iterable[str]) -> dict[str, str]:
    """File name -> "missing" or "cut short", for the `wanted` that are not there and those that tell it themselves."""
    if not folder.is_dir():
        return dict.fromkeys(wanted, "missing")
    wrong = {name: "missing" for name in wanted if not (folder / name).exists()}
    return wrong | {file.name: "cut short" for file in folder.iterdir() if file.is_file() and _is_cut_short(file)}


def _is_cut_short(file: Path) -> bool:
    """Whether a model's file shows by itself that its end is missing; False for kinds that cannot tell."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".xml":
            return not file.read_bytes().rstrip().endswith(b"</net>")
        elif file.suffix == ".bin" and file.with_suffix(".xml").exists():  # the graph says where each constant lies
            constants = re.findall(rb'offset="(\d+)" size="(\d+)"', file.with_suffix(".xml").read_bytes())
            return file.stat().st_size < max((int(start) + int(size) for start, size in constants), default=0)
        elif file.suffix == ".safetensors":  # 8 bytes: the length of the head; then the head, as JSON; then the data
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                head = json.loads(stream.read(min(length, file.stat().st_size)))
            ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
            return file.stat().st_size < 8 + length + max(ends, default=0)
    except ValueError:
        return True
    return False


def damaged_error(folder: str, wrong: dict[str, str], again: str = " run this again.") -> TutorialError:
    """The sentence for a folder that has these `wrong` files."""
    parts = ", ".join(f"{name} is {why}" for name, why in sorted(wrong.items()))
    return TutorialError(f"{folder} is damaged: {parts}.", f"Delete that folder, then{again}")


@contextmanager
def atomic_directory(target: Path, report: Report = print, keep: bool = False) -> Iterator[Path | None]:
    """Yield an empty sibling folder that becomes `target` when the block ends well, under a lock.

    Yields None when `target` is there already: a folder that exists is whole.  When the block raises, or the process
    dies, `target` does not appear; what a dead process left is removed by the next one.  With `keep` the half-made
    folder is kept and handed to the next run instead, for a download that can resume.
    """
    if target.exists():
        yield None
        return
    with translate_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"Another process is making {target.name}; waiting for it.")
            lock.acquire()
        try:
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
        finally:
            lock.release()


def _part_directory(target: Path, keep: bool) -> Path:
    part = target.with_name(f"{target.name}.part-kept")
    if keep:
        part.mkdir(exist_ok=True)
        return part
    # A fresh name each time: a child of a killed process may still be writing into the old one.
    for stale in target.parent.glob(f"{target.name}.part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    return Path(mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))


def _rename(part: Path, target: Path) -> None:
    """Rename in one step; Windows refuses while a virus scanner holds a file, so try for a few seconds there."""
    part.chmod(0o755)  # mkdtemp makes it private, but a prepared folder may be shared
    for wait in (0.2, 0.5, 1, 2, 4, 0):
        try:
            os.replace(part, target)
            return
        except PermissionError:
            if os.name != "nt" or not wait:
                raise
            time.sleep(wait)


class ProgressLine:
    """One line that is rewritten while something runs, and kept when a step of it ends.

    In a terminal and in a notebook the line moves; in a log file only the finished lines are written.
    """

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() or "ipykernel" in sys.modules
        self.width = 0

    def update(self, text: str) -> None:
        if self.live:
            print("\r" + text.ljust(self.width), end="", flush=True)
            self.width = len(text)

    def keep(self, text: str) -> None:
        print(("\r" if self.live else "") + text.ljust(self.width), flush=True)
        self.width = 0

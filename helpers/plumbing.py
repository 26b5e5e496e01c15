"""What several rooms share: errors that speak to the reader, folders that are whole or absent, one live line."""

from __future__ import annotations

import ctypes
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
from operator import index
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

Report = Callable[[str], None]
GIB = 1024**3
# A full disk in the words of C, Windows, a quota, and of OpenVINO, whose C++ streams give no reason.
NO_SPACE = ("No space left on device", "not enough space on the disk", "quota exceeded", "basic_ios::clear")
# The folders of a path from the root, as /home/me/ and C:\Users\me\; not those of https://host/ or ./model/.
_NAME = r"[^\s\\/:\"'<>]+"
FROM_ROOT = re.compile(rf"(?:(?<![\w.:/])/|(?<=\w)//|(?<!\w)[A-Za-z]:[\\/])(?:{_NAME}[\\/])+")


NETWORK_CURE = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}.\nThen run this again{more}"
)


class TutorialError(Exception):
    """Something the reader can put right: what happened and why, then what to do."""

    def __init__(self, what: str, cure: str = ""):
        super().__init__(what, cure)
        self.what, self.cure = what, cure

    def __str__(self) -> str:
        return f"{self.what}\n{self.cure}".strip()

    def _render_traceback_(self) -> list[str]:
        """IPython calls this: in a notebook the reader sees the sentence, not forty lines of our code."""
        return [f"{type(self).__name__}: {self}"]


def need_count(value: object, what: str, least: int = 1) -> int:
    """`value`, if it is a whole number of `least` or more.  Raises TutorialError, which calls it `what`."""
    with suppress(TypeError):
        if index(value) >= least:
            return index(value)
    raise TutorialError(f"{what} of {value!r} cannot be.", f"Give a whole number, {least} or more.")


def need_ids(ids: object) -> list[int]:
    """`ids` as a list of whole numbers, none below 0.  Raises TutorialError for anything else, such as text."""
    with suppress(TypeError):  # not to be iterated, or of something else than whole numbers
        found = [index(each) for each in ids]
        if min(found, default=0) >= 0:
            return found
    raise TutorialError("These are not ids of tokens, one after the other.", 'Try tok("…")["input_ids"].')


@contextmanager
def expect(error: type[Exception], words: str) -> Iterator[None]:
    """Require that the block fails with `error` and that its message has `words`; print that message.

    A path from the root in it is cut to its name: a stored page has no folders of the machine that wrote it.
    Raises AssertionError when the block succeeds, or fails in another way: a lesson about a failure needs the failure.
    """
    try:
        yield
    except error as caught:
        assert words in str(caught), f"expected {words!r} in the message, got: {caught}"
        print(f"{type(caught).__name__}: {FROM_ROOT.sub('…/', str(caught)).strip()}")
    else:
        raise AssertionError(f"this should have failed with {error.__name__}")


@contextmanager
def exercise(name: str) -> Iterator[None]:
    """Report whether the checks in the block hold: "solved", or "not yet" and why; a blank never stops the notebook."""
    try:
        yield
    except Exception as error:  # a half-written answer may fail in any way, and each is news for the learner
        print(f"{name}: not yet. {error or type(error).__name__}")
    else:
        print(f"{name}: solved.")


@contextmanager
def readable(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `target` into sentences."""
    try:
        yield
    except Exception as error:  # safetensors and OpenVINO report a full disk by errors of their own
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "winerror", 0) == 112 or says_disk_full(str(error)):
            raise disk_full(target) from error
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


def write_in_one_step(path: Path, text: str) -> None:
    """Write `text` so that no reader sees half of it, and a failure leaves nothing.  Raises TutorialError."""
    part = path.parent / f"{path.name}.part"  # not with_name: "." has no name to change
    try:
        with readable(path):
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except OSError as error:  # a folder of that name, or none
        raise TutorialError(f"{path} cannot be written: {error.strerror}.", "Choose another name.") from error
    finally:
        with suppress(OSError):  # the folder itself may be the trouble
            part.unlink()


def says_disk_full(words: str) -> bool:
    return any(sign in words for sign in NO_SPACE)


def disk_full(target: Path) -> TutorialError:
    return TutorialError(
        f"The disk filled up while writing {target}; nothing half-made is in use.",
        "Free some space, or set TUTORIAL_MODEL_ROOT to a folder on a larger disk, and run this again.",
    )


def need_disk(folder: Path, gib: float) -> None:
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


def damage(folder: Path, wanted: Iterable[str]) -> dict[str, str]:
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


def damaged(folder: str, wrong: dict[str, str], again: str = " run this again.") -> TutorialError:
    """The sentence for a folder that has these `wrong` files."""
    parts = ", ".join(f"{name} is {why}" for name, why in sorted(wrong.items()))
    return TutorialError(f"{folder} is damaged: {parts}.", f"Delete that folder, then{again}")


@contextmanager
def building(target: Path, report: Report = print, keep: bool = False) -> Iterator[Path | None]:
    """Yield an empty sibling folder that becomes `target` when the block ends well, under a lock.

    Yields None when `target` is there already: a folder that exists is whole.  When the block raises, or the process
    dies, `target` does not appear; what a dead process left is removed by the next one.  With `keep` the half-made
    folder is kept and handed to the next run instead, for a download that can resume.
    """
    if target.exists():
        yield None
        return
    with readable(target):
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
            part = _workplace(target, keep)
            try:
                yield part
                _rename(part, target)
            finally:
                if not keep:
                    shutil.rmtree(part, ignore_errors=True)
        finally:
            lock.release()


def _workplace(target: Path, keep: bool) -> Path:
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


def give_back_memory() -> None:
    """Return freed memory to the system.  Does something on Linux with glibc, which by itself keeps most of it.

    A chat's prompts are of many lengths and free blocks of many sizes: 150 MiB were kept after 70 turns.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class LiveLine:
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

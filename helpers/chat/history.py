"""Conversations kept on disk, each as a JSON file in one folder, written as the conversation grows."""

import os
import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from helpers.errors import TutorialError
from helpers.files import atomic_write_text
from helpers.settings import ROOT

VARIABLE = "TUTORIAL_CONVERSATIONS"  # environment variable: a folder to use instead of the project's
INTERVAL = 3.0  # minimum number of seconds between two writes while an answer is generated
LONGEST_NAME = 50  # characters of up to 4 bytes; with ".json.01234567.part" within the 255 bytes of a file name
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
HEAD = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"version":\s*[12]\s*,')


@dataclass(frozen=True)
class Entry:
    """One file of the folder: its name without .json, when it was written, and whether it is damaged."""

    name: str
    modified: str
    damaged: bool


class History:
    """The kept conversations, and the file of the current one, `name`: "" before its first message.

    `problem` says why the last write failed, or is "".  While an answer is generated, the next write is `due` at that
    value of time.monotonic(), chosen so that writing takes at most 2 % of the time.  If a different program has changed
    the file meanwhile, it is left alone, and the conversation continues in a new file.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder or os.environ.get(VARIABLE) or ROOT / "conversations").expanduser()
        self.name, self.problem, self.due = "", "", 0.0
        self._stamp, self._lock = None, RLock()

    def entries(self) -> list[Entry]:
        """Return the kept conversations, newest first.  Only both ends of a file are checked for damage."""
        found = []
        for file in self._files():
            try:
                with file.open("rb") as stream:
                    head = stream.read(64)
                    stream.seek(-min(8, file.stat().st_size), os.SEEK_END)
                    damaged = not (HEAD.match(head) and stream.read().rstrip().endswith(b"}"))
                written = file.stat().st_mtime
            except OSError:  # it may have been deleted meanwhile
                damaged, written = True, 0.0
            name = file.stem.encode(errors="replace").decode()
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(written))
            found.append((written, Entry(name, when, damaged or name != file.stem)))  # not UTF-8: it cannot be sent
        return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def path(self, name: str) -> Path:
        """Return the file of a kept conversation.  Raises TutorialError if there is none with this name."""
        for file in self._files():
            if file.stem == name:
                return file
        raise TutorialError(f"There is no kept conversation {name!r:.80}.", "Choose one from the list.")

    def start(self, name: str = "") -> None:
        """Write to the file `name` from now on, or to a new one."""
        with self._lock:
            self.name, self._stamp, self.problem = name, _stamp(self._file(name)), ""

    def write(self, title: str, text: str) -> None:
        """Write the current conversation; a new one is named after its `title`.  Sets `problem` if that fails."""
        started = time.monotonic()
        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not self.name or _stamp(self._file(self.name)) != self._stamp:
                    self.name = self._unused(title)
                atomic_write_text(self._file(self.name), text)
                self._stamp, self.problem = _stamp(self._file(self.name)), ""
            except (OSError, TutorialError) as error:
                why = error.message if isinstance(error, TutorialError) else f"{self.folder}: {error.strerror}."
                self.problem = f"This conversation is not kept on disk. {why}"
            self.due = time.monotonic() + max(INTERVAL, 50 * (time.monotonic() - started))

    def rename(self, name: str, new: str) -> str:
        """Rename a kept conversation, and return its new name: `new`, changed if it is taken or not a file name."""
        with self._lock, _os_errors(name):
            file = self.path(name)
            if name != (safe := safe_name(new)):
                file.rename(self._file(safe := self._unused(safe)))
            self.name = safe if name == self.name else self.name
            return safe

    def delete(self, name: str) -> None:
        """Delete a kept conversation.  If it is the current one, it is written to a new file when it grows."""
        with self._lock, _os_errors(name):
            self.path(name).unlink()
            if name == self.name:
                self.start()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _files(self) -> list[Path]:
        try:
            return [file for file in self.folder.iterdir() if file.suffix == ".json" and file.is_file()]
        except OSError:  # no folder yet
            return []

    def _unused(self, title: str) -> str:
        name = safe = safe_name(title)
        number = 1
        while self._file(name).exists():
            name = f"{safe} {(number := number + 1)}"
        return name


@contextmanager
def _os_errors(name: str) -> Iterator[None]:
    """Raise TutorialError instead of an OSError in the block."""
    try:
        yield
    except OSError as error:
        what = f"{name} cannot be changed: {error.strerror}."
        raise TutorialError(what, "Check the permissions of its folder.") from error


def safe_name(text: str) -> str:
    """Return the first words of `text` as a file name that is valid on every system."""
    if not isinstance(text, str):
        raise TutorialError("That is not a name.", "Use some words.")
    text = "".join(" " if c in '<>:"/\\|?*' or unicodedata.category(c)[0] in "CZ" else c for c in text[:1000])
    name = " ".join(text.split())[:LONGEST_NAME].strip(" .")
    return (f"{name}_" if RESERVED.fullmatch(name) else name) or "conversation"


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None

"""TutorialError, the redaction of secrets in its text, argument checks that raise it, and shared hints."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import index
from pathlib import Path
from urllib.parse import unquote

NETWORK_HINT = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}.\nThen run this again{more}"
)
HUB_LOGIN_HINT = "If this network has a log-in page, open any web page in a browser first. Check HF_ENDPOINT."
# Characters that a terminal interprets (C0 and C1: they set colours or titles, or clear the screen), and those that
# change the direction of displayed text.
CONTROL_CHARACTERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SECRET_VARIABLE = re.compile("token(?!iz)|passw|secret|api_?key|credential", re.IGNORECASE)
ADDRESS_VARIABLE = re.compile("proxy|url|index|links|endpoint|mirror", re.IGNORECASE)
# What several systems and libraries say when memory is short; OpenVINO's and PyTorch's errors are plain RuntimeErrors.
NO_MEMORY = "bad_?alloc|bad allocation|allocate memory|not enough memory|failed to map|start new thread|out of memory"


def printable(text: str) -> str:
    """Return `text` without the characters that a terminal interprets instead of displaying; newline and tab stay."""
    return CONTROL_CHARACTERS.sub("", text)


def redact(text: str, variables: Mapping[str, str] = os.environ) -> str:
    """Return `text` without passwords, tokens and URL queries: those in `variables`, and what looks like one."""
    for secret in sorted({*_secrets(variables)}, key=len, reverse=True):
        text = text.replace(secret, "…")
    text = re.sub(r"//[^\s/]*@", "//…@", text)
    return re.sub(r"(://[^\s?'\"]+\?)[^\s'\"<>]+", r"\1…", text)  # a redirect may have led to a signed URL


def _secrets(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if SECRET_VARIABLE.search(name) and len(value) > 7:  # not a switch such as "false"
            yield value
        for address in value.split() if "://" in value or ADDRESS_VARIABLE.search(name) else ():
            user, _, host = address.rpartition("@")
            user = user.rpartition("://")[2]
            query = "".join(re.split("[?#]", host, maxsplit=1)[1:])
            # Libraries take some characters of a password for the end of the host, and then print part of the password.
            found = [user, user.partition(":")[2], *re.split(r"[:/?#@\\]|%\w\w", user)[1:], query]
            found += [pair.rpartition("=")[2] for pair in re.split("[?#&]", query)]
            yield from (secret for part in found for secret in (part, unquote(part)) if len(secret) > 3)


def check_addresses(variables: Mapping[str, str] = os.environ) -> None:
    """Raise TutorialError if libraries would print part of the password in the URL of a proxy, index or hub."""
    for name, value in variables.items():
        users = [address.rpartition("@")[0].rpartition("://")[2] for address in value.split()]
        # A number and / after the colon are a port and a path, which may contain @.
        if ADDRESS_VARIABLE.search(name) and any(re.match(r"[^:/]*:(?!\d+/).*[/?#\\]", user) for user in users):
            hint = "In the password, write / as %2F, ? as %3F, # as %23 and \\ as %5C."
            raise TutorialError(f"The password in {name} has a character that a URL cannot contain.", hint)


class TutorialError(Exception):
    """An error that the reader can fix: what happened and why, then what to do.  Its text is safe to print."""

    def __init__(self, message: str, hint: str = ""):
        message, hint = (printable(redact(text)) for text in (message, hint))
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".strip()

    def _render_traceback_(self) -> list[str]:
        """IPython calls this, so that a notebook shows the message instead of a traceback of our code."""
        return [f"{type(self).__name__}: {self}"]


def check_int(value: object, what: str, least: int = 1) -> int:
    """Return `value` as an int.  Unless it is an integer ≥ `least`, raises a TutorialError that calls it `what`."""
    with suppress(TypeError):
        if index(value) >= least:
            return index(value)
    raise TutorialError(f"{what} cannot be {value!r}.", f"Use an integer of {least} or more.")


def check_token_ids(ids: object) -> list[int]:
    """Return `ids` as a list of ints.  Raises TutorialError unless it is a flat sequence of integers ≥ 0."""
    with suppress(TypeError):  # not iterable, or an element is no integer
        found = [index(each) for each in ids]
        if min(found, default=0) >= 0:
            return found
    raise TutorialError("These are not token ids: a token id is an integer of 0 or more.", 'Try tok("…")["input_ids"].')


def cause_of(error: BaseException, folder: Path | None = None) -> TutorialError | None:
    """Return the cause of a failed step if it is memory, permissions, a disk, or the current folder, or else None.

    `folder` is the one whose files were read, because OpenVINO does not report missing permissions.
    """
    chain = [error]
    while (error := error.__cause__ or error.__context__) and error not in chain:
        chain.append(error)
    said, codes = str([*map(str, chain)]), [getattr(error, "errno", None) for error in chain]
    memory = errno.ENOMEM in codes or any(isinstance(error, MemoryError) for error in chain)
    if memory or re.search(NO_MEMORY, said, re.IGNORECASE):
        what = "There is too little free memory, on this machine or within the limit of this process."
        return TutorialError(what, "Close other programs, or choose a smaller model: python -m helpers models")
    try:
        os.getcwd()
    except OSError:  # many libraries call getcwd(), even if all their paths are absolute
        what = "The current folder no longer exists, or cannot be read."
        return TutorialError(what, "Change to an existing folder, such as the project's, then run this again.")
    reasons = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN}
    found = [(error.filename, error.strerror) for error, code in zip(chain, codes, strict=True) if code in reasons]
    with suppress(OSError):
        refused = [file for file in folder.iterdir() if not os.access(file, os.R_OK)] if folder else []
        found += [(file, os.strerror(errno.EACCES)) for file in refused]
    for file, reason in found:
        hint = "The file may be intact. Check its permissions, and that its disk or network drive is connected."
        return TutorialError(f"{file or 'A file'} cannot be read: {reason}.", hint)
    return None

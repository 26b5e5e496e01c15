"""TutorialError, and the checks of arguments that raise it."""

from __future__ import annotations

from contextlib import suppress
from operator import index

NETWORK_HINT = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}.\nThen run this again{more}"
)


class TutorialError(Exception):
    """Something the reader can put right: what happened and why, then what to do."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".strip()

    def _render_traceback_(self) -> list[str]:
        """IPython calls this: in a notebook the reader sees the sentence, not forty lines of our code."""
        return [f"{type(self).__name__}: {self}"]


def check_int(value: object, what: str, least: int = 1) -> int:
    """`value`, if it is a whole number of `least` or more.  Raises TutorialError, which calls it `what`."""
    with suppress(TypeError):
        if index(value) >= least:
            return index(value)
    raise TutorialError(f"{what} of {value!r} cannot be.", f"Give a whole number, {least} or more.")


def check_token_ids(ids: object) -> list[int]:
    """`ids` as a list of whole numbers, none below 0.  Raises TutorialError for anything else, such as text."""
    with suppress(TypeError):  # not to be iterated, or of something else than whole numbers
        found = [index(each) for each in ids]
        if min(found, default=0) >= 0:
            return found
    raise TutorialError("These are not ids of tokens, one after the other.", 'Try tok("…")["input_ids"].')

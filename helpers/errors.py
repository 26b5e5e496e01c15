"""TutorialError, the checks of arguments that raise it, and hints that several errors share."""

from contextlib import suppress
from operator import index

NETWORK_HINT = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}.\nThen run this again{more}"
)
HUB_LOGIN_HINT = "Does this network have a log-in page? Open a web page in a browser first. Or is HF_ENDPOINT wrong?"


class TutorialError(Exception):
    """An error that the reader can fix: what happened and why, then what to do."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".strip()

    def _render_traceback_(self) -> list[str]:
        """IPython calls this, so that a notebook shows the message instead of a traceback of our code."""
        return [f"{type(self).__name__}: {self}"]


def check_int(value: object, what: str, least: int = 1) -> int:
    """Return `value` as an int.  Raises TutorialError, which calls it `what`, unless it is an integer ≥ `least`."""
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
    raise TutorialError("These are not ids of tokens, which are integers of 0 or more.", 'Try tok("…")["input_ids"].')

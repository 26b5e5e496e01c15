"""What pages use to show a failure on purpose and to check an exercise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# The folders of a path from the root, as /home/me/ and C:\Users\me\; not those of https://host/ or ./model/.
_NAME = r"[^\s\\/:\"'<>]+"


ABSOLUTE_PATH = re.compile(rf"(?:(?<![\w.:/])/|(?<=\w)//|(?<!\w)[A-Za-z]:[\\/])(?:{_NAME}[\\/])+")


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
        print(f"{type(caught).__name__}: {ABSOLUTE_PATH.sub('…/', str(caught)).strip()}")
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

"""Context managers with which a page shows a failure on purpose, or checks an exercise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = r"[^\s\\/:\"'<>]+"
# The folders of an absolute path, such as /home/me/ or C:\Users\me\, but not those of https://host/ or ./model/.
ABSOLUTE_PATH = re.compile(rf"(?:(?<![\w.:/])/|(?<=\w)//|(?<!\w)[A-Za-z]:[\\/])(?:{_NAME}[\\/])+")


@contextmanager
def expect(error: type[Exception], words: str) -> Iterator[None]:
    """Require that the block raises `error` with `words` in its message; print the message.

    Absolute paths are shortened to the file's name, because a stored page must not show its author's folders.
    Raises AssertionError when the block does not fail, or the message lacks `words`; other errors pass through.
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
    """Print whether the checks in the block pass: "solved", or "not yet" with the reason; never stop the notebook."""
    try:
        yield
    except Exception as error:  # an unfinished answer may fail in any way
        print(f"{name}: not yet: {str(error) or type(error).__name__}")
    else:
        print(f"{name}: solved.")

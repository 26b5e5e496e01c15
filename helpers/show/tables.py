"""Tables and sources: what reads best as text."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from IPython.display import Markdown

from helpers.errors import TutorialError


def table(rows: Iterable[Mapping[str, object]]) -> Markdown:
    """A table with a row per mapping; the first one's keys are the head."""
    if not (rows := list(rows)):
        raise TutorialError("A table of no rows has no head either.", "Give it one mapping at least.")
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name] for name in head] for row in rows)]
    return Markdown("\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines))


def facts(values: Mapping[str, object]) -> Markdown:
    """A table of two columns, a row per name."""
    return table({"": name, " ": value} for name, value in values.items())


def _cell(value: object) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def source(thing: object) -> Markdown:
    """The source of a function or class as it stands in the project: shown, not copied."""
    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")

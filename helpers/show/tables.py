"""Tables and sources: what reads best as text."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from IPython.display import HTML, Markdown

from helpers.errors import TutorialError, printable

INERT = 'class="tex2jax_ignore mathjax_ignore"'  # JupyterLab would render text between two $ as a formula
CELL = 'style="text-align:left;white-space:pre-wrap"'


class Marked(HTML):
    """HTML on a page; in a terminal or a diff, the same in plain text."""

    def __init__(self, html: str, text: str):
        super().__init__(html)
        self.text = text

    def __repr__(self) -> str:
        return self.text


def table(rows: Iterable[Mapping[str, object]]) -> Marked:
    """Return a table with a row per mapping; the keys of the first are its header.  Cells are text, never markup."""
    rows = list(rows)
    head = list(rows[0]) if rows else []
    return _table(head, [[row[name] for name in head] for row in rows])


def facts(values: Mapping[str, object]) -> Marked:
    """Return a table without a header: a row per name and its value."""
    return _table([], list(values.items()))


def _table(head: list, rows: list[Sequence]) -> Marked:
    if not rows:
        raise TutorialError("A table of no rows cannot be drawn.", "Pass at least one row.")
    cells = [[f"{v:,.4g}" if isinstance(v, float) else printable(str(v)) for v in row] for row in [head, *rows]]
    html = ""
    for row, tag in zip(cells, ["th", *["td"] * len(rows)], strict=True):
        html += "<tr>" + "".join(f"<{tag} {CELL}>{escape(cell)}</{tag}>" for cell in row) + "</tr>" if row else ""
    return Marked(f"<table {INERT}>{html}</table>", "\n".join(" | ".join(row) for row in cells if row))


def source(thing: object) -> Markdown:
    """Return the source of a function, class or module as it stands in the project."""
    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")

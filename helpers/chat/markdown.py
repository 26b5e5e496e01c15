"""Markdown → HTML that is safe to show, whether a model, a person, or a quoted web page wrote the text."""

from __future__ import annotations

import re
from functools import lru_cache

import mistune
from mistune.plugins import table
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

# Formulas as models write them, in which nothing is Markdown.  The limit is for many beginnings without an end.
FORMULA = r"\\\((?:[^\\]|\\[^()]){1,2000}\\\)|\\\[(?:[^\\]|\\[^\[\]]){1,2000}\\\]|\$\$[^$]{1,2000}\$\$"
INLINE_FORMULA = FORMULA + r"|\$(?=\S)(?:[^$\n`\\]|\\.){1,2000}?(?<=\S)\$(?!\d)"  # not "$5 or $6"
INLINE_FORMULA += r"|\\[()\[\]]"  # of a formula that is still being written
BLOCK_FORMULA = rf"^ {{0,3}}(?:{FORMULA})[ \t]*(?:\n|$)"
SAFE_LINK = re.compile(r"(?:https?://|mailto:)[!-~]+", re.IGNORECASE)  # anything else stays text


def render(text: str) -> str:
    """Return the HTML of `text`: raw HTML is shown as text, an image as its alternative text, code with colours.

    `text` may end anywhere, as an answer in progress does.  Links lead to http, https or mailto and open in a new tab;
    nothing else in the HTML has an address, so that showing it loads nothing.
    """
    return _markdown(text.encode("utf-8", "replace").decode())  # half of a surrogate pair cannot be sent to a browser


class _SafeRenderer(mistune.HTMLRenderer):
    """mistune's renderer, which escapes raw HTML, without anything that loads, runs, or sets a name or a style."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not SAFE_LINK.fullmatch(url):
            return text
        return f'<a href="{mistune.escape(url)}" target="_blank" rel="noopener noreferrer">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text

    def heading(self, text: str, level: int, **attrs) -> str:
        level = min(level + 2, 6)  # the larger ones belong to the page around the answer
        return f"<h{level}>{text}</h{level}>\n"

    def block_html(self, html: str) -> str:
        return "<p>" + mistune.escape(html.strip()).replace("\n", "<br />\n") + "</p>\n"

    def block_code(self, code: str, info: str | None = None) -> str:
        language = (info or "").split()[:1]
        return f'<pre class="highlight"><code>{_coloured(code, *language)}</code></pre>\n'


@lru_cache(256)
def _coloured(code: str, language: str = "") -> str:
    """Return `code` as HTML with Pygments' classes; cached, because an answer is rendered often while it grows."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


# Models break lines on purpose, as in verse: hard_wrap keeps them.
_markdown = mistune.create_markdown(
    renderer=_SafeRenderer(escape=True), plugins=["table", "strikethrough"], hard_wrap=True
)
# To Markdown, a line above a dash is a heading; while an answer is streamed, it is a list whose first item is to come.
for _rules in (_markdown.block.rules, _markdown.block.block_quote_rules, _markdown.block.list_rules):
    _rules.remove("setex_heading")


def _parse_table(_, match: re.Match, state) -> int | None:
    """Parse a table whose rows may be short, long, or still being written; mistune would make it no table at all."""
    line, bar = state.get_line(match.end()), match[0].lstrip().startswith("|")
    head, aligns = table._process_thead(_inside(match[0]), _inside(line))
    if not head or "|" not in line:
        return None
    rows, position = [], match.end() + len(line)
    while "|" in (line := state.get_line(position)) and (not bar or line.lstrip().startswith("|")):
        cells, n = table._split_table_cells(_inside(line)), len(aligns)
        cells = [*cells[: n - 1], " | ".join(cells[n - 1 :]), *[""] * n][:n]  # what is too much stays in the last
        attrs = [{"align": align, "head": False} for align in aligns]
        row = [{"type": "table_cell", "text": text, "attrs": each} for text, each in zip(cells, attrs, strict=True)]
        rows.append({"type": "table_row", "children": row})
        position += len(line)
    state.append_token({"type": "table", "children": [head, {"type": "table_body", "children": rows}]})
    return position


def _inside(line: str) -> str:
    return re.sub(r"^\||(?<!\\)\|$", "", line.strip())


def _keep(kind: str):
    return lambda _, match, state: state.append_token({"type": kind, "raw": match[0]}) or match.end()


_markdown.block.register("table", table.TABLE_PATTERN, _parse_table)
_markdown.block.register("nptable", table.NP_TABLE_PATTERN, _parse_table)
# Raw HTML is what is shown as it is.
_markdown.block.register("formula", BLOCK_FORMULA, _keep("block_html"), before="fenced_code")
_markdown.inline.register("formula", INLINE_FORMULA, _keep("inline_html"), before="escape", start_chars=("\\", "$"))

"""Markdown → HTML that is safe to show, whether a model, a person, or a quoted web page wrote the text."""

import re
from functools import lru_cache

import mistune
from mistune.plugins import table
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

from helpers.chat.formula import to_mathml

# Formulas as models write them; nothing inside is parsed as Markdown.  The length limit keeps matching fast when many
# formulas are opened and not closed.
FORMULA = r"\\\((?:[^\\]|\\[^()]){1,2000}\\\)|\\\[(?:[^\\]|\\[^\[\]]){1,2000}\\\]|\$\$[^$]{1,2000}\$\$"
DOLLARS = r"\$(?=\S)(?:[^$\n`\\]|\\.){1,2000}?(?<=\S)\$(?!\d)"  # not "$5 or $6"
INLINE_FORMULA = rf"{FORMULA}|{DOLLARS}|\\[()\[\]]"  # the last: a delimiter of a formula that is not closed
BLOCK_FORMULA = rf"^ {{0,3}}(?:{FORMULA})[ \t]*(?:\n|$)"
FOLDED = 60  # code with this many lines or more is folded
SAFE_LINK = re.compile(r"(?:https?://|mailto:)[!-~]+", re.IGNORECASE)  # anything else stays text


def render(text: str) -> str:
    """Return the HTML of `text`: raw HTML is shown as text, an image as its alternative text, LaTeX as MathML.

    Links lead to http, https or mailto and open in a new tab; nothing else in the HTML has a URL, so displaying it
    loads nothing.  A code block has a button of class "copy", and data-language: Pygments' name for the language or "".
    """
    return _markdown(text.encode("utf-8", "replace").decode())  # a lone surrogate cannot be sent to a browser


FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
# A formula that is not closed yet: it extends to the end of its paragraph, but after "$", which may be money, for at
# most 81 characters.
OPEN = rf"(?:{FORMULA}|{DOLLARS})|`[^`]*`|(?P<open>\\[(\[](?:(?!\n\n)[\s\S])*\Z|\$\$(?:(?!\n\n)[\s\S])*\Z"
OPEN_FORMULA = re.compile(OPEN + r"|(?<!\w)\$(?:[^\s\d$`][^$\n`]{0,80})?\Z|\\\Z)")


def render_draft(text: str) -> str:
    """Return the HTML of an answer in progress, whose last table, fence or formula may be half-written.

    A formula is shown once it is complete, and a table from its first row on; a half-written fence is left out.
    """
    start = text.rfind("\n") + 1
    if re.fullmatch(" {0,3}(?:`{1,2}|~{1,2})", text[start:]):
        text = text[:start]
    fence, code_end = "", 0
    for match in FENCE.finditer(text):
        if not fence:
            fence = match[1]
        elif match[1].startswith(fence) and not match[2].strip():
            fence, code_end = "", match.end()
    if fence:
        return render(text[: text.rfind(fence) + len(fence)] if FENCE.fullmatch(text[start:]) else text)
    paragraph = max(text.rfind("\n\n") + 1, code_end)
    found = next((match for match in OPEN_FORMULA.finditer(text, paragraph) if match["open"]), None)
    return render(_complete_table(text[: found.start()] if found else text))


def _complete_table(text: str) -> str:
    """Return `text` with the delimiter row that makes its last line, or last two, the beginning of a table."""
    *lines, last = text.split("\n")
    dashes = ""
    if last.strip() == "|" and lines and "|" not in lines[-1]:  # only the start of a first row
        return "\n".join(lines)
    if lines and re.fullmatch("[ \t:|-]*", last):
        *lines, last, dashes = *lines, last
    columns = len(_inside(last).split("|"))
    complete = (
        re.fullmatch(r"(?:[ \t]*:?-+:?[ \t]*\|?)+", _inside(dashes)) and _inside(dashes).count("|") + 1 == columns
    )
    if "|" not in last or lines and "|" in lines[-1] or complete or not (dashes.strip() or last.lstrip()[0] == "|"):
        return text
    return "\n".join([*lines, f"|{_inside(last)} |", "|" + "---|" * columns])


class _SafeRenderer(mistune.HTMLRenderer):
    """mistune's renderer with raw HTML escaped; its output loads and runs nothing, and sets no ids, names or styles."""

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
        language, coloured = _coloured(code, *(info or "").split()[:1])
        pre, lines = f'<pre class="highlight"><code>{coloured}</code></pre>', code.count("\n")
        if lines >= FOLDED:
            pre = f"<details><summary>{lines} lines</summary>{pre}</details>"
        copy = '<button type="button" class="copy" aria-label="Copy code"></button>'
        return f'<div class="code" data-language="{language}">{copy}{pre}</div>\n'

    def formula(self, tex: str) -> str:
        block = tex.startswith(("\\[", "$$"))
        inside = tex[1:-1] if tex[0] == "$" and not block else tex[2:-2]
        return to_mathml(inside, block) or mistune.escape(tex)

    def block_formula(self, tex: str) -> str:
        return f"<p>{self.formula(tex.strip())}</p>\n"

    def task_list_item(self, text: str, checked: bool = False) -> str:
        sign = "\N{BALLOT BOX WITH CHECK}" if checked else "\N{BALLOT BOX}"
        return f'<li class="task">{sign} {text}</li>\n'


@lru_cache(256)
def _coloured(code: str, language: str = "") -> tuple[str, str]:
    """Return the name of the language, and `code` as HTML with Pygments' classes.

    Cached, because an answer is rendered often while it grows.
    """
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    name = "" if isinstance(lexer, TextLexer) else mistune.escape(lexer.name)
    return name, highlight(code, lexer, HtmlFormatter(nowrap=True))


# Models break lines on purpose, as in verse: hard_wrap keeps them.
_markdown = mistune.create_markdown(
    renderer=_SafeRenderer(escape=True), plugins=["table", "strikethrough", "task_lists", "url"], hard_wrap=True
)
# Markdown turns a line above a dash into a heading (setext); in a streamed answer, the dash is the start of a list.
for _rules in (_markdown.block.rules, _markdown.block.block_quote_rules, _markdown.block.list_rules):
    _rules.remove("setex_heading")


def _parse_table(_, match: re.Match, state) -> int | None:
    """Parse a table whose rows may be short, long, or still being written; mistune would not parse it as a table."""
    line, bar = state.get_line(match.end()), match[0].lstrip().startswith("|")
    head, aligns = table._process_thead(_inside(match[0]), _inside(line))
    if not head or "|" not in line:
        return None
    rows, position = [], match.end() + len(line)
    while "|" in (line := state.get_line(position)) and (not bar or line.lstrip().startswith("|")):
        cells, n = table._split_table_cells(_inside(line)), len(aligns)
        cells = [*cells[: n - 1], " | ".join(cells[n - 1 :]), *[""] * n][:n]  # extra cells are joined into the last
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
_markdown.block.register("formula", BLOCK_FORMULA, _keep("block_formula"), before="fenced_code")
_markdown.inline.register("formula", INLINE_FORMULA, _keep("formula"), before="escape", start_chars=("\\", "$"))

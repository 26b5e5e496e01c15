"""Markdown → HTML that is safe to show, whether a model, a person, or a quoted web page wrote the text."""

from __future__ import annotations

import re
from functools import lru_cache

import mistune
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

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

"""Markdown → HTML that is safe to show, whoever wrote it: a model, a person, or a page that one of them quotes."""

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
    """The HTML of `text`: raw HTML is shown as it stands, pictures as their alternative text, code with colours.

    A text may be cut off anywhere, as one is that is still being written.  Links go to http, https or mailto and open
    in a new tab; nothing else in the HTML has an address, so that showing it loads nothing.
    """
    return _markdown(text.encode("utf-8", "replace").decode())  # half of a surrogate pair cannot be sent to a browser


class _SafeRenderer(mistune.HTMLRenderer):
    """mistune's, escaping all that is raw, without what could load, run, or take a name or a style from the text."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not SAFE_LINK.fullmatch(url):
            return text
        return f'<a href="{mistune.escape(url)}" target="_blank" rel="noopener noreferrer">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text

    def heading(self, text: str, level: int, **attrs) -> str:
        level = min(level + 2, 6)  # the page that the answer is shown on has the larger ones
        return f"<h{level}>{text}</h{level}>\n"

    def block_html(self, html: str) -> str:
        return "<p>" + mistune.escape(html.strip()).replace("\n", "<br />\n") + "</p>\n"

    def block_code(self, code: str, info: str | None = None) -> str:
        language = (info or "").split()[:1]
        return f'<pre class="highlight"><code>{_coloured(code, *language)}</code></pre>\n'


@lru_cache(256)
def _coloured(code: str, language: str = "") -> str:
    """`code` with Pygments' classes; remembered, since an answer is rendered many times while it grows."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def _parser() -> mistune.Markdown:
    # Models break lines where they mean it, as in verse: hard_wrap keeps them.
    parser = mistune.create_markdown(
        renderer=_SafeRenderer(escape=True), plugins=["table", "strikethrough"], hard_wrap=True
    )
    # A line with a dash below is a heading to Markdown; to a model it is a list whose first item is not there yet.
    for rules in (parser.block.rules, parser.block.block_quote_rules, parser.block.list_rules):
        rules.remove("setex_heading")
    return parser


_markdown = _parser()

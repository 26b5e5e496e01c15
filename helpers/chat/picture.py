"""A chat box as static HTML, for viewers that show only the stored outputs of a notebook."""

import html
from collections.abc import Sequence

from helpers.chat.markdown import render
from helpers.chat.messages import Message, stats_line

FRAME = "max-width: 46em; padding: 8px 14px; border: 1px solid #8886; border-radius: 10px"
BUBBLE = "width: fit-content; padding: 6px 12px; border-radius: 12px; "
BUBBLES = {
    "user": BUBBLE + "margin: 10px 0 10px auto; background: #1e88e53d",
    "assistant": BUBBLE + "margin: 10px 0; background: #8882",
}


def to_html(about: str, messages: Sequence[Message]) -> str:
    """Return `messages` as HTML, below the line `about`; as in the box, HTML inside messages is shown as text."""
    parts = [f"<p><b>{html.escape(about or 'Chat')}</b></p>"]
    for message in messages:
        user = message.role == "user"
        text = f"<p>{html.escape(message.content)}</p>" if user else render(message.answer)
        stats = "" if user or not message.stats else f"<small>{stats_line(message.stats)}</small>"
        parts.append(f'<div style="{BUBBLES[message.role]}"><b>{"You" if user else "Answer"}</b>{text}{stats}</div>')
    return f'<div style="{FRAME}">{"".join(parts)}</div>'

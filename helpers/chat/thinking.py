"""Thoughts that a model generates before its answer: where they begin and end in its text, also in a stream."""

import re
from collections.abc import Iterable, Iterator

from helpers.decode import partial_match_length

CLOSING = re.compile(r"</[\w:]*think\w*>|\[/think\w*\]", re.IGNORECASE)
Tags = tuple[str, str]


def thought_tags(tok) -> Tags:
    """Return the tags around a thought: those in the chat template or the added tokens, else <think> and </think>."""
    source = " ".join([str(tok.chat_template), *(token.content for token in tok.added_tokens_decoder.values())])
    closing = found[0] if (found := CLOSING.search(source)) else "</think>"
    return closing.replace("/", "", 1), closing


def find_thought(text: str, tags: Tags, inside: bool = False) -> tuple[int, int, int]:
    """Return where in `text` the thought begins and ends, and where the answer begins; zeros without a thought.

    A thought comes first in the text.  If the prompt ends with the opening tag, the text is `inside` the thought from
    its first character on.  White space around a thought, and line breaks before the answer, belong to neither.
    """
    return _find(text, tags, inside)[:3]


def _find(text: str, tags: Tags, inside: bool) -> tuple[int, int, int, bool]:
    """Return the positions of find_thought, and whether the answer has begun: there is no thought, or it has ended."""
    opening, closing = tags
    lead = len(text) - len(text.lstrip())
    opened = text.startswith(opening, lead)
    if not (opened or inside):
        return 0, 0, 0, True
    start = lead + len(opening) if opened else 0
    close = text.find(closing, start)
    end = close if close >= 0 else len(text)
    start = end - len(text[start:end].lstrip())
    answer = len(text) - len(text[end:].removeprefix(closing).lstrip("\n"))
    return start, start + len(text[start:end].rstrip()), answer, close >= 0


def split_thought(texts: Iterable[str], tags: Tags, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the text of `texts` in pieces, and for each whether it belongs to the thought; tags are left out.

    The pieces of each kind, joined, are what find_thought finds in the complete text.
    """
    text, shown, chunks = "", 0, iter(texts)
    for chunk in chunks:
        text += chunk
        lead = text.lstrip()
        if len(lead) < len(tags[0]) and tags[0].startswith(lead):  # it may become the opening tag
            continue
        start, end, answer, begun = _find(text, tags, inside)
        if not begun:
            end = len(text[: len(text) - partial_match_length(tags[1], text)].rstrip())
        shown = max(shown, start)
        if end > shown:
            yield text[shown:end], True
            shown = end
        if begun and text[answer:]:
            yield text[answer:], False
            break
    else:
        start, end, answer_start = find_thought(text, tags, inside)
        for piece, is_thought in ((text[max(shown, start) : end], True), (text[answer_start:], False)):
            if piece:
                yield piece, is_thought
    for chunk in chunks:
        yield chunk, False

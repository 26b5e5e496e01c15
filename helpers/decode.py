"""A stream of ids → a stream of printable text: whole characters, as early as they are certain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from helpers.plumbing import TutorialError, need_ids

HALF = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no character, or not yet, decode to
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that is one byte, in vocabularies of Llama's and Phi-3's kind


def pieces(tok, ids: Iterable[int], skip_special_tokens: bool = True, stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of `ids` as it becomes certain; all pieces together are tok.decode(list(ids)).

    With `stop` strings the text ends before the one that is complete first, and no more ids are asked for; a piece
    that could begin one is held back until it is decided.  Raises TutorialError for a stop that is no list of strings,
    or has an empty one, and when it comes upon something that is no id.
    """
    if isinstance(stop, str) or not all(isinstance(word, str) and word for word in stop):
        raise TutorialError(f"{stop!r} is no list of stop strings.", 'Give ["…"]; an empty one would stop at once.')
    ids = ids if isinstance(ids, Iterable) else need_ids(ids)
    return _until(stop, _settled(tok, ids, skip_special_tokens))


def _settled(tok, ids: Iterable[int], skip_special_tokens: bool) -> Iterator[str]:
    """What no later id can change, id by id.

    Only a window of the last ids is decoded, so that the thousandth costs what the first did.  Four are enough to
    begin in the midst of a text: a character has at most four bytes, and a token at least one.
    """
    special = {index for index, token in tok.added_tokens_decoder.items() if token.special}
    window, shown = [], 0  # `shown` characters of the window's text have been given away
    for index in ids:
        (index,) = need_ids([index])
        token = tok.convert_ids_to_tokens(index)
        if token is None or skip_special_tokens and index in special:  # decoding leaves out both
            continue
        window.append(index)
        if BYTE.fullmatch(token):
            continue  # a run of byte tokens is decoded as one: a bad byte at its end spoils all of it
        yield _certain(tok.decode(window))[shown:]
        window = window[-4:]
        shown = len(_certain(tok.decode(window)))
    yield tok.decode(window)[shown:]


def _certain(text: str) -> str:
    """`text` without a last character that may be the first bytes of another."""
    return text.removesuffix(HALF)


def _until(stop: Sequence[str], texts: Iterable[str]) -> Iterator[str]:
    """`texts` up to the stop string that is complete first (of several that end there the longest), no empty one."""
    held = ""
    for text in texts:
        held += text
        found = [(at + len(word), at) for word in stop if (at := held.find(word)) >= 0]
        if found:
            held = held[: min(found)[1]]
            break
        certain = len(held) - max((_begun(word, held) for word in stop), default=0)
        if certain:
            yield held[:certain]
            held = held[certain:]
    if held:
        yield held


def _begun(word: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `word`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)

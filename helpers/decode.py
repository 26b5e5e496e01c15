"""A stream of ids → a stream of printable text: whole characters, as early as they are certain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from unicodedata import category

from helpers.errors import TutorialError, check_token_ids

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no character, or not yet, decode to
VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}  # how white space is drawn
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")  # a token that is one byte, in vocabularies of Llama's and Phi-3's kind


def stream_decode(tok, ids: Iterable[int], skip_special_tokens: bool = True, stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of `ids` as it becomes certain; all pieces together are tok.decode(list(ids)).

    With `stop` strings the text ends before the one that is complete first, and no more ids are asked for; a piece
    that could begin one is held back until it is decided.  Raises TutorialError for a stop that is no list of strings,
    or has an empty one, and when it comes upon something that is no id.
    """
    if isinstance(stop, str) or not all(isinstance(word, str) and word for word in stop):
        raise TutorialError(f"{stop!r} is no list of stop strings.", 'Give ["…"]; an empty one would stop at once.')
    ids = ids if isinstance(ids, Iterable) else check_token_ids(ids)
    return _stop_at(stop, _decode_incrementally(tok, ids, skip_special_tokens))


def _decode_incrementally(tok, ids: Iterable[int], skip_special_tokens: bool) -> Iterator[str]:
    """What no later id can change, id by id.

    Only a window of the last ids is decoded, so that the thousandth costs what the first did.  Four are enough to
    begin in the midst of a text: a character has at most four bytes, and a token at least one.
    """
    special = {index for index, token in tok.added_tokens_decoder.items() if token.special}
    window, shown = [], 0  # `shown` characters of the window's text have been given away
    for index in ids:
        (index,) = check_token_ids([index])
        token = tok.convert_ids_to_tokens(index)
        if token is None or skip_special_tokens and index in special:  # decoding leaves out both
            continue
        window.append(index)
        if BYTE_TOKEN.fullmatch(token):
            continue  # a run of byte tokens is decoded as one: a bad byte at its end spoils all of it
        yield _complete_characters(tok.decode(window))[shown:]
        window = window[-4:]
        shown = len(_complete_characters(tok.decode(window)))
    yield tok.decode(window)[shown:]


def _complete_characters(text: str) -> str:
    """`text` without a last character that may be the first bytes of another."""
    return text.removesuffix(REPLACEMENT_CHARACTER)


def _stop_at(stop: Sequence[str], texts: Iterable[str]) -> Iterator[str]:
    """`texts` up to the stop string that is complete first (of several that end there the longest), no empty one."""
    held = ""
    for text in texts:
        held += text
        found = [(at + len(word), at) for word in stop if (at := held.find(word)) >= 0]
        if found:
            held = held[: min(found)[1]]
            break
        certain = len(held) - max((_partial_match_length(word, held) for word in stop), default=0)
        if certain:
            yield held[:certain]
            held = held[certain:]
    if held:
        yield held


def _partial_match_length(word: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `word`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)


def token_bytes(tok, token_id: int) -> bytes:
    """The bytes of text that a token stands for; of a control token those of its name, of a row without text none."""
    piece = tok.convert_ids_to_tokens(token_id) or ""
    if token_id in tok.added_tokens_decoder:
        return piece.encode()
    if type(tok.backend_tokenizer.decoder).__name__ == "ByteLevel":  # SmolLM2: one letter per byte, Ġ for a space
        return bytes(_byte_of_letter()[letter] for letter in piece)
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):  # Phi-3: letters, ▁ for a space, and 256 tokens of one byte each
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


@cache
def _byte_of_letter() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # heavy, and only pages about tokens need it

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def token_label(tok, token_id: int) -> tuple[str, str]:
    """Return a token's text with its white space drawn, and its kind: "text", "control", or "part" of a character."""
    data = token_bytes(tok, token_id)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex(" ").upper(), "part"
    text = "".join(VISIBLE.get(c) or (c if c.isprintable() else f"U+{ord(c):04X}") for c in text)
    if text and category(text[0]).startswith("M"):
        text = "◌" + text  # an accent needs a letter to sit on
    return text, "control" if token_id in tok.added_tokens_decoder else "text"

"""A stream of ids → a stream of text: complete characters, as soon as no later id can change them."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from os.path import commonprefix
from unicodedata import category

from helpers.errors import TutorialError, check_token_ids

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what incomplete or invalid bytes decode to
VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}  # how white space is displayed
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")  # a token that is one byte, in vocabularies such as Llama's and Phi-3's


def stream_decode(
    tok, ids: Iterable[int], skip_special_tokens: bool = True, stop: Sequence[str] = (), kept: int = 0
) -> Iterator[str]:
    """Return an iterator over the text of `ids` in chunks; joined, they equal tok.decode(list(ids)).

    With `stop` strings, the text ends before the first one that is complete, and no more ids are requested.  Text that
    may be the start of one is held back.  The first `kept` characters are not searched.  Raises TutorialError for a
    `stop` that is not a list of non-empty strings, and during the iteration for a value that is not an id.  For
    StreamDecoder, a None in `ids` yields a None.
    """
    if isinstance(stop, str) or not all(isinstance(word, str) and word for word in stop):
        raise TutorialError(f"stop cannot be {stop!r}.", 'Use a list of non-empty strings: ["…"].')
    ids = ids if isinstance(ids, Iterable) else check_token_ids(ids)
    if not getattr(tok, "clean_up_tokenization_spaces", False):
        return _stop_at(stop, kept, _decode_incrementally(tok, tok.decode, ids, skip_special_tokens))
    decode = partial(tok.decode, clean_up_tokenization_spaces=False)
    return _stop_at(stop, kept, _clean_up(tok, _decode_incrementally(tok, decode, ids, skip_special_tokens)))


class StreamDecoder:
    """stream_decode for ids that are pushed to it, because a server cannot block in an iterator."""

    def __init__(self, tok, stop: Sequence[str] = (), kept: int = 0) -> None:
        self._ids, self._last = deque(), False
        self._texts = stream_decode(tok, iter(self._take, StopIteration), stop=stop, kept=kept)
        self.taken, self.ended = 0, False  # how many ids were decoded; whether the text is complete

    def push(self, ids: Iterable[int], last: bool = False) -> str:
        """Add `ids` and return the text that is now final; after the `last` ids, or a stop string, it is complete."""
        self._ids.extend(ids)
        self._last = last
        text = ""
        for piece in self._texts:
            if piece is None:
                return text
            text += piece
        self.ended = True
        return text

    def _take(self):
        if not self._ids:
            return StopIteration if self._last else None
        self.taken += 1
        return self._ids.popleft()


def _clean_up(tok, texts: Iterable[str | None]) -> Iterator[str | None]:
    """Yield `texts` after tok.clean_up_tokenization, which removes spaces such as those in "it 's" and "x !".

    It looks at a few characters after a space, so text may still change from the first space in the last 8 characters.
    """
    text, yielded = "", 0
    for piece in texts:
        if piece is None:
            yield None
            continue
        text += piece
        space = text.find(" ", max(0, len(text) - 8))
        settled = text if space < 0 else text[:space]
        certain = len(commonprefix([tok.clean_up_tokenization(settled), tok.clean_up_tokenization(text)]))
        if certain > yielded:
            yield tok.clean_up_tokenization(text)[yielded:certain]
            yielded = certain
    yield tok.clean_up_tokenization(text)[yielded:]


def _decode_incrementally(tok, decode: Callable, ids: Iterable[int], skip_special_tokens: bool) -> Iterator[str]:
    """Yield, id by id, the text that no later id can change.

    Only a window of the last ids is decoded, so each token takes the same time.  Four ids before the current one are
    enough context, because a character has at most four bytes, and a token has at least one.
    """
    special = {index for index, token in tok.added_tokens_decoder.items() if token.special}
    window, yielded = [], 0  # how many characters of the window's text were yielded
    for index in ids:
        if index is None:
            yield None
            continue
        (index,) = check_token_ids([index])
        token = tok.convert_ids_to_tokens(index)
        if token is None or skip_special_tokens and index in special:  # tok.decode leaves out both
            continue
        window.append(index)
        if BYTE_TOKEN.fullmatch(token):
            continue  # tok.decode decodes a run of byte tokens together: an invalid byte at its end changes all of it
        # Hold back a last character that may be incomplete.
        yield decode(window).removesuffix(REPLACEMENT_CHARACTER)[yielded:]
        window = window[-4:]
        yielded = len(decode(window).removesuffix(REPLACEMENT_CHARACTER))
    yield decode(window)[yielded:]


def _stop_at(stop: Sequence[str], kept: int, texts: Iterable[str]) -> Iterator[str]:
    """Yield non-empty `texts` up to the stop string that is completed first; if several end there, the longest."""
    held = ""
    for text in texts:
        if text is None:
            yield None
            continue
        if text[:kept]:
            yield text[:kept]
        kept, text = kept - len(text[:kept]), text[kept:]
        held += text
        if found := [(start + len(word), start) for word in stop if (start := held.find(word)) >= 0]:
            held = held[: min(found)[1]]
            break
        certain = len(held) - max((partial_match_length(word, held) for word in stop), default=0)
        if certain:
            yield held[:certain]
            held = held[certain:]
    if held:
        yield held


def partial_match_length(word: str, text: str) -> int:
    """Return how many characters at the end of `text` are the start of `word`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)


def token_bytes(tok, token_id: int) -> bytes:
    """Return the bytes of a token's text; those of its name for an added token, and none for an unused id."""
    token = tok.convert_ids_to_tokens(token_id) or ""
    if token_id in tok.added_tokens_decoder:
        return token.encode()
    if type(tok.backend_tokenizer.decoder).__name__ == "ByteLevel":  # as in SmolLM2: one letter per byte, Ġ for a space
        return bytes(_byte_of_letter()[letter] for letter in token)
    if BYTE_TOKEN.fullmatch(token):  # as in Phi-3: text with ▁ for a space, and 256 tokens of one byte each
        return bytes.fromhex(token[3:5])
    return token.replace("▁", " ").encode()


@cache
def _byte_of_letter() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # a slow import that only some pages need

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def token_label(tok, token_id: int) -> tuple[str, str]:
    """Return a token's text with visible white space, and its kind: "text", "control", or "part" of a character."""
    data = token_bytes(tok, token_id)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex(" ").upper(), "part"
    text = "".join(VISIBLE.get(c) or (c if c.isprintable() else f"U+{ord(c):04X}") for c in text)
    if text and category(text[0]).startswith("M"):
        text = "◌" + text  # a combining mark needs a base character
    return text, "control" if token_id in tok.added_tokens_decoder else "text"

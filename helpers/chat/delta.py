"""What one event of a server adds to an answer: text, and tokens with ids that this module assigns."""

import math
import secrets
from types import SimpleNamespace

from helpers.chat.server import MALFORMED, NO_API, clean
from helpers.errors import TutorialError
from helpers.generate.loop import GeneratedToken


class Vocabulary:
    """A server's tokens, with ids in order of arrival; replaces the tokenizer for the X-ray and saved conversations.

    The ids are valid only in this object, so a loaded conversation keeps its text but not its tokens.
    """

    added_tokens_decoder, backend_tokenizer = {}, SimpleNamespace(decoder=None)

    def __init__(self) -> None:
        self._tokens, self._ids, self._session = list[bytes](), dict[bytes, int](), secrets.token_hex(8)

    def get_vocab(self) -> dict[str, int]:
        return {self._session: 0}

    def add(self, token: bytes) -> int:
        """Return the id of a token."""
        if token not in self._ids:
            self._ids[token] = len(self._tokens)
            self._tokens.append(token)
        return self._ids[token]

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return self._tokens[token_id].decode(errors="replace")

    def decode(self, ids: list[int]) -> str:
        return clean(b"".join(self._tokens[token_id] for token_id in ids).decode(errors="ignore"))


def read_delta(event: dict, vocabulary: Vocabulary) -> tuple[str, str, list[GeneratedToken], str]:
    """Return what an event adds to an answer: text of its thought, its other text, tokens, and the finish reason or "".

    Raises TutorialError if the event is not in OpenAI's format.
    """
    try:
        choice = [*(event.get("choices") or ()), {}][0]
        delta = choice.get("delta") or choice.get("message") or {}
        # vLLM and Ollama say "reasoning", LM Studio and older versions of vLLM "reasoning_content".
        thought = clean(delta.get("reasoning_content") or delta.get("reasoning") or "")
        entries = (choice.get("logprobs") or {}).get("content") or ()
        tokens = [_token(entry, vocabulary) for entry in entries]
        return thought, clean(delta.get("content") or ""), tokens, clean(choice.get("finish_reason") or "")
    except MALFORMED as error:
        what = f"The server sent an event in a form that is not OpenAI's ({type(error).__name__})."
        raise TutorialError(what, NO_API) from error


def _token(entry: dict, vocabulary: Vocabulary) -> GeneratedToken:
    options = tuple(_probability(each, vocabulary) for each in entry.get("top_logprobs") or ())
    return GeneratedToken(*_probability(entry, vocabulary), options, 0.0)


def _probability(entry: dict, vocabulary: Vocabulary) -> tuple[int, float]:
    token, logprob = bytes([*(entry.get("bytes") or ())]) or clean(entry["token"]).encode(), float(entry["logprob"])
    return vocabulary.add(token), math.exp(min(logprob, 0.0)) if logprob == logprob else 0.0  # NaN

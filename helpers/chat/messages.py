"""The turns of a conversation as data, as JSON to go on with, and as Markdown to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers.errors import TutorialError
from helpers.files import atomic_write_text
from helpers.generate import GeneratedToken

VERSION = 1
FINISH_REASONS = ("end token", "budget", "context", "stopped", "error")
HINT = "Choose a file that `save` has written. The conversation is as it was."


@dataclass(frozen=True)
class GenerationStats:
    """What one answer cost.  `prompt_tokens` are those of the whole conversation that the model was given.

    `reused_tokens` of them were in the cache, `new_tokens` were read.  `ttft_ms` is from the call to the first new
    token, tokenization included; `tpot_ms` the mean time per token after the first, None for fewer than two.
    `end`, one of ENDS, says why it ended.
    """

    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    context_length: int
    finish_reason: str

    @property
    def new_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens

    @property
    def context_tokens(self) -> int:
        """How much of the context is used after this answer."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Message:
    """One turn: `role` is "user" or "assistant".  An answer has its steps and its figures."""

    role: str
    content: str
    steps: tuple[GeneratedToken, ...] = ()
    figures: GenerationStats | None = None


def write(path: Path, tok, system: str, truncated_messages: int, messages: Sequence[Message]) -> Path:
    """Keep all that is needed to go on later, in one step, so that no reader sees half of it."""
    table = {
        "version": VERSION,
        "tokenizer": fingerprint(tok),
        "system": system,
        "truncated_messages": truncated_messages,
    }
    table["messages"] = [asdict(message) for message in messages]
    atomic_write_text(path, json.dumps(table, ensure_ascii=False))
    return path


def read(path: Path, tok) -> tuple[str, int, list[Message]]:
    """(system message, number of forgotten turns, turns) of a file that `write` has made.

    With another tokenizer than that of the writer, the words are read and the tokens are not.
    Raises TutorialError for any other file.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TutorialError(f"{path} cannot be read: {error.strerror}.", "Check the name.") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise TutorialError(f"{path.name} is not a saved conversation: {error}.", HINT) from error
    version = table.get("version") if isinstance(table, dict) else None
    if version != VERSION:
        raise TutorialError(f"{path.name} has version {version!r}, and this program reads {VERSION}.", HINT)
    try:
        return _turns(table, table["tokenizer"] == fingerprint(tok))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise TutorialError(f"{path.name} is damaged: {type(error).__name__}: {error}.", HINT) from error


def _turns(table: dict, same_tokenizer: bool) -> tuple[str, int, list[Message]]:
    messages = [_message(entry, same_tokenizer) for entry in table["messages"]]
    system, truncated_messages = table["system"], table["truncated_messages"]
    if [message.role for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise ValueError("the turns are out of order")
    if type(truncated_messages) is not int or truncated_messages % 2 or not 0 <= truncated_messages <= len(messages):
        raise ValueError(f"it forgets {truncated_messages!r} of {len(messages)} turns")
    for text in (system, *(message.content for message in messages)):
        if not isinstance(text, str):
            raise ValueError("a turn that is no text")
        text.encode()  # half of a surrogate pair could be neither read by a tokenizer nor saved again
    return system, truncated_messages, messages


def _message(entry: dict, same_tokenizer: bool) -> Message:
    steps = [
        GeneratedToken(
            _count(step["id"]),
            _amount(step["probability"]),
            tuple((_count(token_id), _amount(share)) for token_id, share in step["alternatives"]),
            _amount(step["milliseconds"]),
        )
        for step in entry["steps"]
    ]
    figures = _figures(entry["figures"]) if entry["figures"] else None
    return Message(entry["role"], entry["content"], tuple(steps) if same_tokenizer else (), figures)


def _figures(entry: dict) -> GenerationStats:
    figures = GenerationStats(**entry)
    for name in ("prompt_tokens", "cached_tokens", "answer_tokens", "context_length"):
        _count(entry[name])
    for value in (figures.ttft_ms, figures.tpot_ms):
        _amount(0 if value is None else value)
    if figures.finish_reason not in FINISH_REASONS or figures.ttft_ms is None and figures.tpot_ms is not None:
        raise ValueError(f"an answer that ends with {figures.finish_reason!r}")
    return figures


def _count(value) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no count")
    return value


def _amount(value) -> float:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is no amount")
    return float(value)


def fingerprint(tok) -> str:
    """The same for two tokenizers if ids mean the same to both."""
    names = sorted(tok.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def markdown(system: str, messages: Sequence[Message]) -> str:
    """The turns to read: a heading each, and the words as they are."""
    parts = [("System", system)] if system else []
    parts += [(message.role.capitalize(), message.content) for message in messages]
    return "\n\n".join(["# Conversation", *(f"## {who}\n\n{words}" for who, words in parts)]) + "\n"

"""The turns of a conversation as data, as JSON to go on with, and as Markdown to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers.generate import Step
from helpers.plumbing import TutorialError, readable

VERSION = 1
CURE = "Choose a file that `save` has written. The conversation is as it was."


@dataclass(frozen=True)
class Figures:
    """What one answer cost.  `prompt_tokens` are those of the whole conversation that the model was given.

    `reused_tokens` of them were in the cache, `new_tokens` were read.  `ttft_ms` is from the call to the first new
    token, tokenization included; `tpot_ms` the mean time per token after the first, None for fewer than two.
    `end` says why it ended: "end token", "budget", "context", "stopped" or "error".
    """

    prompt_tokens: int
    reused_tokens: int
    answer_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    context_length: int
    end: str

    @property
    def new_tokens(self) -> int:
        return self.prompt_tokens - self.reused_tokens

    @property
    def context_tokens(self) -> int:
        """How much of the context is used after this answer."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Message:
    """One turn: `role` is "user" or "assistant".  An answer has its steps and its figures."""

    role: str
    content: str
    steps: tuple[Step, ...] = ()
    figures: Figures | None = None


def write(path: Path, tok, system: str, forgotten: int, messages: Sequence[Message]) -> Path:
    """Keep all that is needed to go on later, in one step, so that no reader sees half of it."""
    table = {"version": VERSION, "tokenizer": fingerprint(tok), "system": system, "forgotten": forgotten}
    table["messages"] = [asdict(message) for message in messages]
    part = path.with_name(f"{path.name}.part")
    try:
        with readable(path):
            part.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            part.replace(path)
    except OSError as error:  # a folder of that name, or none
        raise TutorialError(f"{path} cannot be written: {error.strerror}.", "Choose another name.") from error
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
        raise TutorialError(f"{path.name} is not a saved conversation: {error}.", CURE) from error
    version = table.get("version") if isinstance(table, dict) else None
    if version != VERSION:
        raise TutorialError(f"{path.name} has version {version!r}, and this program reads {VERSION}.", CURE)
    try:
        return _turns(table, table["tokenizer"] == fingerprint(tok))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise TutorialError(f"{path.name} is damaged: {type(error).__name__}: {error}.", CURE) from error


def _turns(table: dict, same_tokenizer: bool) -> tuple[str, int, list[Message]]:
    messages = [_message(entry, same_tokenizer) for entry in table["messages"]]
    system, forgotten = table["system"], table["forgotten"]
    if [message.role for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise ValueError("the turns are out of order")
    if type(forgotten) is not int or forgotten % 2 or not 0 <= forgotten <= len(messages):
        raise ValueError(f"it forgets {forgotten!r} of {len(messages)} turns")
    if any(not isinstance(text, str) for text in (system, *(message.content for message in messages))):
        raise ValueError("a turn that is no text")
    return system, forgotten, messages


def _message(entry: dict, same_tokenizer: bool) -> Message:
    steps = [
        Step(
            int(step["id"]),
            float(step["probability"]),
            tuple((int(token_id), float(share)) for token_id, share in step["alternatives"]),
            float(step["milliseconds"]),
        )
        for step in entry["steps"]
    ]
    figures = Figures(**entry["figures"]) if entry["figures"] else None
    return Message(entry["role"], entry["content"], tuple(steps) if same_tokenizer else (), figures)


def fingerprint(tok) -> str:
    """The same for two tokenizers if ids mean the same to both."""
    names = sorted(tok.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def markdown(system: str, messages: Sequence[Message]) -> str:
    """The turns to read: a heading each, and the words as they are."""
    parts = [("System", system)] if system else []
    parts += [(message.role.capitalize(), message.content) for message in messages]
    return "\n\n".join(["# Conversation", *(f"## {who}\n\n{words}" for who, words in parts)]) + "\n"

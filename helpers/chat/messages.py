"""Messages of a conversation as data: saved as JSON, exported as Markdown, their statistics as text."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from helpers.errors import TutorialError
from helpers.generate.loop import FINISH_REASONS, GeneratedToken, GenerationStats, common_prefix_length

VERSION = 2
# Names in files of version 1 → their names in version 2.
RENAMED = {"forgotten": "truncated_messages", "steps": "tokens", "figures": "stats"}
RENAMED |= {"reused_tokens": "cached_tokens", "answer_tokens": "new_tokens", "end": "finish_reason"}
RENAMED_REASONS = {"end token": "eos_token", "budget": "max_new_tokens"}
HINT = "Choose a file that Conversation.save has written. The conversation is unchanged."


@dataclass(frozen=True)
class Message:
    """One message: `role` is "user" or "assistant".  An answer has its tokens and its statistics.

    `parts` are the positions in `content` where a thought begins and ends, and where the answer begins.
    """

    role: str
    content: str
    tokens: tuple[GeneratedToken, ...] = ()
    stats: GenerationStats | None = None
    parts: tuple[int, int, int] = (0, 0, 0)

    @property
    def thought(self) -> str:
        """What the model generated before its answer, without the tags around it."""
        return self.content[slice(*self.parts[:2])]

    @property
    def answer(self) -> str:
        """The content without a thought."""
        return self.content[self.parts[2] :]

    @cached_property
    def json(self) -> str:
        """The message as JSON, made once, because a conversation is saved after each answer."""
        table = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: 0.0)  # JSON has no NaN and no infinity
        return json.dumps(table, ensure_ascii=False)


Messages = Sequence[Message]
Branch = tuple[list[Message], int]  # messages, and how many of the first are not in the prompt


def to_json(tokenizer: str, system: str, truncated_messages: int, messages: Messages, paths: Sequence[Branch]) -> str:
    """Return the conversation as JSON; each of `paths` without the beginning that it shares with `messages`.

    `tokenizer` is the fingerprint of the tokenizer.
    """
    versions = []
    for other, truncated in paths:
        shared = common_prefix_length(other, messages)
        head = f'{{"shared": {shared}, "truncated_messages": {truncated}'
        versions.append(f'{head}, "messages": [{", ".join(message.json for message in other[shared:])}]}}')
    head = json.dumps({"version": VERSION, "tokenizer": tokenizer, "system": system}, ensure_ascii=False)[:-1]
    body = f'"truncated_messages": {truncated_messages}, "messages": [{", ".join(each.json for each in messages)}]'
    return f'{head}, {body}, "versions": [{", ".join(versions)}]}}'


def load_conversation(path: Path, tok) -> tuple[str, int, list[Message], list[Branch]]:
    """Return (system message, truncated_messages, messages, paths) of a file that Conversation.save has written.

    The tokens of answers are left out if the file was written with a different tokenizer.
    Raises TutorialError for any other file.
    """
    try:
        if path.exists() and not path.is_file():
            raise TutorialError(f"{path} cannot be read: it is not a file.", "Check the name.")
        text = path.read_text(encoding="utf-8-sig")  # an editor may have saved it with a byte-order mark
        table = json.loads(text)
        version = table.get("version") if isinstance(table, dict) else None
        if version == 1:
            table = json.loads(text, object_hook=_rename)
    except OSError as error:
        raise TutorialError(f"{path} cannot be read: {error.strerror}.", "Check the name.") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or not a file name
        raise TutorialError(f"{path.name} is not a saved conversation: {error}.", HINT) from error
    if version not in (1, VERSION):
        raise TutorialError(f"{path.name} has version {version!r:.40}; this program reads 1 and {VERSION}.", HINT)
    try:
        return _parse(table, table["tokenizer"] == fingerprint(tok))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TutorialError(f"{path.name} is damaged: {type(error).__name__}: {error!s:.200}.", HINT) from error


def _rename(entry: dict) -> dict:
    reasons = {"end": RENAMED_REASONS[entry["end"]]} if str(entry.get("end")) in RENAMED_REASONS else {}
    return {RENAMED.get(name, name): value for name, value in (entry | reasons).items()}


def _parse(table: dict, same_tokenizer: bool) -> tuple[str, int, list[Message], list[Branch]]:
    system = table["system"]
    _check_text(system)
    messages, truncated_messages = _parse_path(table, [], same_tokenizer)
    versions = table.get("versions", [])
    if not all(0 <= _count(entry["shared"]) <= len(messages) for entry in versions):
        raise ValueError("a version begins after the last message")
    paths = [_parse_path(entry, messages[: entry["shared"]], same_tokenizer) for entry in versions]
    return system, truncated_messages, messages, paths


def _parse_path(table: dict, shared: list[Message], same_tokenizer: bool) -> Branch:
    messages = [*shared, *(_message(entry, same_tokenizer) for entry in table["messages"])]
    truncated_messages = table["truncated_messages"]
    if [message.role for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise ValueError("user and assistant do not alternate")
    if type(truncated_messages) is not int or truncated_messages % 2 or not 0 <= truncated_messages <= len(messages):
        raise ValueError(f"truncated_messages is {truncated_messages!r} of {len(messages)}")
    for message in messages[len(shared) :]:
        _check_text(message.content)
    return messages, truncated_messages


def _check_text(text) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text")
    text.encode()  # a lone surrogate can be neither tokenized nor saved again


def _message(entry: dict, same_tokenizer: bool) -> Message:
    tokens = [
        GeneratedToken(
            _count(token["id"]),
            _number(token["probability"]),
            tuple((_count(token_id), _number(probability)) for token_id, probability in token["alternatives"]),
            _number(token["milliseconds"]),
            token.get("drafted") is True,
        )
        for token in entry["tokens"]
    ]
    stats = _stats(entry["stats"]) if entry["stats"] else None
    parts = tuple(map(_count, entry.get("parts", (0, 0, 0))))
    if len(parts) != 3 or [*parts, len(entry["content"])] != sorted([*parts, len(entry["content"])]):
        raise ValueError(f"{parts!r:.60} are not the positions of a thought")
    return Message(entry["role"], entry["content"], tuple(tokens) if same_tokenizer else (), stats, parts)


def _stats(entry: dict) -> GenerationStats:
    stats = GenerationStats(**entry)
    for name in ("prompt_tokens", "new_tokens"):
        _count(entry[name])
    for name in ("cached_tokens", "context_length"):  # which a server may not report
        _count(0 if entry[name] is None else entry[name])
    _count(stats.thought_tokens), _count(stats.drafted_tokens)
    for milliseconds in (stats.ttft_ms, stats.tpot_ms):
        _number(0 if milliseconds is None else milliseconds)
    if stats.finish_reason not in FINISH_REASONS or stats.ttft_ms is None and stats.tpot_ms is not None:
        raise ValueError(f"these are not valid statistics: {entry}")
    return stats


def _count(value) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is not a count")
    return value


def _number(value) -> float:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number of 0 or more")
    return float(value)


def fingerprint(tok) -> str:
    """Return a hash that is equal for two tokenizers if their ids have the same meaning."""
    names = sorted(tok.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def to_markdown(system: str, messages: Sequence[Message]) -> str:
    """Return the conversation as Markdown: a heading per message, and its text as a quotation, without thoughts.

    Quoted text cannot be taken for a new message, and an unclosed code fence in it does not swallow the next one.
    """
    parts = [("System", system)] if system else []
    parts += [(message.role.capitalize(), message.answer) for message in messages]
    quoted = [(heading, re.sub(r"(?:^|\r\n|\r|\n)", "\n> ", text)) for heading, text in parts]
    return "\n\n".join(["# Conversation", *(f"## {heading}\n{text}" for heading, text in quoted)]) + "\n"


def stats_line(stats: GenerationStats) -> str:
    """Return the statistics of an answer in one line, without those that the server did not report."""
    parts = [_tokens(stats.new_tokens) + (f", {stats.thought_tokens:,} of a thought" if stats.thought_tokens else "")]
    if stats.ttft_ms is not None:
        parts.append(f"first token {stats.ttft_ms / 1000:.{1 if stats.ttft_ms >= 100 else 2}f} s")
    if rate := stats.tokens_per_second:
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} tokens/s")
    if stats.drafted_tokens:
        parts.append(f"{stats.tokens_per_pass:.1f} tokens per pass")
    if stats.prompt_tokens:
        cached = "" if stats.cached_tokens is None else f" ({stats.cached_tokens:,} cached)"
        parts.append(f"prompt {_tokens(stats.prompt_tokens)}{cached}")
    if stats.prompt_tokens and stats.context_length:
        parts.append(f"context {stats.context_tokens:,} of {stats.context_length:,}")
    reasons = {"max_new_tokens": "stopped at max_new_tokens", "context": "context full"}
    reasons |= {"stopped": "stopped", "error": "ended by an error"}
    return " · ".join([*parts, *filter(None, [reasons.get(stats.finish_reason)])])


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' * (count != 1)}"

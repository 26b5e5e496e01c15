"""Conversation: turns, reuse of the cache, the context's budget.  No widget, no printing."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from threading import Event

from helpers.chat.messages import GenerationStats, Message, markdown, read, write
from helpers.decode import REPLACEMENT_CHARACTER, stream_decode
from helpers.errors import TutorialError, check_int
from helpers.generate.loop import (
    GeneratedToken,
    GenerationCancelled,
    PromptCache,
    common_prefix_length,
    eos_token_ids,
    generate,
)
from helpers.generate.sampling import GREEDY, Sampling
from helpers.tokenize import prompt_ids

STRIDE = 16  # fewer new tokens than this are left to generate


class Conversation:
    """Turns with one model.  Each answer is an iterator of pieces of text; the model works while it is iterated.

    `system`, `sampling` and `max_new_tokens` may be changed between answers.  `messages` are the turns without the
    system message, of which the model is no longer given the first `forgotten`: when the context is full the oldest
    turns go, whole and in pairs.  `context_length` may be set smaller than the model's.
    """

    def __init__(
        self,
        model,
        tok,
        system: str = "",
        sampling: Sampling = GREEDY,
        max_new_tokens: int = 512,
        context_length: int | None = None,
        alternatives: int = 5,
    ) -> None:
        longest = model.config.max_position_embeddings
        check_int(max_new_tokens, "A budget")
        if context_length is not None and check_int(context_length, "A context") > longest:
            raise TutorialError(
                f"A context of {context_length:,} tokens cannot be.", f"This model has {longest:,} tokens of context."
            )
        self.model, self.tok, self.system, self.sampling = model, tok, system, sampling
        self.max_new_tokens, self.alternatives = max_new_tokens, alternatives
        self.context_length = context_length or longest
        self.messages: list[Message] = []
        self.truncated_messages = 0
        self.prefill_progress = (0, 0)  # tokens of the prompt: read so far, all
        self.answering = False
        self._cache, self._stop = PromptCache(model), Event()

    def say(self, text: str) -> Iterator[str]:
        """Add a user's turn and answer it.  Raises TutorialError, and changes nothing, for a text that cannot be used.

        All pieces together are the answer; an empty one only says that the model is still reading.
        """
        return self._answer([*self.messages, self._user(text)])

    def edit(self, number: int, text: str) -> Iterator[str]:
        """Say `text` instead of the user's message of that number, and forget what came after it."""
        self._need(number, "user")
        return self._answer([*self.messages[:number], self._user(text)])

    def regenerate(self) -> Iterator[str]:
        """Answer the last message once more.  Greedy, or with a seed, it is the same answer at exact settings."""
        asked = [number for number, message in enumerate(self.messages) if message.role == "user"]
        if not asked:
            raise TutorialError("There is nothing to answer again yet.", "Say something first.")
        return self._answer(self.messages[: asked[-1] + 1])

    def branch(self, number: int, position: int, token_id: int) -> Iterator[str]:
        """Take another token at that position of answer `number`, and go on from there.

        `token_id` is one of that step's alternatives.  The pieces begin with the part that is kept.
        """
        steps = self._need(number, "assistant").steps
        here = steps[position] if isinstance(position, Integral) and 0 <= position < len(steps) else None
        if here is None or token_id not in dict(here.alternatives):
            raise TutorialError(
                f"Token {token_id} was not among the likeliest at position {position}.",
                "Choose one of that step's alternatives.",
            )
        taken = replace(here, id=token_id, probability=dict(here.alternatives)[token_id], milliseconds=0.0)
        return self._answer(self.messages[:number], (*steps[:position], taken))

    def stop(self) -> None:
        """End the answer that is being written after its next token; what there is of it is kept."""
        self._stop.set()

    def clear(self) -> None:
        """Begin anew, with the same system message and settings."""
        self._require_idle()
        self.messages, self.truncated_messages = [], 0

    def save(self, path: Path | str) -> Path:
        """Write the turns, with their tokens and figures, as JSON.  Raises TutorialError where that cannot be done."""
        return write(Path(path), self.tok, self.system, self.truncated_messages, self.messages)

    def load(self, path: Path | str) -> None:
        """Go on with what `save` has written.  Raises TutorialError, and changes nothing, for any other file."""
        self._require_idle()
        self.system, self.truncated_messages, self.messages = read(Path(path), self.tok)

    def markdown(self) -> str:
        """The turns to read: a heading each, and the words as they are."""
        return markdown(self.system, self.messages)

    def prompt(self) -> list[int]:
        """The ids that the model would be given for the messages as they are, with an answer to follow."""
        return self._prompt(self.messages[self.truncated_messages :])

    def _user(self, text: str) -> Message:
        if not isinstance(text, str) or not text.strip():
            raise TutorialError("The message is empty.", "Write something.")
        return Message("user", text)

    def _need(self, number: int, role: str) -> Message:
        if not (number in range(len(self.messages)) and self.messages[number].role == role):
            raise TutorialError(f"Message {number} is not one of the {role}'s.", f"There are {len(self.messages)}.")
        return self.messages[number]

    def _require_idle(self) -> None:
        if self.answering:
            raise TutorialError("An answer is being written.", "Wait for its end, or stop it.")

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        said = [{"role": message.role, "content": message.content} for message in turns]
        return prompt_ids(self.tok, [*system, *said])

    def _truncate_to_context(self, turns: Sequence[Message], given: int) -> tuple[list[int], int]:
        """The prompt of `turns` without the oldest that have no room, and how many turns those are.

        An answer of the full budget shall have room, up to a quarter of the context.  Where it has not, turns go until
        the prompt fills at most half of the context: each time that the beginning of a prompt changes, all of it is
        read again, so we forget seldom and then enough.
        """
        room = self.context_length - min(self.max_new_tokens, self.context_length // 4) - given
        truncated_messages = self.truncated_messages if self.truncated_messages < len(turns) else 0
        prompt = self._prompt(turns[truncated_messages:])
        if len(prompt) > room:
            while len(prompt) > self.context_length // 2 and truncated_messages + 2 < len(turns):
                truncated_messages += 2
                prompt = self._prompt(turns[truncated_messages:])
        if len(prompt) + given >= self.context_length:
            raise TutorialError(
                f"This takes {len(prompt) + given:,} tokens, the context has {self.context_length:,}, and there is "
                "nothing older left to forget.",
                "Shorten the message, or the system message.",
            )
        return prompt, truncated_messages

    def _answer(self, turns: list[Message], given: tuple[GeneratedToken, ...] = ()) -> Iterator[str]:
        self._require_idle()
        check_int(self.max_new_tokens, "A budget")
        start = time.perf_counter()
        prompt, truncated_messages = self._truncate_to_context(turns, len(given))
        draft = Answer(turns, truncated_messages, prompt, list(given), start)
        self._stop = draft.stop  # so that it can be stopped before its first token is asked for
        return self._write(draft)

    def _write(self, draft: Answer) -> Iterator[str]:
        self._require_idle()  # two iterators may have been made before the first was used
        self.answering, self._stop = True, draft.stop
        self.messages, self.truncated_messages = draft.turns, draft.truncated_messages
        try:
            yield from self._read(draft)
            yield from stream_decode(self.tok, self._new_ids(draft))
        except GeneratorExit:  # whoever iterated wants no more of it
            draft.finish_reason = "stopped"
            raise
        except BaseException:
            draft.finish_reason = "error"
            raise
        finally:
            self.messages = [*draft.turns, draft.message(self.tok, self.context_length)]
            self.answering = False
            trim_malloc()

    def _read(self, draft: Answer) -> Iterator[str]:
        """Let the model read what is new to it but a short rest, for generate; an empty string before each piece."""
        ids = draft.ids()
        known = common_prefix_length(self._cache.ids, ids)
        while (new := len(ids) - known - 1) >= STRIDE:
            self.prefill_progress = (known, len(ids))
            yield ""
            known += round_to_bucket(min(new, self._cache.kv.prefill_chunk_size or new))
            try:
                self._cache.logits(ids[:known], draft.stop.is_set)
            except GenerationCancelled:
                return
            draft.cached_tokens = self._cache.cached_tokens if draft.cached_tokens is None else draft.cached_tokens
            if draft.stop.is_set():
                return

    def _new_ids(self, draft: Answer) -> Iterator[int]:
        """The ids that are given, then the new ones; draft.end says why there are no more."""
        yield from [step.id for step in draft.steps]
        last_ids = eos_token_ids(self.model)
        ids = draft.ids()
        room = self.context_length - len(ids)
        budget = min(room, self.max_new_tokens - len(draft.steps))
        draft.finish_reason = (
            "stopped" if draft.stop.is_set() else "end token" if draft.ends_with(last_ids) else "budget"
        )
        if draft.finish_reason != "budget" or budget < 1:
            return
        for step in generate(self.model, ids, budget, self.sampling, last_ids, self.alternatives, self._cache):
            draft.add(step, self._cache.cached_tokens)
            yield step.id
            if draft.stop.is_set():
                draft.finish_reason = "stopped"
                return
        if draft.ends_with(last_ids):
            draft.finish_reason = "end token"
        elif room == budget:
            draft.finish_reason = "context"


def round_to_bucket(length: int) -> int:
    """The next number below, or `length` itself, of which there are few: sixteen between a power of two and the next.

    The CPU's plugin compiles its kernels anew for each number of tokens that it meets, and keeps them: 2.5 MB each time
    for SmolLM2.
    """
    step = max(STRIDE, 1 << length.bit_length() >> 5)
    return length // step * step


@dataclass
class Answer:
    """An answer while it is written."""

    turns: list[Message]
    truncated_messages: int
    prompt: list[int]
    steps: list[GeneratedToken]
    start: float
    moments: list[float] = field(default_factory=list)  # when each new token was there
    cached_tokens: int | None = None
    finish_reason: str = "stopped"
    stop: Event = field(default_factory=Event)  # one for each answer: an order that comes too late stops no other

    def ids(self) -> list[int]:
        return self.prompt + [step.id for step in self.steps]

    def add(self, step: GeneratedToken, reused: int) -> None:
        self.steps.append(step)
        self.moments.append(time.perf_counter())
        self.cached_tokens = reused if self.cached_tokens is None else self.cached_tokens

    def ends_with(self, eos_token_ids: frozenset[int]) -> bool:
        return bool(self.steps) and self.steps[-1].id in eos_token_ids

    def message(self, tok, context_length: int) -> Message:
        """The answer as it is now.  Half of a character at its end, where it was stopped, is left out."""
        text = tok.decode([step.id for step in self.steps], skip_special_tokens=True).rstrip(REPLACEMENT_CHARACTER)
        first, last, n = *(self.moments[:1] + self.moments[-1:] or (None, None)), len(self.moments)
        figures = GenerationStats(
            prompt_tokens=len(self.prompt),
            cached_tokens=min(self.cached_tokens or 0, len(self.prompt)),
            answer_tokens=len(self.steps),
            ttft_ms=1000 * (first - self.start) if n else None,
            tpot_ms=1000 * (last - first) / (n - 1) if n > 1 else None,
            context_length=context_length,
            finish_reason=self.finish_reason,
        )
        return Message("assistant", text, tuple(self.steps), figures)


def trim_malloc() -> None:
    """Return freed memory to the system.  Does something on Linux with glibc, which by itself keeps most of it.

    A chat's prompts are of many lengths and free blocks of many sizes: 150 MiB were kept after 70 turns.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)

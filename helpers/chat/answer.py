"""An answer in progress: its prompt, its tokens as they are generated, its text, statistics and warnings."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

from helpers.chat.degenerate import describe_degeneration
from helpers.chat.messages import Message
from helpers.chat.thinking import find_thought, split_thought
from helpers.decode import REPLACEMENT_CHARACTER, stream_decode
from helpers.errors import TutorialError, check_int
from helpers.generate.loop import GenerationStats, generate
from helpers.load.config import eos_token_ids, vocabulary_size
from helpers.tokenize import has_system_role, omitted_messages

if TYPE_CHECKING:
    from helpers.chat.conversation import Conversation


def require_idle(busy: bool) -> None:
    """Raise TutorialError if `busy`: a conversation has one answer at a time."""
    if busy:
        raise TutorialError("An answer is being generated.", "Wait until it ends, or stop it.")


class Answer:
    """An answer in progress.  Iterate over it once to generate it; the iteration yields its text in chunks.

    While a long prompt is prefilled, chunks are empty: see Conversation.prefill_progress.  An answer that is never
    iterated changes nothing.  If the iteration is abandoned, the answer ends there and its text so far is kept.

    `messages` are the messages to answer, `tokens` the tokens so far, including those kept by resume or branch;
    `finish_reason`, one of FINISH_REASONS, is None until the answer ends.  `thinking` tells whether the last chunk
    belongs to a thought; the other chunks, joined, are the answer.  The iteration raises TutorialError, and changes
    nothing, if the messages do not fit into the context, or if the conversation has changed since the request.
    """

    def __init__(self, conversation: Conversation, messages: list[Message], kept: tuple = ()) -> None:
        require_idle(conversation.answering)
        self._start, self._times, self._cached_tokens = time.perf_counter(), list[float](), None
        self.max_new_tokens = check_int(conversation.max_new_tokens, "max_new_tokens")
        self.conversation, self.messages, self.tokens = conversation, messages, list(kept)
        self._before = conversation.messages, conversation.truncated_messages
        self._ids, self.truncated_messages = list[int](), conversation.truncated_messages
        self._sampling, self._stop = conversation.sampling, Event()
        self.started, self.finish_reason, self.extends = False, None, False
        self.thinking, self._inside, self._kept, self._thought_tokens = False, False, len(kept), 0
        conversation._answer = self  # so that it can be stopped before its first token is requested

    def stop(self) -> None:
        """Stop after the next token; the text so far is kept."""
        self._stop.set()

    @property
    def stats(self) -> GenerationStats:
        """The statistics so far.  Times are those that the caller sees, so they include tokenization and display."""
        times, (prompt_tokens, cached_tokens, n) = self._times, self._counts()
        return GenerationStats(
            prompt_tokens,
            cached_tokens,
            n,
            ttft_ms=1000 * (times[0] - self._start) if times else None,
            tpot_ms=1000 * (times[-1] - times[0]) / (n - 1) if len(times) > 1 and n > 1 else None,
            context_length=self.conversation.context_length or None,
            finish_reason=self.finish_reason,
            thought_tokens=max(0, self._thought_tokens - self._kept),
            drafted_tokens=sum(token.drafted for token in self.tokens[self._kept :]),
        )

    def _counts(self) -> tuple[int, int | None, int]:
        """Return how many tokens the prompt has, how many of them were cached, and how many are new."""
        return len(self._ids), self._cached_tokens or 0, len(self._times)

    @property
    def message(self) -> Message:
        """The answer so far as a message.  An incomplete character at its end is left out."""
        text = self.conversation.tok.decode([token.id for token in self.tokens], skip_special_tokens=True)
        text = text.rstrip(REPLACEMENT_CHARACTER)
        parts = find_thought(text, self.conversation.tags, self._inside)
        return Message("assistant", text, tuple(self.tokens), self.stats, parts)

    def warnings(self) -> list[str]:
        """Return warnings about the finished answer, a sentence each."""
        message, (messages_before, truncated_before) = self.message, self._before
        found = [describe_degeneration(message.content, [token.id for token in self.tokens])]
        if self.truncated_messages > truncated_before:
            found.append(
                f"The context is full: the first {self.truncated_messages} messages are no longer in the prompt."
            )
        found += self._prompt_warnings()
        deterministic = self._sampling.temperature == 0 or self._sampling.seed is not None
        contents = [each.content for each in (*self.messages, message)]
        if deterministic and contents == [each.content for each in messages_before]:
            found.append("The answer is the same: it is deterministic. Raise the temperature, or change the seed.")
        if self.conversation.history:
            found.append(self.conversation.history.problem)
        return [sentence for sentence in found if sentence]

    def _prompt_warnings(self) -> list[str]:
        """Return what the chat template did to the messages, a sentence each."""
        prompt = self.conversation._with_system(self.messages[self.truncated_messages :])
        found = [
            f"This model's chat template leaves out message {number}, with the role {prompt[number]['role']}. "
            "Put its text into a different message."
            for number in omitted_messages(self.conversation.tok, prompt)
        ]
        if self.conversation.system and not has_system_role(self.conversation.tok):
            found.append("This model has no system role: the system message is a part of the first user message.")
        return found

    def __iter__(self) -> Iterator[str]:
        conversation = self.conversation
        with conversation._lock:
            require_idle(conversation.answering)
            conversation._answer, self.started = self, True
        try:
            self._begin()
            self._keep_so_far()
            yield from self._prefill()
            for chunk, is_thought in split_thought(self._texts(), conversation.tags, self._inside):
                if is_thought or self.thinking:  # the answer's first token is not counted
                    self._thought_tokens = len(self.tokens) - (not is_thought)
                self.thinking = is_thought
                yield chunk
                if conversation.history and time.monotonic() >= conversation.history.due:
                    self._keep_so_far()
        except BaseException as error:
            if conversation.messages is self.messages:  # otherwise nothing has changed yet
                self.finish_reason = "stopped" if isinstance(error, GeneratorExit) else "error"
            raise
        finally:
            with conversation._lock:
                if grows := conversation.messages is self.messages:
                    conversation.messages = [*self.messages, self.message]
                conversation._answer = None
                if grows:
                    conversation._keep(conversation.messages)
            trim_malloc()

    def _begin(self) -> None:
        """Build the prompt, and replace the conversation's messages with those to be answered."""
        conversation, (messages_before, _) = self.conversation, self._before
        self._make_prompt()
        removes = self.messages[: len(messages_before)] != messages_before
        with conversation._lock:
            if conversation.messages is not messages_before:  # by load, clear, or an answer that was iterated first
                raise TutorialError("The conversation has changed since this answer was requested.", "Ask again.")
            if removes and not self.extends:
                conversation._keep_branch()
            conversation._undo = (*self._before, conversation._branches, "") if removes else None
            conversation.messages, conversation.truncated_messages = self.messages, self.truncated_messages

    def _make_prompt(self) -> None:
        """Build the prompt, without messages that do not fit.  Raises TutorialError, and then changes nothing."""
        conversation, kept = self.conversation, [token.id for token in self.tokens]
        if max(kept, default=0) >= vocabulary_size(conversation.model.config):  # loaded from a file
            raise TutorialError("The answer has tokens that are not in the model's vocabulary.", "Edit the question.")
        ids, self.truncated_messages = conversation._truncate_to_context(self.messages, len(kept), self._stop.is_set)
        self._ids = ids + kept  # the kept tokens are prefilled, too
        self._inside = conversation.tok.decode(ids[-16:]).rstrip().endswith(conversation.tags[0])

    def _keep_so_far(self) -> None:
        """Write the answer so far to the history, marked as stopped in case this process is killed."""
        if self.conversation.history:
            message = replace(self.message, stats=replace(self.stats, finish_reason="stopped"))
            self.conversation._keep([*self.messages, message])

    def _prefill(self) -> Iterator[str]:
        """Prefill a long prompt in chunks, except for its last few tokens; yield an empty chunk of text before each."""
        for progress in self.conversation._cache.prefill(self._ids, self._stop.is_set):
            self.conversation.prefill_progress = progress
            self._cached_tokens = progress[0] if self._cached_tokens is None else self._cached_tokens
            yield ""

    def _texts(self) -> Iterator[str]:
        """Yield the text of the answer as it grows; at the end set finish_reason."""
        return stream_decode(self.conversation.tok, self._token_ids())

    def _token_ids(self) -> Iterator[int]:
        """Yield the kept ids, then new ones as they are generated; at the end set finish_reason."""
        conversation, last = self.conversation, None
        for last in [token.id for token in self.tokens]:
            yield last
        eos_ids, space = eos_token_ids(conversation.model), conversation.context_length - len(self._ids)
        limit = min(space, self.max_new_tokens - len(self.tokens))
        if not (self._stop.is_set() or last in eos_ids or limit < 1):
            options = (limit, self._sampling, eos_ids, conversation.alternatives, conversation._cache)
            for token in generate(conversation.model, self._ids, *options, lookup=conversation.lookup):
                self._times.append(time.perf_counter())
                self.tokens.append(token)
                if self._cached_tokens is None:
                    self._cached_tokens = conversation._cache.cached_tokens
                last = token.id
                yield last
                if self._stop.is_set():
                    break
        if last in eos_ids:
            self.finish_reason = "eos_token"
        elif self._stop.is_set():
            self.finish_reason = "stopped"
        else:
            self.finish_reason = "context" if limit == space else "max_new_tokens"


def trim_malloc() -> None:
    """Return freed memory to the system if the C library is glibc, which would otherwise keep most of it.

    Prompts have many lengths, so freed blocks have many sizes: after 70 messages glibc kept 150 MiB.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # a different C library
            ctypes.CDLL(None).malloc_trim(0)

"""Conversations with a model on a server that has OpenAI's API, such as ours or OpenVINO Model Server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain

from helpers.chat.answer import Answer, require_idle
from helpers.chat.conversation import Conversation
from helpers.chat.delta import Vocabulary, read_delta
from helpers.chat.messages import Message
from helpers.chat.server import KEY_VARIABLE, SERVER_VARIABLE, Refusal, Server, Stream, count
from helpers.chat.thinking import find_thought
from helpers.errors import TutorialError
from helpers.generate.sampling import CHAT, Sampling

CONTEXT_IS_FULL = re.compile(r"context|too long|maximum.{0,40}token", re.IGNORECASE)
FINISH_REASONS = {"stop": "eos_token", "length": "max_new_tokens"}  # OpenAI's names; all others end as "stopped"


class RemoteConversation(Conversation):
    """A conversation with `model` on the server at `url`, such as http://127.0.0.1:8000/v1.

    It differs from Conversation where a server reports less.  The X-ray needs a server that returns logprobs; with
    `alternatives` None they are not requested.  Statistics that the server does not report are left out.  Answers can
    be resumed and branched only on servers that support vLLM's continue_final_message, such as ours.  When the server
    reports that the context is full, the oldest messages are left out.  An answer raises TutorialError if the server
    refuses the request, or sends nothing for `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str = "",
        system: str = "",
        sampling: Sampling = CHAT,
        max_new_tokens: int = 512,
        alternatives: int | None = 5,
        timeout: float = 120.0,
    ) -> None:
        self._server = Server(url, api_key, timeout)
        self.model, self.server, self.tok = model, self._server.name, Vocabulary()
        self.thinking, self.tags = None, ("<think>", "</think>")
        self._set_up(system, sampling, max_new_tokens, alternatives, None)

    def models(self) -> list[str]:
        """Return the names of the server's models."""
        return list(self._server.models())

    def use(self, model: str, tok=None) -> None:
        """Continue with a different model of the server."""
        with self._lock:
            require_idle(self.answering)
            self.model, self.context_length, self.truncated_messages = model, None, 0

    def _new_answer(self, messages: list[Message], kept: tuple = ()) -> RemoteAnswer:
        if kept and not self._server.can_continue():
            raise TutorialError("This server cannot continue an answer.", "Regenerate it, or send a message.")
        return RemoteAnswer(self, messages, kept)

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        raise TutorialError("The prompt ids are known to the server only.", "conversation.messages has the texts.")

    def _with_system(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *({"role": each.role, "content": each.answer} for each in messages)]


def is_too_long(error: Refusal) -> bool:
    """Return whether a request with fewer messages could be accepted; our server limits their number, too."""
    return error.status == 413 or bool(CONTEXT_IS_FULL.search(error.said)) or error.said.startswith("messages:")


class RemoteAnswer(Answer):
    """An answer that a server generates; it behaves as Answer does.

    If the server refuses the request before the first token, nothing changes.  If the connection breaks later, the
    answer ends with an error, and its text so far is kept.
    """

    def __init__(self, conversation: RemoteConversation, messages: list[Message], kept: tuple = ()) -> None:
        super().__init__(conversation, messages, kept)
        self._text = conversation.tok.decode([token.id for token in kept])
        self._usage, self._note, self._stream = {}, "", Stream(conversation._server, {})
        self._events: Iterator[dict] = iter(())

    def stop(self) -> None:
        """Close the connection at once; the text so far is kept."""
        super().stop()
        self._stream.stop()

    def _counts(self) -> tuple[int, int | None, int]:
        """Return the token counts that the server reports; without them, new tokens are counted on arrival."""
        details = self._usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        n = count(self._usage.get("completion_tokens")) or len(self.tokens) - self._kept or len(self._times)
        return count(self._usage.get("prompt_tokens")), None if cached is None else count(cached), n

    @property
    def message(self) -> Message:
        """The answer so far as a message."""
        parts = find_thought(self._text, self.conversation.tags)
        return Message("assistant", self._text, tuple(self.tokens), self.stats, parts)

    def _prompt_warnings(self) -> list[str]:
        return [self._note]

    def __iter__(self) -> Iterator[str]:
        try:
            yield from super().__iter__()
        finally:
            self._stream.stop()  # if it was abandoned

    def _prefill(self) -> Iterator[str]:
        return iter(())  # the server does that

    def _make_prompt(self) -> None:
        """Send the request and wait for its first event, without the oldest messages if they do not fit."""
        conversation, messages = self.conversation, self.messages
        start = self.truncated_messages if self.truncated_messages < len(messages) else 0
        while not self._stop.is_set():
            self._stream = Stream(conversation._server, self._body(messages[start:]))
            if self._stop.is_set():  # meanwhile
                break
            events = iter(self._stream)
            try:
                self._events = chain([next(events, {})], events)
                break
            except Refusal as error:
                said = error.said if error.status in (200, 400, 413, 422) else ""
                if "logprobs" in said and conversation.alternatives is not None:  # few servers support both
                    conversation.alternatives = 0 if conversation.alternatives and "top_logprobs" in said else None
                elif is_too_long(error) and start + 2 < len(messages):
                    start += 2 * max(1, (len(messages) - start) // 4)
                else:
                    raise
        self.truncated_messages = start

    def _body(self, messages: Sequence[Message]) -> dict:
        conversation, sampling, n = self.conversation, self._sampling, self.conversation.alternatives
        body = {"model": conversation.model, "messages": conversation._with_system(messages), "stream": True}
        body |= {"stream_options": {"include_usage": True}, "max_tokens": max(1, self.max_new_tokens - self._kept)}
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        body |= {"logprobs": None if n is None else True, "top_logprobs": n or None}
        # OpenAI's API lacks these; vLLM, OpenVINO Model Server and our server support them.
        penalty = sampling.repetition_penalty
        body |= {"top_k": sampling.top_k or None, "repetition_penalty": penalty if penalty != 1 else None}
        if self._text:
            body["messages"].append({"role": "assistant", "content": self._text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return {name: value for name, value in body.items() if value is not None}

    def _texts(self) -> Iterator[str]:
        """Yield the text as it arrives, a thought in tags; at the end set finish_reason."""
        conversation, reason, in_thought, before = self.conversation, "", False, time.perf_counter()
        if self._text:
            yield self._text
        for event in self._events:
            thought, text, tokens, ended = read_delta(event, conversation.tok)
            self._usage = usage if isinstance(usage := event.get("usage"), dict) else self._usage
            reason, now = ended or reason, time.perf_counter()
            if thought and not self._text.strip():
                thought, in_thought = f"{conversation.tags[0]}\n{thought}", True
            if text and in_thought:
                text, in_thought = f"\n{conversation.tags[1]}\n\n{text}", False
            if tokens or thought or text:  # a token may be part of a character, without text yet
                each = 1000 * (now - before) / max(1, len(tokens))
                self.tokens += [replace(token, milliseconds=each) for token in tokens]
                self._text, before = self._text + thought + text, now
                self._times.append(now)
            if thought or text:
                yield thought + text
        if not (reason or self._stop.is_set()):
            what = "The server closed the connection before the answer was complete."
            raise TutorialError(what, "The text so far is kept. Regenerate the answer, or send a message.")
        self.finish_reason = FINISH_REASONS.get(reason, "stopped")
        if reason == "length" and 0 < count(self._usage.get("completion_tokens")) < self.max_new_tokens - self._kept:
            self.finish_reason = "context"
        if reason and reason not in FINISH_REASONS:
            self._note = f"The server ended the answer: {reason:.80}."
        if conversation.context_length is None:  # requested once, after an answer, to delay none
            conversation.context_length = 0
            with suppress(TutorialError):
                conversation.context_length = conversation._server.models().get(conversation.model, 0)


def connect(url: str = "", model: str | None = None, **options) -> RemoteConversation:
    """Return a conversation with `model`, by default the first, on the server at `url`, by default TUTORIAL_SERVER.

    The API key is read from TUTORIAL_API_KEY, so that neither a notebook nor the shell's history contains it.
    """
    url = url or os.environ.get(SERVER_VARIABLE, "")
    conversation = RemoteConversation(url, model or "", os.environ.get(KEY_VARIABLE, ""), **options)
    if not model:
        if not (models := conversation.models()):
            raise TutorialError(f"{conversation.server} has no models.", "Load one there.")
        conversation.use(models[0])
    return conversation

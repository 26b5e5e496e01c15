"""Conversations with a model: messages, answers, undo, and truncation to the context.  Nothing here displays."""

from __future__ import annotations

import ctypes
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from threading import Event, RLock

from helpers.chat.degenerate import describe_degeneration
from helpers.chat.history import History
from helpers.chat.messages import Branch, Message, fingerprint, load_conversation, to_json, to_markdown
from helpers.chat.thinking import find_thought, split_thought, thought_tags
from helpers.decode import REPLACEMENT_CHARACTER, stream_decode
from helpers.errors import TutorialError, check_int
from helpers.files import atomic_write_text
from helpers.generate.loop import GenerationStats, PromptCache, generate
from helpers.generate.sampling import CHAT, Sampling
from helpers.load.config import context_length as longest_context
from helpers.load.config import eos_token_ids, vocabulary_size
from helpers.tokenize import has_system_role, omitted_messages, prompt_ids, thinks_by_default

FIRST_TURNS = 64  # of the newest, how many are taken first when a prompt is made


def require_idle(busy: bool) -> None:
    """Raise TutorialError if `busy`: a conversation has one answer at a time."""
    if busy:
        raise TutorialError("An answer is being generated.", "Wait until it ends, or stop it.")


class Conversation:
    """A conversation with one model, which keeps its KV cache between answers.

    `system`, `sampling`, `max_new_tokens` and `thinking` may be changed between answers.  `thinking` is None where the
    chat template cannot switch thoughts on and off.  `messages` does not contain the system message; a template without
    a system role gets it at the beginning of the first user message, where the makers of Gemma and Mistral put it.  The
    first `truncated_messages` of them are no longer in the prompt: when the context is full, the oldest are removed, a
    question together with its answer.  `context_length` may be shorter than the model's.  With `lookup`, tokens are
    drafted from the text so far where that is faster (generate).

    edit, regenerate and branch keep what they replace: a message then has several versions, and switch shows a
    different one, with what followed it.  Where there is a `history`, the conversation is kept there as it grows.
    """

    server = ""  # the address of the server that runs the model, unless this process does

    def __init__(
        self,
        model,
        tok,
        system: str = "",
        sampling: Sampling = CHAT,
        max_new_tokens: int = 512,
        context_length: int | None = None,
        alternatives: int = 5,
        thinking: bool | None = None,
        lookup: bool = False,
    ) -> None:
        longest = longest_context(model.config)
        check_int(max_new_tokens, "max_new_tokens")
        if context_length is not None and check_int(context_length, "context_length") > longest:
            hint = f"This model's context has {longest:,} tokens."
            raise TutorialError(f"context_length cannot be {context_length:,}.", hint)
        default = thinks_by_default(tok)
        if thinking is not None and default is None:
            raise TutorialError("This model's chat template cannot switch thinking on or off.", "Leave it out.")
        self.thinking, self.tags = default if thinking is None else thinking, thought_tags(tok)
        self.model, self.tok, self.lookup, self._cache = model, tok, lookup, PromptCache(model)
        self._set_up(system, sampling, max_new_tokens, alternatives, context_length or longest)

    def _set_up(self, system, sampling, max_new_tokens, alternatives, context_length) -> None:
        self.system, self.sampling, self.max_new_tokens = system, sampling, max_new_tokens
        self.alternatives, self.context_length = alternatives, context_length
        self.messages: list[Message] = []  # replaced at each change, never changed in place
        self.truncated_messages = 0
        self.prefill_progress = (0, 0)  # tokens of the prompt: in the KV cache, in all
        self._answer: Answer | None = None  # the most recent one, until it ends
        self._lock = RLock()  # held while messages are replaced, which any thread may do
        self._branches: list[Branch] = []  # what was shown before an edit or a switch, in this order
        # messages, truncated_messages, _branches, the name in the history
        self._undo: tuple[list[Message], int, list[Branch], str] | None = None
        self.history: History | None = None
        self._fingerprint = ""  # of the tokenizer, computed when it is needed first

    @property
    def answering(self) -> bool:
        """Whether an answer is being generated."""
        return self._answer is not None and self._answer.started

    def say(self, text: str) -> Answer:
        """Return the answer to a new user message.  Raises TutorialError for a text that cannot be used."""
        return self._new_answer([*self.messages, _user_message(text)])

    def edit(self, number: int, text: str) -> Answer:
        """Return the answer to `text` in place of the user's message `number`; what followed that is a version."""
        self._require_message(number, "user")
        return self._new_answer([*self.messages[:number], _user_message(text)])

    def regenerate(self) -> Answer:
        """Return a new answer to the last message; greedy or with a seed, and with reference settings, it is equal."""
        if not self.messages:
            raise TutorialError("There is no answer to regenerate.", "Send a message first.")
        return self._new_answer(self.messages[:-1])

    def resume(self) -> Answer:
        """Return the last answer continued, where max_new_tokens, Stop or an error has ended it.

        The chunks of text begin with the part that is kept, which is no version of its own.
        """
        message = self._require_message(len(self.messages) - 1, "assistant")
        if not message.tokens or message.stats and message.stats.finish_reason == "eos_token":
            why = "is complete" if message.tokens else "has no tokens to continue from"
            raise TutorialError(f"The last answer {why}.", "Send a message, or regenerate it.")
        answer = self._new_answer(self.messages[:-1], message.tokens)
        answer.extends, answer.max_new_tokens = True, answer.max_new_tokens + len(message.tokens)
        return answer

    def branch(self, number: int, position: int, token_id: int) -> Answer:
        """Return answer `number` continued from a different token at `position`, one of the alternatives there.

        The chunks of text begin with the part that is kept.
        """
        tokens = self._require_message(number, "assistant").tokens
        token = tokens[position] if isinstance(position, Integral) and 0 <= position < len(tokens) else None
        if token is None or not isinstance(token_id, Integral) or token_id not in dict(token.alternatives):
            what = f"Token {token_id} is not one of the alternatives at position {position}."
            raise TutorialError(what, "Choose one of message.tokens[position].alternatives.")
        changed = {"id": token_id, "probability": dict(token.alternatives)[token_id], "milliseconds": 0.0}
        chosen = replace(token, **changed, drafted=False)
        return self._new_answer(self.messages[:number], (*tokens[:position], chosen))

    def _new_answer(self, messages: list[Message], kept: tuple = ()) -> Answer:
        return Answer(self, messages, kept)

    def stop(self) -> None:
        """Stop the answer in progress after its next token; its text so far is kept."""
        if answer := self._answer:
            answer.stop()

    def clear(self) -> None:
        """Remove all messages; the system message and the settings stay."""
        with self._lock:
            require_idle(self.answering)
            if self.messages:
                name = self.history.name if self.history else ""
                self._undo = self.messages, self.truncated_messages, self._branches, name
                self.messages, self.truncated_messages, self._branches = [], 0, []
                if self.history:  # what is kept stays, and a new conversation begins
                    self.history.start()

    @property
    def can_undo(self) -> bool:
        """Whether there is something that undo() can restore."""
        return self._undo is not None and not self.answering

    def undo(self) -> None:
        """Restore the messages that the last clear, edit, regenerate or branch has replaced."""
        with self._lock:
            require_idle(self.answering)
            if self._undo is None:
                raise TutorialError("There is nothing to undo.")
            left = [(self.messages, self.truncated_messages)] if self.messages else []
            (self.messages, self.truncated_messages, branches, name), self._undo = self._undo, None
            self._branches = [*branches, *left]
            if self.history and not self.history.name:
                self.history.start(name)
            self._keep(self.messages)

    def use(self, model, tok) -> None:
        """Continue with a different model.  The messages stay; their tokens only where both tokenizers agree."""
        same = fingerprint(tok) == fingerprint(self.tok)

        def converted(messages: Sequence[Message]) -> list[Message]:
            return [message if same or not message.tokens else replace(message, tokens=()) for message in messages]

        with self._lock:
            require_idle(self.answering)
            self.model, self.tok, self._cache, self._fingerprint = model, tok, PromptCache(model), ""
            self.context_length, self.tags = longest_context(model.config), thought_tags(tok)
            self.thinking = thinks_by_default(tok)
            self.messages, self.truncated_messages = converted(self.messages), 0
            self._branches, self._undo = [(converted(messages), 0) for messages, _ in self._branches], None
            self._keep(self.messages)

    def versions(self, number: int) -> tuple[int, int]:
        """Return which version of message `number` is shown, counted from 1, and how many there are."""
        message, found = self._require_message(number), self._versions(number)
        return found.index(message) + 1, len(found)

    def switch(self, number: int, version: int) -> None:
        """Show version `version` of message `number`, and what followed it.  Raises TutorialError if there is none."""
        with self._lock:
            require_idle(self.answering)
            shown, total = self.versions(number)
            if check_int(version, "version") > total:
                raise TutorialError(f"Message {number} has no version {version}.", f"The last one is {total}.")
            if version == shown:
                return
            wanted = [*self.messages[:number], self._versions(number)[version - 1]]
            self._keep_branch()
            found = (branch for branch in reversed(self._branches) if branch[0][: len(wanted)] == wanted)
            (self.messages, self.truncated_messages), self._undo = next(found), None
            self._keep(self.messages)

    def _versions(self, number: int) -> list[Message]:
        """Return the messages, in their order, that stand behind the first `number` of those shown."""
        found: list[Message] = []
        for messages in (*(messages for messages, _ in self._branches), self.messages):
            same = len(messages) > number and messages[:number] == self.messages[:number]
            if same and messages[number] not in found:
                found.append(messages[number])
        return found

    def _keep_branch(self) -> None:
        """Keep the messages that are shown, before they are replaced."""
        if all(messages != self.messages for messages, _ in self._branches):
            self._branches = [*self._branches, (self.messages, self.truncated_messages)]

    def save(self, path: Path | str) -> Path:
        """Write all versions of the messages, with tokens and statistics, as JSON.  Raises TutorialError."""
        atomic_write_text(path := Path(path), self.json())
        return path

    def json(self, messages: Sequence[Message] | None = None) -> str:
        """Return what save writes, with `messages` instead of those that are shown."""
        with self._lock:
            shown = self.messages if messages is None else messages
            self._fingerprint = self._fingerprint or fingerprint(self.tok)
            return to_json(self._fingerprint, self.system, self.truncated_messages, shown, self._branches)

    def load(self, path: Path | str, name: str = "") -> None:
        """Continue a saved conversation, `name` in the history.  Raises TutorialError, and then changes nothing."""
        require_idle(self.answering)
        loaded = load_conversation(Path(path), self.tok)
        with self._lock:
            require_idle(self.answering)
            (self.system, self.truncated_messages, self.messages, self._branches), self._undo = loaded, None
            if self.history:
                self.history.start(name)

    def open(self, name: str) -> None:
        """Continue the conversation `name` of the history.  Raises TutorialError as load does."""
        if self.history is None:
            raise TutorialError("This conversation has no history.", "Set conversation.history = History().")
        self.load(self.history.path(name), name)

    def _keep(self, messages: Sequence[Message]) -> None:
        """Write `messages` and their versions to the history, if there is one."""
        if self.history and messages:
            self.history.write(messages[0].content, self.json(messages))

    def markdown(self) -> str:
        """Return the versions of the messages that are shown as Markdown."""
        return to_markdown(self.system, self.messages)

    def prompt(self) -> list[int]:
        """Return the prompt ids of the messages as they are, up to where an answer would begin."""
        return self._prompt_ids(self.messages[self.truncated_messages :])

    def _require_message(self, number: int, role: str = "") -> Message:
        found = isinstance(number, Integral) and 0 <= number < len(self.messages)
        if not found or role and self.messages[number].role != role:
            what = f"does not have the role {role}" if role else "does not exist"
            raise TutorialError(f"Message {number!r:.20} {what}.", f"There are {len(self.messages)} messages.")
        return self.messages[number]

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return prompt_ids(self.tok, self._with_system(messages), thinking=self.thinking)

    def _with_system(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        found = [{"role": each.role, "content": self._for_template(each)} for each in messages]
        if self.system and found and not has_system_role(self.tok):
            found[0]["content"] = f"{self.system}\n\n{found[0]['content']}"
            return found
        return [{"role": "system", "content": self.system}, *found] if self.system else found

    def _for_template(self, message: Message) -> str:
        """Return a message with its thought, also one that was stopped, if the template can tell thoughts apart."""
        opening, closing = self.tags
        if not message.parts[2] or closing not in str(self.tok.chat_template):
            return message.answer
        return f"{opening}\n{message.thought}\n{closing}\n\n{message.answer}"

    def _truncate_to_context(
        self, messages: Sequence[Message], kept_tokens: int, stopped: Callable[[], bool]
    ) -> tuple[list[int], int]:
        """Return the prompt ids of `messages` without the oldest that do not fit, and how many of them those are.

        An answer of max_new_tokens should fit, up to a quarter of the context.  Otherwise messages are removed until
        the prompt fills at most half of the context: whenever the beginning of a prompt changes, all of it has to be
        prefilled, so it is better to truncate rarely and by much.  When `stopped` returns True, there are no ids.
        """
        first = self.truncated_messages if self.truncated_messages < len(messages) else 0
        space = self.context_length - min(self.max_new_tokens, self.context_length // 4) - kept_tokens
        starts, start, half = range(first, len(messages), 2), first, self.context_length // 2

        def ids_from(start: int) -> list[int]:
            return [] if stopped() else self._prompt_ids(messages[start:])

        # The fewer messages, the fewer tokens: these two searches find what trying each number would find.  The first
        # takes some turns, twice as many, and so on, because the whole history may be far too long.
        n = min(FIRST_TURNS, len(starts))
        while 0 < len(ids := ids_from(starts[-n])) <= max(space, half) and n < len(starts):
            n = min(2 * n, len(starts))
        if len(ids) > space:
            starts = starts[-n:]
            start = starts[bisect_left(starts[:-1], True, key=lambda start: len(ids_from(start)) <= half)]
            ids = ids_from(start)
        if len(ids) + kept_tokens >= self.context_length:
            what = f"The prompt takes {len(ids) + kept_tokens:,} tokens of a context of {self.context_length:,}"
            hint = "Shorten the message, or the system message."
            raise TutorialError(f"{what}, and no older messages are left to remove.", hint)
        return (ids, start) if ids else (ids, first)


class Answer:
    """An answer in progress.  Iterating over it, once, generates it; the chunks of text, joined, are the answer.

    A chunk is empty while a long prompt is prefilled: see Conversation.prefill_progress.  An answer over which nobody
    iterates changes nothing.  If the iteration is abandoned, the answer ends there and its text so far is kept.

    `messages` are those that it answers, `tokens` those generated so far; `finish_reason`, one of FINISH_REASONS, is
    None until it ends.  `thinking` tells whether the last chunk is of a thought; the other chunks are the answer.  The
    iteration raises TutorialError, and changes nothing, for messages that do not fit into the context, and when the
    conversation has changed since the answer was requested.
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
        """The statistics so far.  Times are measured at the caller, so they include tokenization and display."""
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
        """Return the tokens of the prompt, how many of them were cached, and the new ones."""
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
            found.append("The answer is the same, because the settings are. Raise the temperature, or change the seed.")
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
                if is_thought or self.thinking:  # its last token is that before the answer's first
                    self._thought_tokens = len(self.tokens) - (not is_thought)
                self.thinking = is_thought
                yield chunk
                if conversation.history and time.monotonic() >= conversation.history.due:
                    self._keep_so_far()
        except BaseException as error:
            if conversation.messages is self.messages:  # else it has changed nothing yet
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
        """Make the prompt, and replace the conversation's messages by those that are answered."""
        conversation, (messages_before, _) = self.conversation, self._before
        self._make_prompt()
        removes = self.messages[: len(messages_before)] != messages_before
        with conversation._lock:
            if conversation.messages is not messages_before:  # by load, clear, or an answer that was used first
                raise TutorialError("The conversation has changed since this answer was requested.", "Ask again.")
            if removes and not self.extends:
                conversation._keep_branch()
            conversation._undo = (*self._before, conversation._branches, "") if removes else None
            conversation.messages, conversation.truncated_messages = self.messages, self.truncated_messages

    def _make_prompt(self) -> None:
        """Make the prompt, without messages that do not fit.  Raises TutorialError; then nothing has changed."""
        conversation, kept = self.conversation, [token.id for token in self.tokens]
        if max(kept, default=0) >= vocabulary_size(conversation.model.config):  # of a file
            raise TutorialError("The answer has tokens that are not in the model's vocabulary.", "Edit the question.")
        ids, self.truncated_messages = conversation._truncate_to_context(self.messages, len(kept), self._stop.is_set)
        self._ids = ids + kept  # the latter are prefilled, too
        self._inside = conversation.tok.decode(ids[-16:]).rstrip().endswith(conversation.tags[0])

    def _keep_so_far(self) -> None:
        """Write the answer so far to the history, as one that was stopped, which it is if this process is killed."""
        if self.conversation.history:
            message = replace(self.message, stats=replace(self.stats, finish_reason="stopped"))
            self.conversation._keep([*self.messages, message])

    def _prefill(self) -> Iterator[str]:
        """Prefill a long prompt in chunks, all but a short rest; yield an empty chunk of text before each."""
        for progress in self.conversation._cache.prefill(self._ids, self._stop.is_set):
            self.conversation.prefill_progress = progress
            self._cached_tokens = progress[0] if self._cached_tokens is None else self._cached_tokens
            yield ""

    def _texts(self) -> Iterator[str]:
        """Yield the text of the answer as it grows; in the end set finish_reason."""
        return stream_decode(self.conversation.tok, self._token_ids())

    def _token_ids(self) -> Iterator[int]:
        """Yield the kept ids, then new ones as they are generated; in the end set finish_reason."""
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


def _user_message(text: str) -> Message:
    if not isinstance(text, str) or not text.strip():
        raise TutorialError("The message is empty.", "Write something.")
    return Message("user", text)


def trim_malloc() -> None:
    """Return freed memory to the system, where the C library is glibc, which would keep most of it.

    Prompts have many lengths, so freed blocks have many sizes: after 70 messages glibc kept 150 MiB.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # a different C library
            ctypes.CDLL(None).malloc_trim(0)

"""Conversations with a model: messages, versions, undo, and truncation to the context.  Nothing is displayed here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from threading import RLock

from helpers.chat.answer import Answer, require_idle
from helpers.chat.history import History
from helpers.chat.messages import Branch, Message, fingerprint, load_conversation, to_json, to_markdown
from helpers.chat.thinking import thought_tags
from helpers.errors import TutorialError, check_int
from helpers.files import atomic_write_text
from helpers.generate.loop import PromptCache
from helpers.generate.sampling import CHAT, Sampling
from helpers.load.config import context_length as longest_context
from helpers.tokenize import has_system_role, prompt_ids, thinks_by_default

FIRST_TURNS = 64  # how many of the newest turns are tried first when a prompt is built


class Conversation:
    """A conversation with one model; the KV cache is kept between answers.

    `system`, `sampling`, `max_new_tokens` and `thinking` may be changed between answers.  `thinking` is None if the
    chat template cannot switch thoughts on and off.  `messages` does not contain the system message; if the template
    has no system role, it is placed at the beginning of the first user message, as the makers of Gemma and Mistral do.
    The first `truncated_messages` messages are no longer in the prompt: when the context is full, the oldest are left
    out, each question together with its answer.  `context_length` may be shorter than the model's.  With `lookup`,
    tokens are drafted from the text so far where that is faster (see generate).

    edit, regenerate and branch keep what they replace: a message then has several versions, and switch shows a
    different one, with what followed it.  If `history` is set, the conversation is saved there as it grows.
    """

    server = ""  # host and port of the server that runs the model; empty if this process does

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
            raise TutorialError("This model's chat template cannot switch thinking on or off.", "Leave out `thinking`.")
        self.thinking, self.tags = default if thinking is None else thinking, thought_tags(tok)
        self.model, self.tok, self.lookup, self._cache = model, tok, lookup, PromptCache(model)
        self._set_up(system, sampling, max_new_tokens, alternatives, context_length or longest)

    def _set_up(self, system, sampling, max_new_tokens, alternatives, context_length) -> None:
        self.system, self.sampling, self.max_new_tokens = system, sampling, max_new_tokens
        self.alternatives, self.context_length = alternatives, context_length
        self.messages: list[Message] = []  # replaced at each change, never changed in place
        self.truncated_messages = 0
        self.prefill_progress = (0, 0)  # tokens of the prompt: in the KV cache, total
        self._answer: Answer | None = None  # the most recent one, until it ends
        self._lock = RLock()  # held while messages are replaced, which any thread may do
        self._branches: list[Branch] = []  # what was shown before each edit or switch, oldest first
        # messages, truncated_messages, _branches, the name in the history
        self._undo: tuple[list[Message], int, list[Branch], str] | None = None
        self.history: History | None = None
        self._fingerprint = ""  # of the tokenizer, computed when first needed

    @property
    def answering(self) -> bool:
        """Whether an answer is being generated."""
        return self._answer is not None and self._answer.started

    def say(self, text: str) -> Answer:
        """Return the answer to a new user message.  Raises TutorialError if `text` is empty or not a string."""
        return self._new_answer([*self.messages, _user_message(text)])

    def edit(self, number: int, text: str) -> Answer:
        """Return the answer to `text`, which replaces the user's message `number`; the old text stays as a version."""
        self._require_message(number, "user")
        return self._new_answer([*self.messages[:number], _user_message(text)])

    def regenerate(self) -> Answer:
        """Return a new answer to the last user message.

        With greedy decoding or a seed, and with reference settings, it equals the old one.
        """
        if not self.messages:
            raise TutorialError("There is no answer to regenerate.", "Send a message first.")
        return self._new_answer(self.messages[:-1])

    def resume(self) -> Answer:
        """Return an answer that continues the last one after max_new_tokens, Stop or an error ended it.

        The chunks of text begin with the part that is kept, which does not become a separate version.
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
                if self.history:  # the saved file stays, and a new conversation begins
                    self.history.start()

    @property
    def can_undo(self) -> bool:
        """Whether there is something that undo() can restore."""
        return self._undo is not None and not self.answering

    def undo(self) -> None:
        """Restore the messages that the last clear, edit, regenerate, resume or branch replaced."""
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
        """Continue with a different model.  Messages keep their tokens only if both tokenizers have the same ids."""
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
        """Return the versions of message `number`, oldest first: those with the same messages before them."""
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
        """Return the JSON that save writes; if `messages` is given, for these instead of those shown."""
        with self._lock:
            shown = self.messages if messages is None else messages
            self._fingerprint = self._fingerprint or fingerprint(self.tok)
            return to_json(self._fingerprint, self.system, self.truncated_messages, shown, self._branches)

    def load(self, path: Path | str, name: str = "") -> None:
        """Continue a saved conversation, as `name` in the history.  Raises TutorialError, and then changes nothing."""
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
        """Return the messages shown, without their other versions, as Markdown."""
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
        """Return a message's text, with its thought, even an unfinished one, if the template recognizes thoughts."""
        opening, closing = self.tags
        if not message.parts[2] or closing not in str(self.tok.chat_template):
            return message.answer
        return f"{opening}\n{message.thought}\n{closing}\n\n{message.answer}"

    def _truncate_to_context(
        self, messages: Sequence[Message], kept_tokens: int, stopped: Callable[[], bool]
    ) -> tuple[list[int], int]:
        """Return the prompt ids of `messages` without the oldest ones that do not fit, and how many are left out.

        Room is reserved for max_new_tokens, but for at most a quarter of the context.  If the prompt does not fit into
        the rest, messages are left out until it fills at most half of the context: a changed beginning means that the
        whole prompt is prefilled again, so it is better to truncate rarely and by a lot.  When `stopped` returns True,
        the ids are empty.
        """
        first = self.truncated_messages if self.truncated_messages < len(messages) else 0
        space = self.context_length - min(self.max_new_tokens, self.context_length // 4) - kept_tokens
        starts, start, half = range(first, len(messages), 2), first, self.context_length // 2

        def ids_from(start: int) -> list[int]:
            return [] if stopped() else self._prompt_ids(messages[start:])

        # Leaving out messages never adds tokens, so these two searches find what trying each number would find.  The
        # first doubles the number of turns at each step, because the whole history may be far too long to tokenize.
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


def _user_message(text: str) -> Message:
    if not isinstance(text, str) or not text.strip():
        raise TutorialError("The message is empty.", "Write something.")
    return Message("user", text)

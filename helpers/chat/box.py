"""The chat box: a view of a Conversation that streams, stops, and shows what an answer cost and nearly was."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ipywidgets import FloatText, IntText, Layout, Text, Textarea, ToggleButton, VBox

from helpers.chat import widget
from helpers.chat.conversation import Conversation
from helpers.chat.degenerate import describe_degeneration
from helpers.chat.messages import Message
from helpers.chat.widget import ChatWidget
from helpers.errors import TutorialError
from helpers.generate.sampling import Sampling

PAUSE, LONGEST = 0.06, 0.5  # seconds between two looks at an answer that is being written
SAME_ANSWER_HINT = "Same settings, same answer: raise the temperature, or change the seed, for another."
CONTROLS = {  # name and tip of each
    "System message": "What the model is told before the first message: who it is, how to answer",
    "Temperature": "0 takes the likeliest token each time; higher gives more surprising answers",
    "Top-p": "Choose only among the likeliest tokens that together have this share; 1 is all of them",
    "Repetition penalty": "Above 1, what was said already becomes less likely",
    "Length": "The most tokens that one answer may have",
    "Seed": "A whole number: the same seed gives the same answer; nothing: another one each time",
}


class ChatBox(VBox):
    """A chat with `conversation`'s model.  From code: submit, wait, stop, regenerate, edit, branch, clear, undo.

    Each of these that asks for an answer returns at once, and a thread writes it; it raises TutorialError for what
    cannot be asked, or while an answer is being written.  `status` is the sentence below the log, `error` the
    traceback of an answer that broke off, or "".
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation, self.error = conversation, ""
        self._lock, self._thread = threading.RLock(), None
        self._before: tuple[list[Message], int] | None = None  # what undo brings back
        self.transcript = ChatWidget(self._actions())
        self.settings = AnswerSettings(conversation, self._tell_settings)
        super().__init__([self.transcript, self.settings], layout=Layout(max_width="820px"))
        self._settle("")

    @property
    def status(self) -> str:
        return self.transcript.status

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self.transcript.busy

    def submit(self, text: str) -> None:
        """Say `text`."""
        text = _whole(text)
        self._begin(lambda: self.conversation.say(text), [*self.conversation.messages, Message("user", text)])

    def edit(self, number: int, text: str) -> None:
        """Say `text` instead of message `number`; what came after it goes, until undo."""
        text = _whole(text)
        kept = [*self.conversation.messages[:number], Message("user", text)]
        self._begin(lambda: self.conversation.edit(number, text), kept)

    def regenerate(self) -> None:
        """Answer the last message once more."""
        messages = self.conversation.messages
        asked = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
        self._begin(self.conversation.regenerate, messages[: asked + 1], old=messages[asked + 1 :])

    def branch(self, number: int, position: int, token_id: int) -> None:
        """Take another of the likely tokens at that position of answer `number`, and go on from there."""
        kept = self.conversation.messages[:number]
        self._begin(lambda: self.conversation.branch(number, position, token_id), kept, given=position + 1)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer's end, at most `timeout` seconds; False if it is still being written.

        Interrupting the kernel meanwhile stops the answer.
        """
        try:
            if self._thread:
                self._thread.join(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        return not self.busy

    def stop(self) -> None:
        """End the answer after its next token; what there is of it stays."""
        self.conversation.stop()

    def clear(self) -> None:
        """Begin anew; undo brings the turns back."""
        with self._lock:
            self._require_idle()
            if self.conversation.messages:
                self._before = (self.conversation.messages, self.conversation.truncated_messages)
                self.conversation.clear()
                self._settle("Cleared. Undo brings the messages back.")

    def undo(self) -> None:
        """Bring back what the last clear, edit, regenerate or branch took away."""
        with self._lock:
            self._require_idle()
            if self._before is None:
                raise TutorialError("There is nothing to bring back.")
            self.conversation.messages, self.conversation.truncated_messages = self._before
            self._before = None
            self._settle("The messages are back.")

    def export(self) -> str:
        """The conversation as Markdown."""
        return self.conversation.markdown()

    def refresh(self) -> None:
        """Draw the conversation as it is; needed only where other code has changed it."""
        with self._lock:
            self._require_idle()
            self._settle("")

    def _settle(self, status: str) -> None:
        conversation = self.conversation
        used = next(
            (message.figures.context_tokens for message in reversed(conversation.messages) if message.figures), 0
        )
        self.transcript.draw(
            conversation.messages,
            status,
            truncated_messages=conversation.truncated_messages,
            context=[used, conversation.context_length],
            can_undo=self._before is not None,
            busy=False,
        )

    def _begin(
        self,
        ask: Callable[[], Iterator[str]],
        kept: Sequence[Message],
        old: Sequence[Message] = (),
        given: int = 0,
    ) -> None:
        """Show the `kept` messages, and let a thread write the answer that `ask` returns the pieces of.

        `old` is what the answer takes the place of, `given` how many tokens it begins with.
        """
        with self._lock:
            self._require_idle()
            pieces, conversation = ask(), self.conversation
            loses = list(kept[: len(conversation.messages)]) != conversation.messages
            self._before = (conversation.messages, conversation.truncated_messages) if loses else None
            self.error = ""
            self.transcript.draw(kept, "Reading…", busy=True, can_undo=False)
            work = (pieces, len(kept), old, given)
            self._thread = threading.Thread(target=self._work, args=work, daemon=True)
            self._thread.start()

    def _work(self, pieces, number, old, given) -> None:
        truncated_messages, said = self.conversation.truncated_messages, ""
        try:
            self._stream(pieces, number)
            said = self._result(old, given, truncated_messages)
        except TutorialError as error:
            self.error, said = traceback.format_exc(), str(error)
        except Exception as error:  # whatever it is, it ends this answer and not the chat
            self.error = traceback.format_exc()
            self.log.error("The answer broke off.\n%s", self.error)
            said = f"The answer broke off by an error ({type(error).__name__}: {error}). What is written stays; "
            said += "go on, or try Regenerate."
        finally:
            with self._lock:
                self._settle(said)

    def _stream(self, pieces, number) -> None:
        """Show the answer as it grows, every PAUSE; a long one more seldom, so that drawing takes 2 % of the time."""
        text, due = "", 0.0
        for piece in pieces:
            if not text:
                self._tell_progress(piece)
            text += piece
            now = time.monotonic()
            if piece and now >= due:
                self.transcript.write(number, text)
                due = now + min(LONGEST, max(PAUSE, 50 * (time.monotonic() - now)))

    def _tell_progress(self, piece: str) -> None:
        read, all_of_it = self.conversation.prefill_progress
        reading = f"Reading {read:,} of {all_of_it:,} tokens…"
        self.transcript.tell("Writing…" if piece else reading, truncated_messages=self.conversation.truncated_messages)

    def _result(self, old: Sequence[Message], given: int, truncated_messages: int) -> str:
        """The sentence after an answer."""
        conversation = self.conversation
        answer = conversation.messages[-1]
        said = [widget.stats_sentence(answer.figures, given)]
        if warning := describe_degeneration(answer.content, [step.id for step in answer.steps]):
            said.append(warning)
        if conversation.truncated_messages > truncated_messages:
            said.append(
                f"The context is full: the model no longer sees the first {conversation.truncated_messages} messages."
            )
        settled = conversation.sampling.temperature == 0 or conversation.sampling.seed is not None
        if settled and [message.content for message in old] == [answer.content]:
            said.append(SAME_ANSWER_HINT)
        return " ".join(said)

    def _tell_settings(self, sentence: str) -> None:
        if not self.busy:
            self.transcript.tell(sentence)

    def _require_idle(self) -> None:
        if self.busy:
            raise TutorialError("An answer is being written.", "Wait for its end, or stop it.")

    def _actions(self) -> dict[str, Callable[[dict], object]]:
        """What the browser may ask for."""
        return {
            "say": lambda request: self.submit(request["text"]),
            "edit": lambda request: self.edit(int(request["number"]), request["text"]),
            "regenerate": lambda request: self.regenerate(),
            "branch": lambda request: self.branch(*(int(request[name]) for name in ("number", "position", "token"))),
            "stop": lambda request: self.stop(),
            "clear": lambda request: self.clear(),
            "undo": lambda request: self.undo(),
            "export": lambda request: self.export(),
            "xray": lambda request: self._xray(int(request["number"])),
        }

    def _xray(self, number: int) -> list[dict]:
        messages = self.conversation.messages
        if not (0 <= number < len(messages) and messages[number].steps):
            raise TutorialError(f"Message {number} has no tokens to show.")
        return widget.xray(self.conversation.tok, messages[number])

    def __repr__(self) -> str:
        return "ChatBox()"


def _whole(text: str) -> str:
    """`text` without halves of surrogate pairs, which a browser may send and a tokenizer refuses."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(text, str) else text


class AnswerSettings(VBox):
    """A button, and below it what it shows and hides; each change reaches `conversation` at once.

    `tell` gets a sentence about each change.  A value that has no meaning changes nothing.
    """

    def __init__(self, conversation: Conversation, tell: Callable[[str], None]) -> None:
        self.conversation, self.tell = conversation, tell
        self.controls = VBox(self._controls(), layout=Layout(display="none"))
        # An Accordion would look as well, but no key opens it: its title takes no focus.
        self.shown = ToggleButton(description="Settings", tooltip="Show or hide what the next answer is made with")
        self.shown.add_class("ovchat-settings")
        self.shown.observe(self._show, "value")
        super().__init__([self.shown, self.controls])

    def _show(self, change) -> None:
        self.controls.layout.display = None if change.new else "none"

    def _controls(self) -> list:
        conversation, sampling = self.conversation, self.conversation.sampling
        look = {"style": {"description_width": "10em"}, "continuous_update": False, "layout": Layout(width="20em")}
        self.system = Textarea(conversation.system, **look | {"layout": Layout(width="auto")})
        self.temperature = FloatText(sampling.temperature, step=0.1, **look)
        self.top_p = FloatText(sampling.top_p, step=0.05, **look)
        self.repetition_penalty = FloatText(sampling.repetition_penalty, step=0.05, **look)
        self.length = IntText(conversation.max_new_tokens, **look)
        self.seed = Text("" if sampling.seed is None else str(sampling.seed), **look)
        controls = [self.system, self.temperature, self.top_p, self.repetition_penalty, self.length, self.seed]
        for control, (name, tip) in zip(controls, CONTROLS.items(), strict=True):
            control.description, control.tooltip = name, tip  # the description is the accessible name
            control.observe(self._take, "value")
        return controls

    def _take(self, _) -> None:
        conversation, length = self.conversation, self.length.value
        try:
            sampling = self._sampling()
            if length < 1:
                raise TutorialError(f"A length of {length} is no answer.", "Ask for 1 token or more.")
        except TutorialError as error:
            self.tell(f"Not taken over. {error}")
            return
        conversation.system, conversation.sampling, conversation.max_new_tokens = self.system.value, sampling, length
        self.tell("The settings hold from the next answer on.")

    def _sampling(self) -> Sampling:
        """What the controls show.  Raises TutorialError for values that have no meaning."""
        seed = self.seed.value.strip()
        if not re.fullmatch("[0-9]{0,18}", seed):
            raise TutorialError(f"{seed!r} is not a seed.", "That is a whole number, or nothing.")
        return replace(
            self.conversation.sampling,
            temperature=self.temperature.value,
            top_p=self.top_p.value,
            repetition_penalty=self.repetition_penalty.value,
            seed=int(seed) if seed else None,
        )

    def __repr__(self) -> str:
        return "AnswerSettings()"

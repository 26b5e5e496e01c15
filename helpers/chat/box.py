"""The chat box for notebooks: shows a Conversation, streams its answers, and offers stop, edit, branch, undo."""

import re
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from weakref import WeakSet

from IPython import get_ipython
from ipywidgets import Checkbox, Dropdown, FloatText, IntText, Layout, Text, Textarea, ToggleButton, VBox, Widget

from helpers import settings as project
from helpers.chat.answer import Answer, require_idle
from helpers.chat.conversation import Conversation
from helpers.chat.history import History
from helpers.chat.messages import stats_line
from helpers.chat.picture import to_html
from helpers.chat.widget import ChatWidget, xray
from helpers.errors import TutorialError, check_int
from helpers.files import is_ir
from helpers.load import load_fast

MIN_INTERVAL, MAX_INTERVAL = 0.06, 0.5  # seconds between two updates of an answer in progress
RULES = {  # what a value must be
    "temperature": "0 or at least 0.000001",
    "top_p": "a number above 0 and at most 1",
    "repetition_penalty": "a number from 0.000001 to 1,000,000",
    "max_new_tokens": "an integer of 1 or more",
    "seed": "an integer of at most 18 digits, or empty",
}
CONTROLS = {  # by attribute of AnswerSettings: control, step of an arrow key, label, tooltip
    "system": (Textarea, None, "System message", "Instructions to the model before the first message"),
    "temperature": (FloatText, 0.1, "Temperature", "0: always the most likely token; higher: more random"),
    "top_p": (FloatText, 0.05, "Top-p", "Sample only from the most likely tokens up to this total probability; 1: all"),
    "repetition_penalty": (FloatText, 0.05, "Repetition penalty", "Above 1: repeated tokens become less likely"),
    "max_new_tokens": (IntText, 1, "Max new tokens", "The maximum number of tokens in an answer"),
    "seed": (Text, None, "Seed", "An integer: the same seed gives the same answer; empty: a new answer each time"),
    "thinking": (Checkbox, None, "Thinking", "Let the model think before it answers"),  # if the template has a switch
}


class ChatBox(VBox):
    """A chat with `conversation`'s model.  From code: submit, edit, regenerate, resume, branch, use, wait, stop,
    versions, switch, clear, undo, open.  The conversation is kept on disk as it grows, unless `keep` is False.

    The first six return at once, and a thread does the work; they raise TutorialError for invalid arguments, and
    while an answer is generated or a model is loaded.  `status` is the status line below the message field, `error` the
    traceback of an answer or a load that failed, or "".  A message that does not fit into the context fails as well,
    and changes nothing.

    Interrupting the kernel stops the answer if no cell is running.  A box closes when its cell makes a new one.
    """

    _thread: threading.Thread | None = None  # generates an answer, or loads a model

    def __init__(self, conversation: Conversation, keep: bool = True) -> None:
        if keep and conversation.history is None:
            conversation.history = History()
        self.conversation, self.error, self._lock = conversation, "", threading.RLock()
        self._join_kernel()
        requests = ("submit", "edit", "regenerate", "resume", "branch", "switch", "stop", "clear", "undo", "export")
        requests += ("xray", "conversations")
        requests += ("rename", "delete") if conversation.history else ()
        self.widget = ChatWidget({name: getattr(self, name) for name in requests} | {"open": self._open})
        self.settings = AnswerSettings(conversation, self._report_settings, self.use)
        super().__init__([self.widget, self.settings], layout=Layout(width="100%"))
        self.add_class("ovchat-box")
        self._show("")

    def _last(self) -> str:
        """Return the name of the newest kept conversation that is not damaged, or ""."""
        entries = self.conversation.history.entries() if self.conversation.history else []
        return next((entry.name for entry in entries if not entry.damaged), "")

    def _join_kernel(self) -> None:
        """Close the boxes of earlier runs of this cell, and let interrupts stop answers while no cell is running."""
        request = getattr(get_ipython(), "get_parent", dict)()
        self._cell, self._run = request.get("metadata", {}).get("cellId"), request.get("header", {}).get("msg_id")
        for box in list(_boxes):
            if self._cell and box._cell == self._cell and box._run != self._run:
                box.close()
                box.conversation = box.settings.conversation = None  # IPython's Out keeps the box itself
        _boxes.add(self)
        kernel = getattr(get_ipython(), "kernel", None)
        if hasattr(kernel, "saved_sigint_handler"):  # private: handles SIGINT between cells; ignores it by default
            kernel.saved_sigint_handler = lambda *_: [box.stop() for box in list(_boxes) if box.busy]

    @property
    def status(self) -> str:
        return self.widget.status

    @property
    def busy(self) -> bool:
        """Whether an answer is being generated, or a model is being loaded."""
        return self._thread is not None

    def submit(self, text: str) -> None:
        """Send a message."""
        self._begin(lambda: self.conversation.say(_well_formed(text)))

    def edit(self, number: int, text: str) -> None:
        """Replace the user's message `number`; the old one, and what followed, stays as a version."""
        self._begin(lambda: self.conversation.edit(number, _well_formed(text)))

    def regenerate(self) -> None:
        """Generate the last answer again; the old one stays as a version."""
        self._begin(lambda: self.conversation.regenerate())

    def resume(self) -> None:
        """Continue the last answer after max_new_tokens, Stop or an error ended it."""
        self._begin(lambda: self.conversation.resume())

    def use(self, name: str, format: str | None = None) -> None:
        """Continue the conversation with the model `name`.

        `format` is its weight format: by default the current one if it is on this disk, else one that is.  The model
        must be on this disk: python -m helpers models.  The status says how long it took to load.
        """
        if self.conversation.server:
            raise TutorialError("This model runs on a server.", "For its other models, call conversation.use(name).")
        now = self._settings or project.load()
        found = [folder.name for folder in dict(project.on_disk()).get(name, ()) if folder.name in project.FORMATS]
        format = format or (now.format if now.format in found or not found else found[0])
        wanted = project.check(replace(now, model=name, format=format))
        with self._lock:
            self._require_idle()
            self._thread = threading.Thread(target=self._load, args=[wanted], daemon=True)
            self.widget.set_status(f"Loading {name} · {format}…", busy=True, loading=True)
            self._thread.start()

    def _load(self, wanted: project.Settings) -> None:
        started, status, conversation = time.perf_counter(), "", self.conversation  # None when the cell is run again
        try:
            model, tok, _ = load_fast(wanted)
            conversation.use(model, tok)
            status = f"Loaded {wanted.model} · {wanted.format} in {time.perf_counter() - started:.1f} s."
            if conversation.messages:
                tokens = len(conversation.prompt())
                status += f" The next answer prefills the whole conversation: {tokens:,} tokens."
        except Exception as error:  # from the reader's files; the conversation keeps its present model
            self.error, status = traceback.format_exc(), f"{wanted.model} cannot be used. {error}"
        finally:
            with self._lock:
                self._thread = None
                self._show(status)
                if self.conversation:
                    self.settings.refresh()

    @property
    def _settings(self) -> project.Settings | None:
        return getattr(self.conversation.model, "settings", None)  # only models from load_model have settings

    def branch(self, number: int, position: int, token_id: int) -> None:
        """Continue answer `number` from a different token at `position`."""
        self._begin(lambda: self.conversation.branch(number, position, token_id))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, until the answer or the loading of a model ends; return whether it has.

        Interrupting the kernel during the wait stops the answer.
        """
        try:
            if thread := self._thread:
                thread.join(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        return not self.busy

    def stop(self) -> None:
        """Stop the answer after its next token; its text so far is kept."""
        self.conversation.stop()

    def close(self) -> None:
        """Stop the answer and remove the box from all its views, so that it can be freed; the conversation stays."""
        if self.busy:
            self.stop()
        _close(self)
        super().close()

    def clear(self) -> None:
        """Remove all messages; undo restores them."""
        self._change(self.conversation.clear, "Cleared. Undo restores the messages.")

    def undo(self) -> None:
        """Restore what the last clear, edit, regenerate, resume or branch replaced."""
        self._change(self.conversation.undo, "The messages are restored.")

    def versions(self, number: int) -> tuple[int, int]:
        """Return which version of message `number` is shown, counted from 1, and how many there are."""
        return self.conversation.versions(number)

    def switch(self, number: int, version: int) -> None:
        """Show a different version of message `number`, and what followed it."""
        self._change(lambda: self.conversation.switch(number, version), "")
        current, total = self.versions(number)
        self.widget.set_status(f"Version {current} of {total}.")

    def refresh(self) -> None:
        """Show the conversation as it is; needed only after other code has changed it."""
        self._change(lambda: None, "")

    def open(self, name: str | None = None) -> None:
        """Continue the kept conversation `name`.  Without a name, call the method `open` of ipywidgets."""
        super().open() if name is None else self._open(name)

    def _open(self, name: str) -> None:
        def change() -> None:
            self.conversation.open(name)
            self.settings.show_values()

        self._change(change, f"Opened {name}.")

    def conversations(self) -> list[dict]:
        """Return the kept conversations, newest first: name, time of the last write, and whether damaged or current."""
        if (history := self.conversation.history) is None:
            return []
        return [vars(entry) | {"current": entry.name == history.name} for entry in history.entries()]

    def rename(self, name: str, new: str) -> list[dict]:
        """Rename a kept conversation, and return them all."""
        self.widget.set_status(f"Renamed to {self.conversation.history.rename(name, new)}.")
        return self.conversations()

    def delete(self, name: str) -> list[dict]:
        """Delete a kept conversation, and return the others."""
        self.conversation.history.delete(name)
        self.widget.set_status(f"Deleted {name}.", last=self._last())
        return self.conversations()

    def export(self, format: str = "md") -> str:
        """Return the conversation as Markdown ("md"), or with all versions, tokens and statistics as JSON ("json")."""
        if format not in ("md", "json"):
            raise TutorialError(f"There is no export as {format!r:.20}.", "Choose md or json.")
        return self.conversation.json() if format == "json" else self.conversation.markdown()

    def xray(self, number: int) -> list[dict]:
        """Return the tokens of answer `number`, each with its probability and its alternatives."""
        messages = self.conversation.messages
        if not (number in range(len(messages)) and messages[int(number)].tokens):
            raise TutorialError(f"Message {number!r:.20} has no tokens to show.")
        return xray(self.conversation.tok, messages[int(number)])

    def _require_idle(self) -> None:
        if self.widget.loading:
            raise TutorialError("A model is being loaded.", "Wait until it is ready.")
        require_idle(self.busy)

    def _change(self, change: Callable[[], None], status: str) -> None:
        with self._lock:
            self._require_idle()
            change()
            self._show(status)

    def _show(self, status: str) -> None:
        conversation = self.conversation
        if conversation is None:  # closed
            return
        told = (each.stats for each in reversed(conversation.messages) if each.stats and each.stats.prompt_tokens)
        used = next((stats.context_tokens for stats in told), 0)
        versions = [conversation.versions(number) for number in range(len(conversation.messages))]
        traits = {"truncated_messages": conversation.truncated_messages, "can_undo": conversation.can_undo}
        traits |= {"context": [used, conversation.context_length or 0], "busy": self.busy, "about": self.about}
        traits["loading"] = False
        traits["last"] = "" if conversation.messages else self._last()
        self.widget.show_messages(conversation.messages, status, versions, **traits)

    def _begin(self, request: Callable[[], Answer]) -> None:
        """Show the messages to be answered, and start the thread that generates the answer."""
        with self._lock:
            self._require_idle()
            answer = request()
            self.error = ""
            self._thread = threading.Thread(target=self._work, args=[answer], daemon=True)
            self.widget.show_messages(answer.messages, "Prefill…", busy=True, can_undo=False)
            self._thread.start()

    def _work(self, answer: Answer) -> None:
        status = ""
        try:
            self._stream(answer)
            status = " ".join([f"{stats_line(answer.stats)}.", *answer.warnings()])
        except TutorialError as error:
            self.error, status = traceback.format_exc(), str(error)
        except Exception as error:  # whatever it is, it ends this answer and not the chat
            self.error = traceback.format_exc()
            self.log.error("The answer ended with an error.\n%s", self.error)
            status = f"The answer ended with an error ({type(error).__name__}: {error}). Its text so far is kept. "
            status += "Continue, or try Regenerate."
        finally:
            asked, kept = answer.messages[-1], answer.conversation.messages
            if not (answer.finish_reason or any(asked is message for message in kept)):
                self.widget.send({"type": "refused", "text": asked.content})  # so that nothing typed is lost
            with self._lock:
                self._thread = None
                self._show(status)

    def _stream(self, answer: Answer) -> None:
        """Show the answer as it grows; a long one less often, to limit the time spent on rendering."""
        text, thought, due, shown = "", "", 0.0, ""
        for piece in answer:
            done, total = answer.conversation.prefill_progress
            progress = ("Thinking…" if answer.thinking else "Generating…") if piece else ""
            progress = progress or f"Prefill: {done:,} of {total:,} tokens"
            if progress != shown:
                self.widget.set_status(progress, truncated_messages=answer.truncated_messages)
                shown = progress
            text, thought = (text, thought + piece) if answer.thinking else (text + piece, thought)
            now = time.monotonic()
            if piece and now >= due:
                self.widget.show_draft(len(answer.messages), text, thought)
                due = now + min(MAX_INTERVAL, max(MIN_INTERVAL, 100 * (time.monotonic() - now)))

    def _report_settings(self, sentence: str) -> None:
        if not self.busy:  # otherwise it would hide the progress
            self.widget.set_status(sentence)

    @property
    def about(self) -> str:
        """The model with its weight format and device, or with its server, as the box shows them."""
        if self.conversation.server:
            return f"{self.conversation.model} · {self.conversation.server}"
        chosen = self._settings
        return f"{chosen.model} · {chosen.format} · {chosen.device}" if chosen else ""

    def _repr_mimebundle_(self, **options) -> dict:
        """Add the messages as static HTML, for viewers that show only stored outputs, such as GitHub."""
        bundle = super()._repr_mimebundle_(**options)
        picture = {"text/html": to_html(self.about, self.conversation.messages)} if self.conversation.messages else {}
        return bundle | picture

    def __repr__(self) -> str:
        return "ChatBox()"


_boxes: WeakSet[ChatBox] = WeakSet()


def _close(widget) -> None:
    """Close the children, layouts and styles of `widget`, which ipywidgets would otherwise keep forever."""
    for part in [*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)]:
        if isinstance(part, Widget):
            _close(part)
            part.close()


def _well_formed(text: str) -> str:
    """Replace lone surrogates in `text`: a browser may send them, and a tokenizer refuses them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(text, str) else text


class AnswerSettings(VBox):
    """A button that shows and hides the settings of `conversation`'s next answer.

    `report` is called with a sentence about each change.  An invalid value is reset to the previous one.  When a model
    is chosen, `use` is called with its name and weight format.
    """

    def __init__(
        self, conversation: Conversation, report: Callable[[str], None], use: Callable[[str, str], None]
    ) -> None:
        self.conversation, self.report, self.use = conversation, report, use
        self._setting = False  # whether this code, not the user, is setting a control
        self.controls = VBox(self._controls(), layout=Layout(display="none"))
        # Not an Accordion: its title takes no focus, so no key opens it.
        self.shown = ToggleButton(description="Settings", tooltip="Show or hide the settings of the next answer")
        self.shown.add_class("ovchat-settings")
        self.shown.observe(self._toggle, "value")
        super().__init__([self.shown, self.controls])
        self.add_class("ovchat-controls")

    def _toggle(self, change) -> None:
        self.refresh()
        self.controls.layout.display = None if change.new else "none"

    def refresh(self) -> None:
        """Show the models on this disk, and the values in use."""
        chosen = getattr(self.conversation.model, "settings", None)
        names, format, found = [], chosen.format if chosen else "int4", []
        with suppress(TutorialError, OSError):  # settings.toml is invalid, which is reported elsewhere
            found = [] if self.conversation.server else project.on_disk()
        for name, folders in found:
            with suppress(TutorialError):  # no known model: an export of a reader's own folder
                project.check(replace(project.Settings(), model=name))
                exports = [folder.name for folder in folders if folder.name in project.FORMATS]
                names += [(name, each) for each in exports or [format for folder in folders if is_ir(folder)]]
        now = (chosen.model, chosen.format) if chosen else None
        self.show_values()
        self._setting = True
        self.model.options = [(" · ".join(name), name) for name in dict.fromkeys([*names, *filter(None, [now])])]
        self.model.value = now
        self.model.layout.display = None if names else "none"
        self._setting = False

    def show_values(self) -> None:
        """Show the values that a different model or a kept conversation has changed."""
        self._setting, thinking = True, self.conversation.thinking
        self.system.value, self.thinking.value = self.conversation.system, bool(thinking)
        self.thinking.layout.display = "none" if thinking is None else None
        self._setting = False

    def _choose(self, change) -> None:
        if self._setting or not change.new:
            return
        try:
            self.use(*change.new)
        except TutorialError as error:
            self.report(str(error))
            self.refresh()

    def _controls(self) -> list:
        sampling, seed = self.conversation.sampling, self.conversation.sampling.seed
        values = vars(self.conversation) | vars(sampling) | {"seed": "" if seed is None else str(seed)}
        values["thinking"] = bool(self.conversation.thinking)
        look = {"style": {"description_width": "10em"}}
        for name, (kind, step, label, tooltip) in CONTROLS.items():
            options = {} if kind is Checkbox else {"continuous_update": False} | ({"step": step} if step else {})
            control = kind(values[name], description=label, tooltip=tooltip, **look, **options)
            control.layout.width = "auto" if name == "system" else "20em"
            control.observe(partial(self._apply, name), "value")
            setattr(self, name, control)
        tooltip = "The models on this disk. The conversation stays; the next answer prefills all of it."
        self.model = Dropdown(description="Model", tooltip=tooltip, **look, layout=Layout(width="auto"))
        self.model.observe(self._choose, "value")
        self.show_values()
        return [self.model, *(getattr(self, name) for name in CONTROLS)]

    def _apply(self, name: str, change) -> None:
        conversation, value = self.conversation, change.new
        if self._setting:
            return
        try:
            if name == "seed":
                if not re.fullmatch("[0-9]{0,18}", text := value.strip()):
                    raise TutorialError(f"{value!r} is not a seed.")
                value = int(text) if text else None
            elif name == "max_new_tokens":
                check_int(value, name)
            if hasattr(conversation.sampling, name):
                conversation.sampling = replace(conversation.sampling, **{name: value})
            else:
                setattr(conversation, name, value)
        except TutorialError:
            self._setting, change.owner.value = True, change.old
            self._setting = False
            self.report(f"{change.owner.description} must be {RULES[name]}. {change.new!s:.30} is not applied.")
        else:
            self.report("Applies from the next answer on.")

    def __repr__(self) -> str:
        return "AnswerSettings()"

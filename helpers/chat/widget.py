"""The browser's part of the chat box: what is sent to it, and the requests that come back."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from threading import RLock

from anywidget import AnyWidget
from traitlets import Bool, Int, List, Unicode

from helpers.catalog import STARTERS
from helpers.chat.markdown import render, render_draft
from helpers.chat.messages import Message, stats_line
from helpers.decode import token_label
from helpers.errors import TutorialError

HERE = Path(__file__).parent
_render_complete = lru_cache(8192)(render)  # for complete messages only: a draft is rendered once per state


class ChatWidget(AnyWidget):
    """Log, message field, buttons, status and context meter, without a model.

    Complete messages are a trait, so that a second view and a reload show them.  The draft, an answer in progress,
    changes many times a second and is sent as custom messages, each with the complete draft, so that a lost one does no
    harm.  `actions` are the requests that the browser may send, by name: functions that take the request's fields,
    and return the data of the reply or raise TutorialError.  Each request gets a reply, whatever it contains.
    """

    # As text: a widget whose code is a path is never freed (anywidget#929).
    _esm = (HERE / "box.js").read_text(encoding="utf-8")
    _css = (HERE / "box.css").read_text(encoding="utf-8")
    messages = List().tag(sync=True)  # message_card() of each message; see get_state()
    truncated_messages = Int(0).tag(sync=True)
    busy = Bool(False).tag(sync=True)
    loading = Bool(False).tag(sync=True)  # busy with a model, which Stop cannot end
    can_undo = Bool(False).tag(sync=True)
    about = Unicode("").tag(sync=True)  # model, weight format, device
    starters = List([*STARTERS]).tag(sync=True)  # questions to begin with
    last = Unicode("").tag(sync=True)  # the kept conversation that Continue opens
    status = Unicode("").tag(sync=True)
    context = List([0, 1]).tag(sync=True)  # tokens: used, total

    def __init__(self, actions: dict[str, Callable]) -> None:
        self._sync_lock, self._sent = RLock(), []  # hold_sync may lose what a different thread sets meanwhile
        super().__init__()
        self.actions, self.draft = actions | {"draft": lambda: self.draft, "all": self.send_state}, None
        self.on_msg(self._reply)
        # ipykernel 7.4 routes a message to the subshell that last sent one on this comm, even if it is running a cell.
        # This override lets Stop through at once; without the private name, Stop would wait for the cell.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default

    def show_messages(self, messages: Sequence[Message], status: str, versions: Sequence = (), **traits) -> None:
        """Show complete messages, and set other traits, all in one update of the browser.

        `versions` has a pair for each message: which version is shown, and how many there are.
        """
        self.draft, cards = None, [message_card(message) for message in messages]
        for card, pair in zip(cards, versions, strict=False):
            card |= {"versions": list(pair)} if pair[1] > 1 else {}
        self.set_status(status, messages=cards, **traits)

    def send_state(self, key=None) -> None:
        """Send all traits, or those that have changed."""
        with self._sync_lock:
            super().send_state(key)

    def get_state(self, key=None, drop_defaults: bool = False) -> dict:
        """Return the values to send: if the messages have changed, only those from the first changed one on.

        Sending all of a long conversation twice per turn is slow on a bad network.  In addition, ZeroMQ sends messages
        of 64 KB or more without a copy and frees them in a different thread, which fragments the kernel's memory.
        """
        state = super().get_state(key, drop_defaults)
        if key is not None and "messages" in state:
            cards, pairs = state["messages"], zip(self._sent, state["messages"], strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            state["messages"], self._sent = {"from": same, "cards": cards[same:]}, cards
        return state

    def set_status(self, status: str, **traits) -> None:
        """Set the status line, and other traits, in one update of the browser."""
        with self._sync_lock, self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
            self.status = status.replace("\n", " ")

    def show_draft(self, number: int, text: str, thought: str = "") -> None:
        """Show `text`, preceded by `thought`, as the answer in progress, which will be message `number`."""
        self.draft = {"number": number, "html": render_draft(text), "thought": thought}
        self.send({"type": "draft", "draft": self.draft})

    def _reply(self, _, request: object, __) -> None:
        fields = dict(request) if isinstance(request, dict) else {}
        name, request_id = fields.pop("type", None), fields.pop("id", None)
        reply = {"type": "reply", "id": request_id if isinstance(request_id, str) else None, "ok": True, "data": None}
        try:
            reply["data"] = self.actions[name](**fields)
        except Exception as error:  # whatever the browser sends, it gets a reply
            if not isinstance(error, TutorialError):
                self.log.error("A request of the page failed.", exc_info=True)
                error = f"That request cannot be carried out ({type(error).__name__}). Reload the page."
            reply["ok"] = False
            self.set_status(str(error))
        self.send(reply)

    def __repr__(self) -> str:
        return "ChatWidget()"


def message_card(message: Message) -> dict:
    """Return what the browser shows of a message; a user's text is never HTML."""
    card = {"role": message.role, "text": message.answer}
    if message.role == "assistant":
        stats = stats_line(message.stats) if message.stats else ""
        card |= {"html": _render_complete(message.answer), "stats": stats, "xray": bool(message.tokens)}
        cut = bool(message.tokens and message.stats and message.stats.finish_reason not in (None, "eos_token"))
        card |= {"thought": message.thought, "cut": cut}
    return card


def xray(tok, message: Message) -> list[dict]:
    """Return the tokens of an answer, each with its probability and its alternatives."""
    return [
        _token(tok, token.id, token.probability)
        | {"drafted": token.drafted, "options": [_token(tok, *pair) for pair in token.alternatives]}
        for token in message.tokens
    ]


def _token(tok, token_id: int, probability: float) -> dict:
    text, kind = token_label(tok, token_id)
    return {"id": token_id, "text": text, "kind": kind, "probability": round(max(0.0, probability), 4)}  # NaN becomes 0

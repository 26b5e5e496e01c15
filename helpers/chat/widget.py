"""The chat box's view of the turns: what is sent to the browser, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import RLock

from anywidget import AnyWidget
from traitlets import Bool, Int, List, Unicode

from helpers.chat.markdown import render
from helpers.chat.messages import GenerationStats, Message
from helpers.decode import token_label
from helpers.errors import TutorialError

HERE = Path(__file__).parent
_decode_incrementally = lru_cache(1024)(render)  # a message is rendered once; a text that still grows is not remembered


class ChatWidget(AnyWidget):
    """Log, composer, buttons, status and context meter; knows no model.

    What is settled stands in traits, so that a second view and a reload draw it.  What changes many times a second,
    the answer that is being written, goes by messages, each with the whole of it: who missed one misses nothing.
    `actions` are what the browser may ask for, by name: functions of the request (a dict) that return what the answer
    to it carries, or raise TutorialError.
    """

    _esm = HERE / "box.js"
    _css = HERE / "box.css"
    messages = List().tag(sync=True)  # what card() makes of each
    truncated_messages = Int(0).tag(sync=True)  # how many of them the model no longer sees
    busy = Bool(False).tag(sync=True)
    can_undo = Bool(False).tag(sync=True)
    status = Unicode("").tag(sync=True)
    context = List([0, 1]).tag(sync=True)  # tokens: used, all

    def __init__(self, actions: dict[str, Callable[[dict], object]]) -> None:
        super().__init__()
        self.actions, self.draft = actions | {"draft": lambda request: self.draft}, None
        self._telling = RLock()  # hold_sync may lose what another thread sets meanwhile
        self.on_msg(self._answer)
        # ipykernel 7.4 hands a message to the thread that wrote last, which may be one that runs a cell for minutes.
        # This lets Stop come through at once; where the private name is missing, Stop waits for the cell.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default

    def draw(self, messages: Sequence[Message], status: str, **traits) -> None:
        """Show these as settled, and set other traits, all in one message to the browser."""
        self.draft = None
        self.tell(status, messages=[card(message) for message in messages], **traits)

    def tell(self, status: str, **traits) -> None:
        with self._telling, self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
            self.status = status.replace("\n", " ")

    def write(self, number: int, text: str) -> None:
        """Show `text` as what there is of the answer that will be message `number`."""
        self.draft = {"number": number, "html": render(text)}
        self.send({"type": "draft", "draft": self.draft})

    def _answer(self, _, request: dict, __) -> None:
        reply = {"type": "reply", "id": request["id"], "ok": True, "data": None}
        try:
            reply["data"] = self.actions[request["type"]](request)
        except TutorialError as error:
            self.tell(str(error))
            reply["ok"] = False
        self.send(reply)

    def __repr__(self) -> str:
        return "Transcript()"


def card(message: Message) -> dict:
    """What the browser draws of a message."""
    drawn = {"role": message.role, "text": message.content}
    if message.role == "assistant":
        drawn |= {
            "html": _decode_incrementally(message.content),
            "figures": stats_line(message.figures),
            "xray": bool(message.steps),
        }
    return drawn


def stats_line(figures: GenerationStats | None) -> str:
    """One line below an answer."""
    if figures is None:
        return ""
    parts = [_count(figures.answer_tokens, "token")]
    if figures.ttft_ms is not None:
        parts.append(f"first word after {_seconds(figures.ttft_ms)}")
    if figures.tpot_ms:
        parts.append(f"{_rate(figures.tpot_ms)} tokens per second")
    return " · ".join(parts) + {"stopped": " · stopped", "error": " · broken off by an error"}.get(
        figures.finish_reason, ""
    )


def stats_sentence(figures: GenerationStats, kept: int = 0) -> str:
    """What an answer cost and why it ended, for who has never seen such numbers; `kept` tokens of it were there."""
    new = figures.answer_tokens - kept
    words = ["Nothing was written." if new < 1 else _count(new, "new token" if kept else "token")]
    if figures.ttft_ms is not None and figures.tpot_ms is None:
        words[0] += f" after {_seconds(figures.ttft_ms)}."
    elif figures.tpot_ms is not None:
        words[0] += f" in {_seconds(figures.ttft_ms + figures.tpot_ms * (new - 1))}: first word after "
        words[0] += f"{_seconds(figures.ttft_ms)}, then {_rate(figures.tpot_ms)} tokens per second."
    if figures.cached_tokens:
        words.append(f"{figures.cached_tokens:,} of {figures.prompt_tokens:,} prompt tokens were still in memory.")
    ends = {
        "stopped": "Stopped.",
        "budget": f"The budget of {_count(figures.answer_tokens, 'new token')} is used up.",
        "context": "The context is full.",
    }
    return " ".join([*words, *filter(None, [ends.get(figures.finish_reason)])])


def xray(tok, message: Message) -> list[dict]:
    """The tokens of an answer, each with its probability and what else was likely there."""
    return [
        _token(tok, step.id, step.probability) | {"options": [_token(tok, *pair) for pair in step.alternatives]}
        for step in message.steps
    ]


def _token(tok, token_id: int, probability: float) -> dict:
    text, kind = token_label(tok, token_id)
    return {"id": token_id, "text": text, "kind": kind, "probability": round(probability, 4)}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 100 else f"{milliseconds / 1000:.2f} s"


def _rate(tpot_ms: float) -> str:
    rate = 1000 / max(tpot_ms, 0.001)
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"

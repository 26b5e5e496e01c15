"""The chat box's settings: stock controls for what the next answer is made with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ipywidgets import FloatText, IntText, Layout, Text, Textarea, ToggleButton, VBox

from helpers.chat import Conversation
from helpers.plumbing import TutorialError
from helpers.sampling import Sampling

CONTROLS = {  # name and tip of each
    "System message": "What the model is told before the first message: who it is, how to answer",
    "Temperature": "0 takes the likeliest token each time; higher gives more surprising answers",
    "Top-p": "Choose only among the likeliest tokens that together have this share; 1 is all of them",
    "Repetition penalty": "Above 1, what was said already becomes less likely",
    "Length": "The most tokens that one answer may have",
    "Seed": "A whole number: the same seed gives the same answer; nothing: another one each time",
}


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
        talk, sampling = self.conversation, self.conversation.sampling
        look = {"style": {"description_width": "10em"}, "continuous_update": False, "layout": Layout(width="20em")}
        self.system = Textarea(talk.system, **look | {"layout": Layout(width="auto")})
        self.temperature = FloatText(sampling.temperature, step=0.1, **look)
        self.top_p = FloatText(sampling.top_p, step=0.05, **look)
        self.repetition_penalty = FloatText(sampling.repetition_penalty, step=0.05, **look)
        self.length = IntText(talk.max_new_tokens, **look)
        self.seed = Text("" if sampling.seed is None else str(sampling.seed), **look)
        controls = [self.system, self.temperature, self.top_p, self.repetition_penalty, self.length, self.seed]
        for control, (name, tip) in zip(controls, CONTROLS.items(), strict=True):
            control.description, control.tooltip = name, tip  # the description is the accessible name
            control.observe(self._take, "value")
        return controls

    def _take(self, _) -> None:
        talk, length = self.conversation, self.length.value
        try:
            sampling = self._sampling()
            if length < 1:
                raise TutorialError(f"A length of {length} is no answer.", "Ask for 1 token or more.")
        except TutorialError as error:
            self.tell(f"Not taken over. {error}")
            return
        talk.system, talk.sampling, talk.max_new_tokens = self.system.value, sampling, length
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

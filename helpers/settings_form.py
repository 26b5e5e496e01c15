"""The form of notebook 02: choose model, format and device, and write them to settings.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from ipywidgets import HTML, Button, Dropdown, Layout, VBox

from helpers import catalog, settings
from helpers.errors import TutorialError
from helpers.load.device import choose_device
from helpers.settings import Settings, display_path

FORMATS = {"int4": "weights in 4 and 8 bits", "int8": "weights in 8 bits", "fp16": "weights in 16 bits"}


def settings_form(
    setup: Settings,
    path: Path = settings.SETTINGS_FILE,
    devices: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> SettingsForm:
    """Three choices, which start at `setup`'s, and a button that writes them to `path`.

    What else is in `setup` is written as it is.  `devices` are OpenVINO's of this machine, unless given.
    Raises TutorialError for settings that cannot be.
    """
    return SettingsForm(settings.check(setup), path, _device_options(setup, devices), environ)


class SettingsForm(VBox):
    """What settings_form makes.  `model`, `format`, `device` and `save` can be set and clicked from code too."""

    def __init__(self, setup, path, device_options, environ):
        self.setup, self.path, self.environ = setup, path, environ
        look = {"layout": Layout(width="95%", max_width="42em"), "style": {"description_width": "5em"}}
        models = [(f"{model.name}: {model.title}", model.name) for model in catalog.MODELS.values()]
        self.model = Dropdown(description="Model", options=models, value=setup.model, **look)
        self.format = Dropdown(description="Format", **look)
        self.device = Dropdown(description="Device", options=device_options, value=setup.device, **look)
        self.needs, self.save, self.status = HTML(), Button(description="Save", button_style="primary"), HTML()
        super().__init__([self.model, self.format, self.device, self.needs, self.save, self.status])
        self._offer_formats()
        self._tell_needs()
        self.model.observe(self._offer_formats, "value")
        for choice in (self.model, self.format, self.device):
            choice.observe(self._tell_needs, "value")
        self.save.on_click(self._save)

    @property
    def choice(self) -> Settings:
        """The settings as the form shows them now."""
        return replace(self.setup, model=self.model.value, format=self.format.value, device=self.device.value)

    def _offer_formats(self, _=None) -> None:
        names = catalog.find(self.model.value).flags
        kept = self.format.value or self.setup.format
        self.format.options = [(f"{name}: {FORMATS.get(name, 'other')}", name) for name in names]
        self.format.value = kept if kept in names else next(iter(names))

    def _tell_needs(self, _=None) -> None:
        """What the choice costs, or that it is paid; an older verdict does not fit the new choice."""
        spec, here = self.choice.spec, self.choice.model_dir
        told = f"{display_path(here)} is here."
        if not here.exists():
            told = (
                f"{display_path(here)} is not here. Notebook 01 makes it, with {spec.export_ram_gib} GiB of memory and "
            )
            told += f"{spec.checkpoint_gib} GiB of disk for the checkpoint."
        self.needs.value, self.status.value = escape(told), ""

    def _save(self, _) -> None:
        try:
            settings.save(self.choice, self.path)
        except TutorialError as error:
            self._say(f"Not saved. {error}")
        except OSError as error:
            self._say(f"Not saved. {display_path(self.path)} cannot be written: {error.strerror}.")
        else:
            self._say(f"Saved to {display_path(self.path)}. {self._what_wins()}A page reads it when its kernel starts.")

    def _what_wins(self) -> str:
        """A variable of the environment that makes the file's word void is named."""
        names = [name for name, field in settings.OVERRIDES.items() if self.environ.get(name) and field != "model_root"]
        return f"But {' and '.join(names)} in the environment will overrule it. " if names else ""

    def _say(self, sentence: str) -> None:
        self.status.value = f'<div role="status">{escape(sentence)}</div>'

    def __repr__(self) -> str:
        choice = self.choice
        return f"SettingsForm(model={choice.model!r}, format={choice.format!r}, device={choice.device!r})"


def _device_options(setup: Settings, devices: Sequence[str] | None) -> list[tuple[str, str]]:
    """The devices that are here with their full names, AUTO, and what the settings name if it is none of these."""
    if devices is None:
        import openvino

        core = openvino.Core()
        names = {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices}
    else:
        names = dict.fromkeys(devices, "")
    names["AUTO"] = "OpenVINO chooses"
    if setup.device not in names:
        device = choose_device(setup.device, available=tuple(names)).device
        names[setup.device] = "not here, so the CPU will be used" if device == "CPU" else f"same as {device}"
    return [(f"{name}: {words}" if words else name, name) for name, words in names.items()]

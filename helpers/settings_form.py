"""The form of notebook 02: choose model, weight format and device, and write them to settings.toml."""

import os
from dataclasses import replace
from html import escape
from pathlib import Path

from ipywidgets import HTML, Button, Combobox, Dropdown, Layout, VBox

from helpers import catalog, settings
from helpers.errors import TutorialError
from helpers.load.device import choose_device
from helpers.settings import Settings, display_path

FORMATS = {"int4": "weights in 4 and 8 bits", "int8": "weights in 8 bits", "fp16": "weights in 16 bits"}


class SettingsForm(VBox):
    """A form with the choices of `setup` and a button that writes them to `path`.

    The other settings of `setup` are written unchanged.  `devices` are device names; None: those that OpenVINO sees.
    Code can set the values of `model`, `format` and `device`, and call save.click().  Raises TutorialError for an
    invalid `setup`.
    """

    def __init__(self, setup: Settings, path: Path = settings.SETTINGS_FILE, devices=None, environ=os.environ):
        self.setup, self.path, self.environ = settings.check(setup), path, environ
        look = {"layout": Layout(width="95%", max_width="42em"), "style": {"description_width": "5em"}}
        names = {"options": (*catalog.MODELS, *catalog.HUB_MODELS), "value": setup.model, "continuous_update": False}
        self.model = Combobox(
            description="Model", placeholder="a name, a hub repository (owner/name), or a folder", **names, **look
        )
        formats = [(f"{name}: {label}", name) for name, label in FORMATS.items()]
        self.format = Dropdown(description="Format", options=formats, value=setup.format, **look)
        options = _device_options(setup, devices)
        self.device = Dropdown(description="Device", options=options, value=setup.device, **look)
        self.needs, self.save, self.status = HTML(), Button(description="Save", button_style="primary"), HTML()
        super().__init__([self.model, self.format, self.device, self.needs, self.save, self.status])
        self._show_needs()
        for choice in (self.model, self.format, self.device):
            choice.observe(self._show_needs, "value")
        self.save.on_click(self._save)

    @property
    def choice(self) -> Settings:
        """The settings that the form shows now."""
        return replace(self.setup, model=self.model.value, format=self.format.value, device=self.device.value)

    def _show_needs(self, _=None) -> None:
        """Show what the choice needs, and clear the status, which is about the previous choice."""
        self.status.value = ""
        try:
            spec, exists = self.choice.spec, self.choice.model_dir.exists()
        except TutorialError as error:
            self.needs.value = escape(str(error))
            return
        folder = f"{spec.title}. {display_path(self.choice.model_dir)}"
        memory = f"{spec.run_ram_gib} GiB of memory to run" if spec.is_ir else f"{spec.export_ram_gib} GiB of memory"
        needs = f"Notebook 01 makes it: {memory}, {spec.checkpoint_gib} GiB of disk."
        needs = needs if spec.parameters else "Notebook 01 makes it; what it needs is shown when it is fetched."
        self.needs.value = escape(f"{folder} exists." if exists else f"{folder} does not exist yet. {needs}")

    def _save(self, _) -> None:
        try:
            settings.save(self.choice, self.path)
        except TutorialError as error:
            return self._show(f"Not saved. {error}")
        names = [name for name in ("TUTORIAL_MODEL", "TUTORIAL_DEVICE") if self.environ.get(name)]
        but = f"But {' and '.join(names)} in the environment will override it. " if names else ""
        self._show(f"Saved to {display_path(self.path)}. {but}A notebook reads it when its kernel starts.")

    def _show(self, sentence: str) -> None:
        self.status.value = f'<div role="status">{escape(sentence)}</div>'

    def __repr__(self) -> str:
        choice = self.choice
        return f"SettingsForm(model={choice.model!r}, format={choice.format!r}, device={choice.device!r})"


def _device_options(setup: Settings, devices: list[str] | None) -> list[tuple[str, str]]:
    """Return (label, name) pairs for this machine's devices, AUTO, and the settings' device if not among them."""
    if devices is None:
        import openvino

        core = openvino.Core()
        names = {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices}
    else:
        names = dict.fromkeys(devices, "")
    names["AUTO"] = "OpenVINO chooses"
    if setup.device not in names:
        device = choose_device(setup.device, available=tuple(names)).device
        names[setup.device] = "not available, so the CPU will be used" if device == "CPU" else f"same as {device}"
    return [(f"{name}: {label}" if label else name, name) for name, label in names.items()]

"""Which model, on which device, with which ov_config: one frozen dataclass, one TOML file, three overrides."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from helpers import catalog
from helpers.errors import TutorialError
from helpers.files import atomic_write_text

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = ROOT / "settings.toml"
PHICOOKBOOK_OV_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "CACHE_DIR": ""}
OVERRIDES = {"TUTORIAL_MODEL": "model", "TUTORIAL_DEVICE": "device", "TUTORIAL_MODEL_ROOT": "model_root"}


@dataclass(frozen=True)
class Settings:
    """What the notebooks work with.  `format` is the weight format: "int4", "int8" or "fp16"."""

    model: str = "smollm2-instruct"
    format: str = "int4"
    device: str = "CPU"
    model_root: str = "model"
    ov_config: dict[str, str] = field(default_factory=lambda: dict(PHICOOKBOOK_OV_CONFIG), hash=False)

    @property
    def spec(self) -> catalog.Model:
        return catalog.find(self.model)

    @property
    def checkpoint_dir(self) -> Path:
        """The folder of the fetched model.  Raises TutorialError for a model_root where no folder can be."""
        try:
            root = ROOT / Path(self.model_root).expanduser()
            there = next(parent for parent in (root, *root.parents) if parent.exists())
            why = "" if there.is_dir() else f"{there} is a file"
        except (OSError, RuntimeError) as error:  # a name that is too long; ~name of nobody
            why = getattr(error, "strerror", None) or str(error)
        if why or "\0" in self.model_root:
            raise TutorialError(
                f"The model root {self.model_root[:80]!r} cannot be a folder: {why or 'a null character'}.",
                "Set TUTORIAL_MODEL_ROOT, or model_root in settings.toml, to a folder; it need not be there yet.",
            )
        return root / self.model / "checkpoint"

    @property
    def model_dir(self) -> Path:
        """The folder of the exported model: model/<name>/<format>, as in the document."""
        return self.checkpoint_dir.with_name(self.format)


def load(path: Path = SETTINGS_FILE, environ: Mapping[str, str] = os.environ) -> Settings:
    """Defaults, then `path` if it exists, then the TUTORIAL_ variables.  Raises TutorialError on what it cannot use."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except OSError as error:  # a folder of that name, or no permission
        raise TutorialError(f"{path.name} cannot be read: {error.strerror}.", "Mend that, or delete it.") from error
    except (ValueError, RecursionError) as error:  # the former also for a number of thousands of digits
        raise TutorialError(f"{path.name} is damaged: {error}.", "Mend that line, or delete the file.") from error
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(table) - known):
        raise TutorialError(
            f"{path.name} has {', '.join(unknown)}, which this version does not know.",
            f"It knows {', '.join(sorted(known))}. Delete those lines, or update the tutorial.",
        )
    table |= {name: environ[key] for key, name in OVERRIDES.items() if environ.get(key)}
    return check(replace(Settings(), **table))


def check(settings: Settings) -> Settings:
    """`settings` itself if its values can be used.  Raises TutorialError on the first that cannot."""
    for name, value in asdict(settings).items():
        if name == "ov_config" and not isinstance(value, dict):
            raise TutorialError(
                "The setting ov_config is not a table.", 'Write [ov_config] and below it NAME = "value".'
            )
        for text in value.values() if name == "ov_config" else [value]:
            if not isinstance(text, str):
                raise TutorialError(
                    f"The setting {name} has {text!r}, not text.", 'Put quotes around it: device = "CPU".'
                )
    if settings.format not in settings.spec.flags:
        raise TutorialError(
            f"There is no weight format {settings.format!r} for {settings.model}.",
            f"Choose one of: {', '.join(settings.spec.flags)}.",
        )
    return settings


def save(settings: Settings, path: Path = SETTINGS_FILE) -> Path:
    """Write what differs from the defaults, in one step, so that no reader sees half of it."""
    import tomli_w  # only the form of notebook 02 writes settings

    defaults = asdict(Settings())
    table = {name: value for name, value in asdict(check(settings)).items() if value != defaults[name]}
    atomic_write_text(path, tomli_w.dumps(table))
    return path


def display_path(path: Path) -> str:
    """`path` as the document writes it, ./model/…, when it lies in this project; the whole path otherwise."""
    return f"./{path.relative_to(ROOT).as_posix()}" if path.is_relative_to(ROOT) else str(path)

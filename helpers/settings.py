"""Model, weight format, device and ov_config: one frozen dataclass, one TOML file, three environment variables."""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from helpers import catalog, files, shapes
from helpers.errors import TutorialError, printable
from helpers.files import atomic_write_text, existing_parent

ROOT = catalog.ROOT
SETTINGS_FILE = ROOT / "settings.toml"
PHICOOKBOOK_OV_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "CACHE_DIR": ""}
FORMATS = ("int4", *catalog.PLAIN_FORMATS)
OVERRIDES = {"TUTORIAL_MODEL": "model", "TUTORIAL_DEVICE": "device", "TUTORIAL_MODEL_ROOT": "model_root"}


@dataclass(frozen=True)
class Settings:
    """The settings of all notebooks and commands.  `format` is the weight format: "int4", "int8" or "fp16"."""

    model: str = "smollm2-instruct"
    format: str = "int4"
    device: str = "CPU"
    model_root: str = "model"
    ov_config: dict[str, str] = field(default_factory=lambda: dict(PHICOOKBOOK_OV_CONFIG), hash=False)

    @property
    def spec(self) -> catalog.Model:
        """The catalog's entry, completed from the model's files where the catalog leaves it open."""
        return shapes.complete(catalog.find(self.model), self.checkpoint_dir)

    @property
    def home(self) -> Path:
        """The folder for all of the model's files, ./model/<name>.  Raises TutorialError for a bad model_root."""
        try:
            root = ROOT / Path(self.model_root).expanduser()
            parent = existing_parent(root)
            why = "" if parent.is_dir() else f"{parent} is {'a file' if parent.exists() else 'not there'}"
        except (OSError, RuntimeError) as error:  # a name that is too long; ~name of an unknown user
            why = getattr(error, "strerror", None) or str(error).rstrip(".")
        if why or "\0" in self.model_root:
            what = f"The model root {self.model_root[:80]!r} cannot be used as a folder: {why or 'a null character'}."
            hint = "Set TUTORIAL_MODEL_ROOT, or model_root in settings.toml, to a folder; it need not exist yet."
            raise TutorialError(what, hint)
        return root / catalog.find(self.model).folder_name

    @property
    def checkpoint_dir(self) -> Path:
        """The folder of the fetched model, ./model/<name>/checkpoint, or the folder that the setting names."""
        model = catalog.find(self.model)
        return Path(model.origin) if model.source == "folder" else self.home / "checkpoint"

    @property
    def model_dir(self) -> Path:
        """The folder of the exported model, ./model/<name>/<format>, or that of a fetched IR, which needs no export."""
        return self.checkpoint_dir if files.is_ir(self.checkpoint_dir) else self.home / self.format

    def command(self, step: str, *options: str) -> str:
        """Return `python -m helpers <step>` for this model as you would type it."""
        return shell_command(["python", "-m", "helpers", step, "--model", self.model, *options])


def load(path: Path = SETTINGS_FILE, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the defaults, overridden by `path`, if it exists, and by `environ`.  Raises TutorialError."""
    try:
        data = path.read_bytes() if path.exists() else b""
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise TutorialError(f"{path.name} is saved as UTF-16.", "Save it as UTF-8 (an option in Save As).")
        table = tomllib.loads(data.decode("utf-8-sig"))  # Notepad begins UTF-8 with a byte-order mark
    except OSError as error:  # a folder of that name, or no permission
        raise TutorialError(f"{path.name} cannot be read: {error.strerror}.", "Fix that, or delete it.") from error
    except (ValueError, RecursionError) as error:
        raise TutorialError(f"{path.name} is damaged: {error}.", "Fix that line, or delete the file.") from error
    known = sorted(field.name for field in fields(Settings))
    if unknown := sorted(set(table) - set(known)):
        what = f"{path.name} has unknown settings: {', '.join(unknown)}."
        raise TutorialError(what, f"Known settings: {', '.join(known)}. Delete the others, or update the tutorial.")
    table |= {name: environ[key] for key, name in OVERRIDES.items() if environ.get(key)}
    return check(replace(Settings(), **table))


def check(settings: Settings) -> Settings:
    """Return `settings` if all values can be used.  Raises TutorialError for the first that cannot."""
    table = asdict(settings)
    if not isinstance(table["ov_config"], dict):
        raise TutorialError("The setting ov_config is not a table.", 'Write [ov_config] and below it NAME = "value".')
    values = [("ov_config", value) for value in table.pop("ov_config").values()]
    for name, value in [*table.items(), *values]:
        if not isinstance(value, str):
            raise TutorialError(f"The setting {name} is not text: {value!r}.", 'Put it in quotes: device = "CPU".')
        if printable(value) != value:
            raise TutorialError(f"The setting {name} contains control characters: {value!r}.", "Delete them.")
    flags = catalog.find(settings.model).flags
    if settings.format not in flags:
        what = f"There is no weight format {settings.format!r} for {settings.model}."
        raise TutorialError(what, f"Choose one of: {', '.join(flags)}.")
    return settings


def save(settings: Settings, path: Path = SETTINGS_FILE) -> Path:
    """Write the settings that differ from the defaults to `path` and return it; a failure leaves the old file."""
    import tomli_w  # here, because only notebook 02 writes settings

    defaults = asdict(Settings())
    table = {name: value for name, value in asdict(check(settings)).items() if value != defaults[name]}
    atomic_write_text(path, tomli_w.dumps(table))
    return path


def on_disk() -> list[tuple[str, list[Path]]]:
    """Return our models below the model root, each with its folders; the root may also contain other models.

    Their names decide, so a folder copied by hand is among them: written_here() says what may be deleted.
    """
    found: dict[str, list[Path]] = {}
    for config in sorted(load().home.parent.glob("*/*/config.json")):
        name = config.parts[-3].replace("--", "/")
        with suppress(TutorialError):  # it is not the name of one of our models
            if not re.search("-[0-9a-f]{8}$", name):  # which only exports of the reader's own folders have
                check(replace(Settings(), model=name))
            found.setdefault(name, []).append(config.parent)
    return [*found.items()]


def written_here(home: Path) -> list[Path]:
    """Return what this project has written into `home`, a folder below the model root; the rest is the reader's.

    A folder is ours if it has our manifest.  Beside it we write a lock, unfinished folders, a log, and answers.
    """
    found = {file.parent for file in home.glob(f"*/{files.MANIFEST}")}
    names = {folder.name for folder in found}
    names |= {name for name in ("checkpoint", *FORMATS) if not (home / name).exists()}  # of a run that failed
    unfinished = re.compile(r"(.+)\.part-(kept|[a-z0-9_]{8})")
    for path in home.glob("*.part-*"):
        if path.is_dir() and (named := unfinished.fullmatch(path.name)) and named[1] in names:
            found.add(path)
    found |= {file for name in names if (file := home / f".{name}.lock").is_file()}
    if found:  # otherwise these are the reader's
        others = [*(f"{name}.log" for name in names), "selfcheck.json"]
        found |= {file for name in others if (file := home / name).is_file()}
    return sorted(path for path in found if not path.is_symlink())


def display_path(path: Path) -> str:
    """Return `path` relative to the project, as ./model/…, or the absolute path of one outside it."""
    return f"./{path.relative_to(ROOT).as_posix()}" if path.is_relative_to(ROOT) else str(path)


def shell_command(argv: list[str]) -> str:
    """Return `argv` as you would type it in a terminal of this system."""
    return subprocess.list2cmdline(argv) if os.name == "nt" else shlex.join(argv)

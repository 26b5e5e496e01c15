"""Load an exported model and its tokenizer: with optimum-intel, or with OpenVINO alone in about half the time."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from helpers.checkpoint.tokenizer import load_tokenizer
from helpers.errors import TutorialError, cause_of
from helpers.files import LOAD_FILES, NEEDED, damaged_error, find_damaged, read_json
from helpers.load.config import check_config
from helpers.load.device import DeviceChoice, choose_device
from helpers.load.graph import prepare
from helpers.settings import Settings, display_path

# With HF_HUB_OFFLINE=1, optimum-intel 2.1 warns for each local folder that it could not look it up on the Hub.
logging.getLogger("optimum.intel.openvino.modeling_base").addFilter(
    lambda record: "Could not infer whether" not in record.getMessage()
)


def load_model(settings: Settings, strict: bool = False, paged: bool = True, lookup: bool = False):
    """Return the exported model as an OVModelForCausalLM, its tokenizer, and the DeviceChoice.

    The model returns the logits of the last position only, [1, 1, vocabulary]; for at most SLICED_ABOVE tokens,
    those of all positions.  On the CPU helpers.generate uses the paged KV cache; model.generate needs the
    stateful one and compiles the graph again at its first call.  With `paged=False` both use the stateful KV cache and
    share one compiled model.  With `lookup`, the graph is compiled a second time for passes that verify drafts:
    a pass costs more after one with a different number of tokens, and copies do not affect each other.  This takes as
    much memory again for the weights.
    Raises TutorialError when there is no export, or one that is damaged or cannot be loaded.
    """
    with _find_export(settings, strict) as (folder, choice):
        from optimum.intel.openvino import OVModelForCausalLM

        model = OVModelForCausalLM.from_pretrained(
            folder,
            export=False,
            compile=False,
            device=choice.device,
            ov_config=dict(settings.ov_config),
            trust_remote_code=settings.spec.trust_remote_code,
        )
        check_config(model)
        model.paged = prepare(model.model, choice.device, model.ov_config, 1 + lookup if paged else 0)
        if not model.paged:
            model.compile()
        model.settings = replace(settings, device=choice.device)  # so that a conversation can report the device
        return model, load_tokenizer(folder, settings.spec.trust_remote_code), choice


def load_fast(settings: Settings, strict: bool = False, lookup: bool = False):
    """Return what load_model returns, but with an IRModel, which has no `generate` method; generated ids are the same.

    It does not import optimum-intel, and OpenVINO compiles while Python imports the tokenizer's library.
    """
    with _find_export(settings, strict) as (folder, choice):
        with ThreadPoolExecutor(1) as pool:
            model = pool.submit(IRModel, folder, choice.device, dict(settings.ov_config), 1 + lookup)
            tok = load_tokenizer(folder, settings.spec.trust_remote_code)
        loaded = model.result()
        loaded.settings = replace(settings, device=choice.device)
        return loaded, tok, choice


class IRModel:
    """The part of OVModelForCausalLM that PromptCache and generate use, for a graph that OpenVINO reads itself."""

    def __init__(self, folder: Path, device: str, ov_config: dict[str, str], copies: int = 1) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(folder / "openvino_model.xml")
        self.stateful = bool(graph.get_sinks())  # sinks keep the KV cache between two calls
        self.paged = prepare(graph, device, ov_config, copies)
        self.request = None if self.paged else core.compile_model(graph, device, ov_config).create_infer_request()
        generation_config = {}
        with suppress(OSError, TutorialError):  # if the file is missing, config.json applies, as in transformers
            generation_config = read_json(folder / "generation_config.json")
        # Not with AutoConfig, which takes as long to import as the rest takes to load.
        self.config = SimpleNamespace(**read_json(folder / "config.json"))
        self.generation_config = SimpleNamespace(**{"eos_token_id": None} | generation_config)
        check_config(self)

    def compile(self) -> None:
        """Do nothing, because the constructor has compiled the model."""


def require_export(settings: Settings) -> Path:
    """Return the folder of the exported model.  Raises TutorialError when it, or a file in it, is missing."""
    folder = settings.model_dir
    if not folder.exists():
        hint = f"Run notebook 01_export, or: {settings.command('export', '--format', settings.format)}"
        raise TutorialError(f"There is no export at {display_path(folder)} yet.", hint)
    # Check all of them, because without tokenizer_config.json transformers silently chooses a different tokenizer.
    if wrong := {name: "missing" for name in LOAD_FILES if not (folder / name).exists()}:
        raise damaged_error(display_path(folder), wrong, _export_command(settings))
    return folder


@contextmanager
def _find_export(settings: Settings, strict: bool) -> Iterator[tuple[Path, DeviceChoice]]:
    """Yield the export's folder and the device; raise TutorialError for any failure in the block."""
    folder, choice = require_export(settings), choose_device(settings.device, strict)
    try:
        yield folder, choice
    except Exception as error:  # each library raises its own types for a damaged file
        raise load_error(settings, choice.device, error) from error


def load_error(settings: Settings, device: str, error: Exception) -> TutorialError:
    """Return `error`, raised while loading on `device`, as a TutorialError; damaged files are checked first."""
    folder, command = display_path(settings.model_dir), _export_command(settings)
    again = f"Delete that folder, then: {command}" if command else NEEDED
    # First, because a damaged file can request any amount of memory.  In an unreadable folder, all files look missing.
    if os.access(settings.model_dir, os.R_OK | os.X_OK):
        with suppress(OSError):
            if wrong := find_damaged(settings.model_dir, LOAD_FILES):
                return damaged_error(folder, wrong, command)
    if cause := cause_of(error, settings.model_dir):
        return cause
    if isinstance(error, TutorialError):  # the configuration has a value that cannot be used
        return TutorialError(f"{folder} cannot be loaded on {device}. {error.message}", again)
    noise = ("Exception from", "Check '")  # source locations in OpenVINO
    words = [line for line in str(error).splitlines() if line.strip() and not line.startswith(noise)] or [""]
    hint = f"Are the values in ov_config correct (page 02)? If so, {again[0].lower()}{again[1:]}"
    return TutorialError(f"{folder} cannot be loaded on {device}. {type(error).__name__}: {words[0]}", hint)


def _export_command(settings: Settings) -> str | None:
    """Return the command that makes the export again; None for an IR in the reader's own folder."""
    own = settings.spec.source == "folder" and settings.model_dir == settings.checkpoint_dir
    return None if own else settings.command("export", "--format", settings.format)

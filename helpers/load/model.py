"""IR → model and tokenizer on a device that is really there."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from helpers.errors import TutorialError
from helpers.files import damaged_error, find_damaged
from helpers.load.device import choose_device
from helpers.load.graph import prepare
from helpers.settings import Settings, display_path

NEEDED = ("openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json", "tokenizer_config.json")
# With HF_HUB_OFFLINE=1 optimum-intel 2.1 logs at every load of a folder that it could not look for it on the hub, and
# then loads it as it should.
logging.getLogger("optimum.intel.openvino.modeling_base").addFilter(
    lambda record: "Could not infer whether" not in record.getMessage()
)


def require_export(settings: Settings) -> Path:
    """The exported model's folder.  Raises TutorialError, saying how to make it, when it or a part of it is missing."""
    if not settings.model_dir.exists():
        raise TutorialError(
            f"There is no export at {display_path(settings.model_dir)} yet.",
            f"Run notebook 01_export, or{_export_command(settings)}",
        )
    # Without its configuration, transformers takes another tokenizer, and says nothing.
    if wrong := {name: "missing" for name in NEEDED if not (settings.model_dir / name).exists()}:
        raise damaged_error(display_path(settings.model_dir), wrong, _export_command(settings))
    return settings.model_dir


def _export_command(settings: Settings) -> str:
    return f": python -m helpers export --model {settings.model} --format {settings.format}"


def load_model(settings: Settings, strict: bool = False, paged: bool = True):
    """The exported model on its device, its tokenizer, and the DeviceChoice.

    The model scores the last position of what it is given, [1, 1, vocabulary], which is all that generation needs.
    On the CPU, helpers.generate keeps keys and values in blocks (PagedKVCache); then the first call of model.generate,
    which needs the state, compiles the graph once more.  `paged=False`: both use the state, and share one model.
    Raises TutorialError when there is no export yet, or one that is damaged or cannot be used.
    """
    folder = require_export(settings)
    from optimum.intel.openvino import OVModelForCausalLM
    from transformers import AutoTokenizer

    choice = choose_device(settings.device, strict)
    # Said, not left to the default: with none, transformers asks the reader whether to run what the folder brings.
    trust = {"trust_remote_code": settings.spec.trust_remote_code}
    try:
        model = OVModelForCausalLM.from_pretrained(
            folder,
            export=False,
            compile=False,
            device=choice.device,
            ov_config=dict(settings.ov_config),
            **trust,
        )
        model.paged = prepare(model.model, choice.device, model.ov_config, paged)
        if not model.paged:
            model.compile()
        return model, AutoTokenizer.from_pretrained(folder, **trust), choice
    except Exception as error:  # each library has its own for a file that is not whole
        raise load_error(settings, choice.device, error) from error


def load_error(settings: Settings, device: str, error: Exception) -> TutorialError:
    if wrong := find_damaged(settings.model_dir, NEEDED):
        return damaged_error(display_path(settings.model_dir), wrong, _export_command(settings))
    noise = ("Exception from", "Check '")  # OpenVINO's way through its own sources
    words = [line for line in str(error).splitlines() if line.strip() and not line.startswith(noise)] or [""]
    return TutorialError(
        f"{display_path(settings.model_dir)} cannot be loaded on {device}. {type(error).__name__}: {words[0]}",
        f"Is all in ov_config right (page 02)? If so, delete that folder, then{_export_command(settings)}",
    )


OWN_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that add nothing to their tokenizer.json


class IRModel:
    """What Cache and generate ask of an OVModelForCausalLM, and nothing more."""

    def __init__(self, folder: Path, device: str, ov_config: dict[str, str]) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(folder / "openvino_model.xml")
        self.stateful = bool(graph.get_sinks())  # where a state is written to
        self.paged = prepare(graph, device, ov_config)
        self.compiled = None if self.paged else core.compile_model(graph, device, ov_config)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        file = folder / "generation_config.json"
        more = {}
        with suppress(OSError, ValueError):  # without it, as OVModelForCausalLM, by the configuration alone
            more = json.loads(file.read_text(encoding="utf-8"))
        self.config = SimpleNamespace(**config)
        self.config.max_position_embeddings, self.config.vocab_size  # noqa: B018  AttributeError: no configuration
        self.generation_config = SimpleNamespace(**{"eos_token_id": config.get("eos_token_id"), **more})

    @property
    def request(self) -> IRModel:
        return self

    def compile(self) -> None:
        """It is compiled."""

    def get_compiled_model(self):
        return self.compiled


def load_fast(settings: Settings, strict: bool = False):
    """As runtime.load, only that the model has no `generate` of its own.  Same ids (tested), in about half of the time.

    OpenVINO compiles in a thread while Python imports the tokenizer's library.
    """
    folder = require_export(settings)
    choice = choose_device(settings.device, strict)
    try:
        with ThreadPoolExecutor(1) as pool:
            model = pool.submit(IRModel, folder, choice.device, dict(settings.ov_config))
            tok = _tokenizer(folder, settings.spec.trust_remote_code)
        return model.result(), tok, choice
    except Exception as error:  # each library has its own for a file that is not whole
        raise load_error(settings, choice.device, error) from error


def _tokenizer(folder: Path, trust_remote_code: bool):
    """What AutoTokenizer gives; where that is the plain class, without the search for it, which imports much."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in OWN_FILE and "auto_map" not in config:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)

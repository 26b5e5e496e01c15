"""An export for the command line, without optimum-intel: importing that takes longer than many an answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from helpers.graph import prepare
from helpers.runtime import cannot_load, choose_device, need_export
from helpers.settings import Settings

OWN_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that add nothing to their tokenizer.json


class LightModel:
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
    def request(self) -> LightModel:
        return self

    def compile(self) -> None:
        """It is compiled."""

    def get_compiled_model(self):
        return self.compiled


def load(settings: Settings, strict: bool = False):
    """As runtime.load, only that the model has no `generate` of its own.  Same ids (tested), in about half of the time.

    OpenVINO compiles in a thread while Python imports the tokenizer's library.
    """
    folder = need_export(settings)
    choice = choose_device(settings.device, strict)
    try:
        with ThreadPoolExecutor(1) as pool:
            model = pool.submit(LightModel, folder, choice.device, dict(settings.ov_config))
            tok = _tokenizer(folder, settings.spec.trust_remote_code)
        return model.result(), tok, choice
    except Exception as error:  # each library has its own for a file that is not whole
        raise cannot_load(settings, choice.device, error) from error


def _tokenizer(folder: Path, trust_remote_code: bool):
    """What AutoTokenizer gives; where that is the plain class, without the search for it, which imports much."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in OWN_FILE and "auto_map" not in config:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)

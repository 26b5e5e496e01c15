"""A model as the tests of generation and chat load it, and what transformers makes of a prompt."""

from dataclasses import dataclass
from functools import cached_property

from helpers.generate.sampling import single_thread
from helpers.load.graph import prepare
from helpers.metrics.quality import REFERENCE


@dataclass
class Loaded:
    """A model as optimum-intel loads it, as runtime.load does in full precision, their tokenizer, and prompts.

    So the KV cache of the first is its state, that of the second is in blocks; `state` is both exact and a state.
    """

    folder: object
    model: object
    exact: object
    tok: object
    prompts: list[list[int]]

    @cached_property
    def state(self):
        return load(self.folder, **REFERENCE)


def load(folder, **ov_config):
    from optimum.intel.openvino import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(folder, export=False, device="CPU", ov_config=ov_config)


def load_paged(folder, **ov_config):
    from optimum.intel.openvino import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(folder, export=False, compile=False, device="CPU", ov_config=ov_config)
    model.paged = prepare(model.model, "CPU", model.ov_config)
    assert model.paged and model.request is None, "what the project is made for"
    return model


def theirs(model, prompt_ids, n, **options) -> list[int]:
    """The new ids of transformers' generate."""
    import torch

    prompt = torch.tensor([prompt_ids])
    with single_thread():
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, **options)
    return out[0, len(prompt_ids) :].tolist()

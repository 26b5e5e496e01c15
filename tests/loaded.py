"""A model as the tests of generation and chat load it, and what transformers makes of a prompt."""

from dataclasses import dataclass

from helpers.sampling import one_thread


@dataclass
class Loaded:
    """A model as a reader loads it, the same in full precision, their tokenizer, and prompts."""

    folder: object
    model: object
    exact: object
    tok: object
    prompts: list[list[int]]


def load(folder, **ov_config):
    from optimum.intel.openvino import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(folder, export=False, device="CPU", ov_config=ov_config)


def theirs(model, prompt_ids, n, **options) -> list[int]:
    """The new ids of transformers' generate."""
    import torch

    prompt = torch.tensor([prompt_ids])
    with one_thread():
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, **options)
    return out[0, len(prompt_ids) :].tolist()

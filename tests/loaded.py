"""Models as the tests of generation and chat load them, and what transformers generates."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from helpers.generate.sampling import single_thread
from helpers.load.graph import prepare
from helpers.metrics.quality import REFERENCE

QUESTIONS = ["What is the capital of France?", "Write a short story about a robot that learns to paint."]


@dataclass
class Loaded:
    """`model`: stateful KV cache, as optimum-intel loads it; `exact`: paged, in f32; `state`: stateful, in f32.

    `copies`: like `exact`, with a second copy of the graph.
    """

    folder: Path
    model: object
    exact: object
    tok: object
    prompts: list[list[int]]

    @cached_property
    def state(self):
        return load(self.folder, **REFERENCE)

    @cached_property
    def copies(self):
        return load_paged(self.folder, 2, **REFERENCE)


def load_both(folder: Path) -> Loaded:
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = tok.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    return Loaded(folder, load(folder), load_paged(folder, **REFERENCE), tok, prompts)


def load(folder, **ov_config):
    from optimum.intel.openvino import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(folder, export=False, device="CPU", ov_config=ov_config)


def load_paged(folder, copies=1, **ov_config):
    from optimum.intel.openvino import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(folder, export=False, compile=False, device="CPU", ov_config=ov_config)
    model.paged = prepare(model.model, "CPU", model.ov_config, copies)
    assert len(model.paged) == copies and model.request is None
    return model


def theirs(model, prompt_ids, n, **options) -> list[int]:
    """Return the new ids of transformers' generate."""
    import torch

    prompt = torch.tensor([prompt_ids])
    with single_thread():
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, **options)
    return out[0, len(prompt_ids) :].tolist()


def recomputed(model, prompt_ids, n) -> list[int]:
    """Return the new ids of greedy decoding without a KV cache, a forward pass over the whole text for each."""
    import torch

    ids = list(prompt_ids)
    with single_thread():
        for _ in range(n):
            text = torch.tensor([ids])
            ids.append(int(model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, -1].argmax()))
    return ids[len(prompt_ids) :]

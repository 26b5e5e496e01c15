"""A model that knows its answers by heart, under the real Conversation: the same answers, at a speed of our choice.

It stands where OpenVINO's model stands, so that prompts, cache, sampling, figures and stop are the project's own.
The notebooks of the browser tests import this module.
"""

from __future__ import annotations

import time
from functools import cache
from types import SimpleNamespace

import numpy as np
from openvino import Tensor
from transformers import AutoTokenizer

from helpers.chat.conversation import Conversation
from helpers.settings import ROOT
from helpers.tokenize import without_special_tokens

CODE = """# A heading

Some **bold**, *italic* and `inline code`, and a [link](https://example.org/page).

```python
def fib(n):
    # the rabbits of Pisa
    return n if n < 2 else fib(n - 1) + fib(n - 2)
```

| a | b |
|---|---|
| 1 | 2 |

- one
- two
"""
LONG = "The beginning stands.\n\n" + " ".join(f"word{n}" for n in range(150))
ANSWERS = {"code": CODE, "long": LONG, "boom": "This answer ends in the mid"}  # any other text is answered by itself
DETOUR = " and so the answer takes another road."  # after a token that is not the script's
OTHERS = (" perhaps", " never", " tea", " blue", " seven", " again")
MARGINS = (8.0, 3.0, 1.0, 0.2)  # by turns, how far the script's token is ahead of the others: sure … nearly a tie


@cache
def tokenizer():
    """The embedded model's; loaded when it is asked for, so that this module can be imported where there is none."""
    return AutoTokenizer.from_pretrained(ROOT / "model" / "smollm2-instruct" / "int4")


class Script:
    """The model: what Conversation, Cache and generate ask of an OVModelForCausalLM, and nothing more."""

    stateful = True

    def __init__(self, rate: float = 40.0) -> None:
        self.rate = rate  # tokens per second
        shape = {"max_position_embeddings": 8192, "hidden_size": 576}
        self.config = SimpleNamespace(vocab_size=len(tokenizer()), **shape)
        self.generation_config = SimpleNamespace(eos_token_id=end())
        self.request = self  # of optimum-intel's model we only need its compiled model's new request

    def compile(self) -> None:
        pass

    def get_compiled_model(self) -> Script:
        return self

    def create_infer_request(self) -> Request:
        return Request(self)


class Request:
    """The infer request.  Its state, the KV cache, is the ids themselves: [1, 1, tokens, 1]."""

    def __init__(self, model: Script) -> None:
        self.model, self.read, self.tensors = model, [], {}
        names = ("input_ids", "position_ids", "attention_mask", "beam_idx")
        self.model_inputs = [SimpleNamespace(any_name=name) for name in names]

    def set_tensor(self, port, tensor) -> None:
        self.tensors[port.any_name] = tensor

    def get_tensor(self, _name: str):
        return SimpleNamespace(data=self.logits[None, None])  # [1, 1, vocabulary]

    def query_state(self) -> list[Request]:
        return [self]

    def reset_state(self) -> None:
        self.read = []

    @property
    def state(self):
        return Tensor(np.array(self.read, dtype=np.float32).reshape(1, 1, -1, 1))

    @state.setter
    def state(self, tensor) -> None:
        self.read = [int(value) for value in tensor.data.ravel()]

    def wait(self) -> None:
        pass

    def wait_for(self, _milliseconds: int) -> bool:
        return True

    def start_async(self) -> None:
        time.sleep(1 / self.model.rate)
        self.read += self.tensors["input_ids"].data[0].tolist()
        self.logits = np.zeros(self.model.config.vocab_size, dtype=np.float32)
        if not (turn := last_turn(self.read)):  # a piece of a prompt
            return
        text, written = turn
        script = script_of(text)
        same = next((n for n, (a, b) in enumerate(zip(written, script, strict=False)) if a != b), len(written))
        if same < len(written):  # somebody took another token there
            script = [*written[: same + 1], *ids_of(DETOUR), end()]
        if text == "boom" and len(written) == len(script) - 1:
            raise RuntimeError("the model went away")
        chosen = script[len(written)] if len(written) < len(script) else end()
        self.logits = scores(chosen, len(written), self.model.config.vocab_size)


@cache
def control(name: str) -> int:
    return tokenizer().convert_tokens_to_ids(name)


def end() -> int:
    return control("<|im_end|>")


@cache
def ids_of(text: str) -> list[int]:
    return without_special_tokens(tokenizer()).encode(text, add_special_tokens=False).ids


def script_of(text: str) -> list[int]:
    return [*ids_of(ANSWERS.get(text, text)), end()]


def last_turn(ids: list[int]) -> tuple[str, list[int]] | None:
    """What the user said last, and the ids of the answer as far as it is written; None while the prompt has no end."""
    starts = [n for n, index in enumerate(ids) if index == control("<|im_start|>")]
    opening = [control("<|im_start|>"), *ids_of("assistant\n")]
    if not starts or ids[starts[-1] :][: len(opening)] != opening:
        return None
    *_, user, assistant = starts
    text = tokenizer().decode(ids[user:assistant]).removeprefix("<|im_start|>user\n").strip().removesuffix("<|im_end|>")
    return text, ids[assistant + len(opening) :]


def scores(chosen: int, position: int, words: int) -> np.ndarray:
    """Logits [vocabulary] that make `chosen` the likeliest, some other words its alternatives."""
    logits = np.zeros(words, dtype=np.float32)
    others = [index for word in OTHERS for index in ids_of(word)[:1] if index != chosen]
    logits[others] = 20 - MARGINS[position % len(MARGINS)] - 0.7 * np.arange(len(others))
    logits[chosen] = 20
    return logits


def conversation(rate: float = 40.0) -> Conversation:
    return Conversation(Script(rate), tokenizer())

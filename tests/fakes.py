"""A fake at the model's seam: what PromptCache and generate ask of an OVModelForCausalLM, with answers from a script.

Conversation, cache, sampling, decoding, box and terminal above it are the real ones.  The browser tests' notebooks
import this module too.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from openvino import Tensor
from templates import QWEN3
from tiny import TEMPLATE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers.chat.conversation import Conversation
from helpers.chat.messages import fingerprint, to_json
from helpers.files import atomic_write_text
from helpers.generate.sampling import GREEDY

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
ANSWERS = {"code": [CODE], "long": [LONG], "boom": ["This answer ends in the mid", RuntimeError("the model went away")]}
ALTERNATIVES = (" perhaps", " never", " tea", " blue", " seven", " again")
MARGINS = (8.0, 3.0, 1.0, 0.2)  # in turns, how far the script's token is ahead of the alternatives
DETOUR = " and so the answer goes elsewhere."  # after a token that is not the script's
WORDS = "One two **three** four five."
CORPUS = [WORDS, CODE, LONG, DETOUR, "".join(ALTERNATIVES), "A bird sings in the tree. Hello the model la la"]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the template of SmolLM2, learned from CORPUS, so that words are tokens."""
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    learned = {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()), "show_progress": False}
    special = ["<|im_start|>", "<|im_end|>"]
    rust.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=special, min_frequency=1, **learned))
    tok = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<|im_end|>")
    tok.chat_template = TEMPLATE
    return tok


@cache
def token_ids(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


START, END = tokenizer().convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])


NO_THOUGHT = token_ids("<think>\n\n</think>\n\n")


class FakeModel:
    """`reply` returns the answer to a user's message in parts: texts, exceptions to raise, and functions to call there.

    Each token of an answer waits for `go`, and takes 1 / `rate` seconds.
    """

    stateful, paged = True, None

    def __init__(self, reply: Callable[[str], list], rate: float = 1e6) -> None:
        self.reply, self.rate, self.go = reply, rate, threading.Semaphore(10**6)
        self.config = SimpleNamespace(vocab_size=len(tokenizer()), max_position_embeddings=8192)
        self.generation_config = SimpleNamespace(eos_token_id=tokenizer().eos_token_id)
        self.request = SimpleNamespace(get_compiled_model=lambda: self)

    def compile(self) -> None:
        pass

    def create_infer_request(self) -> FakeRequest:
        return FakeRequest(self)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Return logits [vocabulary] after `ids` that make the next token of the script the most likely."""
        logits, header = np.zeros(self.config.vocab_size, np.float32), token_ids("assistant\n")
        starts = [n + 1 for n, index in enumerate(ids) if index == START]
        if not starts or ids[starts[-1] :][: len(header)] != header:  # a part of a prompt
            return logits
        text = tokenizer().decode(ids[starts[-2] : starts[-1] - 1]).removeprefix("user\n").rstrip("\n")
        done, reply = ids[starts[-1] + len(header) :], self.reply
        if done[: len(NO_THOUGHT)] == NO_THOUGHT:  # of the prompt
            done, reply = done[len(NO_THOUGHT) :], lambda _: [WORDS]
        script, events = [], {}
        for part in reply(text.removesuffix("<|im_end|>")):
            if isinstance(part, str):
                script += token_ids(part)
            else:
                events.setdefault(len(script), []).append(part)
        self._wait(events.get(len(done), ()))
        if done != script[: len(done)]:  # branch() took a different token
            same = next(n for n, (a, b) in enumerate(zip(done, [*script, END], strict=False)) if a != b)
            script = [*done[: same + 1], *token_ids(DETOUR)]
        chosen = [*script, END][len(done)]
        others = [token_ids(text)[0] for text in ALTERNATIVES]
        logits[others] = 20 - MARGINS[len(done) % len(MARGINS)] - 0.7 * np.arange(len(others))
        logits[chosen] = 20
        return logits

    def _wait(self, events) -> None:
        time.sleep(1 / self.rate)
        assert self.go.acquire(timeout=20)
        for event in events:
            if isinstance(event, BaseException):
                raise event
            event()


class FakeRequest:
    """The infer request of a stateful model.  Its state, the KV cache, is the ids themselves: [1, 1, tokens, 1]."""

    def __init__(self, model: FakeModel) -> None:
        self.model, self.ids, self.tensors = model, [], {}
        names = ("input_ids", "position_ids", "attention_mask", "beam_idx")
        self.model_inputs = [SimpleNamespace(any_name=name) for name in names]

    def set_tensor(self, port, tensor) -> None:
        self.tensors[port.any_name] = tensor

    def get_tensor(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(data=self.logits[None, None])  # [1, 1, vocabulary]

    def query_state(self) -> list[FakeRequest]:
        return [self]

    def reset_state(self) -> None:
        self.ids = []

    @property
    def state(self) -> Tensor:
        return Tensor(np.array(self.ids, np.float32).reshape(1, 1, -1, 1))

    @state.setter
    def state(self, tensor) -> None:
        self.ids = [int(value) for value in tensor.data.ravel()]

    def start_async(self) -> None:
        self.ids += self.tensors["input_ids"].data[0].tolist()
        self.logits = self.model.logits(self.ids)

    def wait_for(self, _milliseconds: int) -> bool:
        return True

    def wait(self) -> None:
        pass


PLAIN = {"sampling": GREEDY, "lookup": False}  # its request returns the logits of the last position only


def thinking_conversation(thought: str, rate: float = 1e6, template: str = QWEN3, **settings) -> Conversation:
    """Return a Conversation whose model thinks `thought` before it answers WORDS, unless it is told not to."""
    tok = copy.deepcopy(tokenizer())
    tok.chat_template = template
    return Conversation(
        FakeModel(lambda _: [f"<think>\n{thought}\n</think>\n\n{WORDS}"], rate), tok, **PLAIN | settings
    )


def fake_conversation(*parts, rate: float = 1e6, **settings) -> Conversation:
    """Return a Conversation whose model answers each message with `parts`; without any, as ANSWERS has it."""
    reply = (lambda text: list(parts)) if parts else (lambda text: ANSWERS.get(text, [text]))
    # A scripted model repeats itself on purpose, which the penalty of the default sampling would prevent.
    return Conversation(FakeModel(reply, rate), tokenizer(), **PLAIN | settings)


def save_conversation(path: Path, tok, system: str, truncated_messages: int, messages, paths=()) -> Path:
    """Write messages as Conversation.save does, without a conversation."""
    atomic_write_text(path, to_json(fingerprint(tok), system, truncated_messages, messages, paths))
    return path

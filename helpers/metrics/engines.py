"""The engines that page 08 and the benchmark compare: each is loaded once, then generates on request.

A loader takes the settings and the number of threads, and returns a Play.  All generate greedily and ignore EOS tokens.
Give each call a different prompt: GenAI may reuse the KV cache of an earlier one.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from statistics import mean, median

from helpers import files
from helpers.errors import TutorialError
from helpers.generate import PromptCache, generate
from helpers.load import load_model
from helpers.metrics.timing import ratio
from helpers.settings import Settings

# (prompt ids, number of new tokens) → the new ids, and times in seconds: of the start and of each new id
Play = Callable[[list[int], int], tuple[list[int], list[float]]]
Loader = Callable[[Settings, int], Play]
LARGEST_CHECKPOINT = 2e9  # bytes; page 08 loads no larger one into PyTorch


def ours(settings: Settings, threads: int, lookup: bool = False) -> Play:
    """Load with load_model.  Raises TutorialError for a device that OpenVINO does not see."""
    model, *_ = load_model(settings, strict=True, lookup=lookup)
    cache = PromptCache(model)

    def play(ids, n):
        start = time.perf_counter()
        cache.ids = []  # its memory and pass times are kept, as in a conversation; GenAI keeps its memory too
        tokens = generate(model, ids, n, stop_ids=(), cache=cache, lookup=lookup)
        new = [(step.id, time.perf_counter()) for step in tokens]
        return [index for index, _ in new], [start, *(moment for _, moment in new)]

    return play


class Clock(list):
    """A streamer that notes the time of each call: the first with the prompt, then one per new token."""

    def put(self, ids) -> None:
        self.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: the last token has been noted."""


def transformers_generate(model, threads: int, **options) -> Play:
    """Return a Play that calls `model.generate`, of PyTorch or optimum-intel: PyTorch processes the logits of both."""
    import torch

    torch.set_num_threads(threads)
    model.generation_config.eos_token_id = None

    def play(ids, n):
        prompt, clock, start = torch.tensor([ids]), Clock(), time.perf_counter()
        given = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": n, "do_sample": False} | options
        out = model.generate(prompt, streamer=clock, **given)
        return out[0, len(ids) :].tolist(), [start, *clock[1:]]

    return play


def optimum(settings: Settings, threads: int) -> Play:
    """Load the export with optimum-intel, as it is."""
    from optimum.intel.openvino import OVModelForCausalLM

    options = {"device": settings.device, "ov_config": dict(settings.ov_config), "trust_remote_code": False}
    model = OVModelForCausalLM.from_pretrained(settings.model_dir, export=False, **options)
    return transformers_generate(model, threads)


def genai(settings: Settings, threads: int, **backend: str | bool) -> Play:
    """Load the export with OpenVINO GenAI.  It may reuse a prompt's prefix: give each call a different prompt."""
    import numpy as np
    import openvino as ov
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(settings.model_dir, settings.device, **settings.ov_config, **backend)

    def play(ids, n):
        prompt = ov.Tensor(np.array([ids])), ov.Tensor(np.ones((1, len(ids)), dtype=np.int64))
        given = {"max_new_tokens": n, "do_sample": False, "ignore_eos": True}
        given |= {"num_assistant_tokens": 5, "max_ngram_size": 3} if backend.get("prompt_lookup") else {}
        out = pipeline.generate(openvino_genai.TokenizedInputs(*prompt), **given)
        # Its own time stamps, taken in C++, in milliseconds; a streamer would cost it time.
        raw = out.perf_metrics.raw_metrics
        times = [at / 1000 for at in np.repeat(raw.m_new_token_times, raw.m_batch_sizes).tolist()]  # of each pass
        return list(out.tokens[0]), [times[0] - out.perf_metrics.get_ttft().mean / 1000, *times]

    return play


def pytorch(settings: Settings, threads: int, dtype: str = "bfloat16", **options) -> Play:
    """Load the checkpoint into PyTorch."""
    from transformers import AutoModelForCausalLM

    given = {"dtype": dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(settings.checkpoint_dir, **given)
    return transformers_generate(model, threads, **options)


def small_pytorch(settings: Settings, threads: int) -> Play:
    """Load the checkpoint into PyTorch in bf16.  Raises TutorialError if it is missing or too large for page 08."""
    size = files.size(settings.checkpoint_dir, "*.safetensors")
    if not size:
        raise TutorialError("There is no checkpoint on this disk.", "Run: python -m helpers fetch")
    if size > LARGEST_CHECKPOINT:
        raise TutorialError(f"The checkpoint has {size / 1e9:.1f} GB.", "Compare a smaller model with PyTorch.")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return pytorch(settings, threads)


def on_device(device: str, settings: Settings, threads: int) -> Play:
    """Load `ours` on `device`.  Raises TutorialError where OpenVINO does not see it."""
    import openvino

    if not any(name.startswith(device) for name in openvino.Core().available_devices):
        raise TutorialError(f"OpenVINO sees no {device} here.", "Page 02 says what it needs.")
    return ours(replace(settings, device=device), threads)


LOADERS: dict[str, tuple[str, Loader]] = {  # name → (the module that it needs, loader): what page 08 compares
    "helpers.generate": ("openvino", ours),
    "optimum-intel generate": ("optimum", optimum),
    "OpenVINO GenAI": ("openvino_genai", genai),
    "PyTorch bf16": ("transformers", small_pytorch),
    "helpers.generate, GPU": ("openvino", partial(on_device, "GPU")),
    "helpers.generate, NPU": ("openvino", partial(on_device, "NPU")),
}


def load_all(settings: Settings, threads: int, loaders: Mapping = LOADERS) -> tuple[dict[str, Play], dict[str, str]]:
    """Return the engines that run here, {name: Play}, and why the others do not, {name: reason}."""
    plays, reasons = {}, {}
    for name, (module, loader) in loaders.items():
        if find_spec(module) is None:
            reasons[name] = f"{module} is not installed."
            continue
        try:
            plays[name] = loader(settings, threads)
        except TutorialError as error:
            reasons[name] = error.message
    return plays, reasons


def rounds_of(play: Play, ids: list[int], prompt_tokens: int, new_tokens: int) -> Callable[[], dict]:
    """Return a side for timing.interleaved.  Each call's prompt starts one id later, so that no cache holds its prefix.

    A call returns the new ids, the milliseconds to the first, and the milliseconds of each later one.
    """
    starts = iter(range(0, len(ids) - prompt_tokens))

    def once() -> dict:
        start = next(starts)
        new_ids, moments = play(ids[start : start + prompt_tokens], new_tokens)
        first, *later = (1000 * (after - before) for before, after in pairwise(moments))
        return {"ids": new_ids, "first_ms": first, "later_ms": later}

    return once


def rows(played: Mapping[str, list[dict]], not_run: Mapping[str, str], weight_bytes: Mapping[str, float]) -> list[dict]:
    """Return a table row per engine; the others are compared with the first of `played`.

    `played` has the results of rounds_of per round, `weight_bytes` the bytes that a decode step of each engine reads.
    """
    ours, *_ = played
    speed = {name: [1000 / mean(each["later_ms"]) for each in rounds] for name, rounds in played.items()}
    columns = ("engine", "first token", "decode, tokens/s", "time ÷ ours", "bytes ÷ ours", "our ids")
    found = []
    for name, rounds in played.items():
        same = all(a["ids"] == b["ids"] for a, b in zip(rounds, played[ours], strict=True))
        first, relative = median(each["first_ms"] for each in rounds), ratio(speed[ours], speed[name])
        numbers = f"{relative:.2f}", f"{weight_bytes[name] / weight_bytes[ours]:.2f}"
        cells = (name, f"{first:.0f} ms", f"{median(speed[name]):.1f}", *numbers, "yes" if same else "no")
        found.append(dict(zip(columns, cells, strict=True)))
    blank = dict.fromkeys(found[0], "")
    return found + [blank | {"engine": name, "first token": f"not run: {why}"} for name, why in not_run.items()]

"""Greedy parity with PyTorch on tiny random checkpoints of many architectures, for both loaders and both KV caches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from architectures import ARCHITECTURES, write_checkpoint

from helpers import catalog
from helpers.generate import GREEDY, PromptCache, Sampling, eos_token_ids, generate
from helpers.generate.sampling import single_thread
from helpers.load import load_fast, load_model
from helpers.load.config import context_length, long_rope_start
from helpers.metrics.quality import REFERENCE
from helpers.settings import Settings

BIASED = ("Mpt", "Bloom")
EVERY_PUSH = ("Granite", "Phi3", "Qwen3Moe", "GPT2")  # a scaled head; keys that change; experts; another context name
LOADERS = {
    "load_model": load_model,
    "load_model, stateful": partial(load_model, paged=False),
    "load_fast": load_fast,
}
PROMPT, N = list(range(7, 27)), 24  # 20 tokens, so that Phi-3's answer crosses from one set of angles to the other


def greedy(folder, ids, n) -> list[int]:
    """Return the new ids of PyTorch, which reads the whole text again for each token: no cache can be wrong."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    text = list(ids)
    with torch.no_grad(), single_thread():
        for _ in range(n):
            text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return text[len(ids) :]


@pytest.fixture(
    scope="module",
    params=[name if name in EVERY_PUSH else pytest.param(name, marks=pytest.mark.weekly) for name in ARCHITECTURES],
)
def exported(request, tmp_path_factory):
    """The settings of a random model of each architecture, exported to f32 in this process."""
    from optimum.exporters.openvino import main_export
    from optimum.intel.openvino import OVConfig

    root, exact = str(tmp_path_factory.mktemp("root")), dict(REFERENCE)
    setup = Settings(model=request.param, format="fp32", model_root=root, ov_config=exact)
    entry = replace(catalog.find("phi3-instruct"), name=request.param, flags={"fp32": ()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.MODELS, request.param, entry)
        write_checkpoint(request.param, setup.checkpoint_dir)
        main_export(
            str(setup.checkpoint_dir),
            output=str(setup.model_dir),
            task="text-generation-with-past",
            library_name="transformers",
            ov_config=OVConfig(dtype="fp32"),
        )
        yield setup


@pytest.fixture(scope="module")
def expected(exported):
    return greedy(exported.checkpoint_dir, PROMPT, N)


@pytest.mark.parametrize("loader", LOADERS)
def test_greedy_decoding_is_that_of_pytorch(exported, expected, loader):
    model, *_ = LOADERS[loader](exported)
    assert [token.id for token in generate(model, PROMPT, N, stop_ids=[])] == expected
    # A bias of the attention is lost in the paged form; without any, the faster form should be used.
    assert bool(model.paged) is (loader != "load_model, stateful" and exported.model not in BIASED)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, top_k=20, repetition_penalty=1.1, seed=1)], ids=str)
def test_lookup_gives_the_ids_of_plain_decoding(exported, loader, sampling, monkeypatch):
    """The text repeats itself, drafts cost nothing, and the answer crosses from one set of angles to the other."""
    monkeypatch.setattr("helpers.generate.speculate.PassTimes.cost", lambda *_: 1.0)
    model, *_ = LOADERS[loader](exported)
    prompt = PROMPT[:8] * 3
    plain = [token.id for token in generate(model, prompt, N, sampling, stop_ids=[])]
    assert [token.id for token in generate(model, prompt, N, sampling, stop_ids=[], lookup=True)] == plain


def test_both_constructors_agree_on_what_the_configuration_says(exported):
    (fast, *_), (model, *_) = load_fast(exported), load_model(exported)
    assert fast.stateful == model.stateful
    assert eos_token_ids(fast) == eos_token_ids(model)
    assert context_length(fast.config) == context_length(model.config)
    assert long_rope_start(fast.config) == long_rope_start(model.config)


@pytest.mark.parametrize("exported", ["Phi3"], indirect=True)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("length", [31, 32, 33, 34, 70])
def test_longrope_prefilled_in_chunks(exported, monkeypatch, loader, length):
    """Above original_max_position_embeddings, 32 here, all keys have other angles than below."""
    model, *_ = LOADERS[loader](exported)
    prompt, cache = [7 + n % 500 for n in range(length)], PromptCache(model)
    monkeypatch.setattr(type(cache.kv), "prefill_chunk_size", 16)
    for _ in cache.prefill(prompt):
        pass
    answer = [token.id for token in generate(model, prompt, 4, stop_ids=[], cache=cache)]
    assert answer == greedy(exported.checkpoint_dir, prompt, 4)


@pytest.mark.parametrize("exported", ["Phi3"], indirect=True)
@pytest.mark.parametrize("loader", LOADERS)
def test_longrope_with_a_cache_that_is_shortened_and_grows_again(exported, loader):
    model, *_ = LOADERS[loader](exported)
    cache, texts = PromptCache(model), [[7 + n % 500 for n in range(length)] for length in (50, 20, 30, 40, 25)]
    for text in texts:
        answer = [token.id for token in generate(model, text, 1, stop_ids=[], cache=cache)]
        assert answer == greedy(exported.checkpoint_dir, text, 1)

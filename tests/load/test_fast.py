"""helpers.light: the ids of runtime.load, without what makes that slow to start."""

import json
from dataclasses import replace

import pytest

from helpers.errors import TutorialError
from helpers.generate import PromptCache, generate
from helpers.generate.sampling import Sampling
from helpers.load import load_model
from helpers.load.model import load_fast
from helpers.settings import Settings
from helpers.tokenize import prompt_ids

TEXTS = [
    "What is the capital of France?",
    "Zwei Gläser für 3.50 €, bitte: f(x) = [a_1] <b>",
    "日本 🙂 \n\n1",
    "<|im_end|>",
]


@pytest.fixture(scope="module", params=[pytest.param("embedded", marks=pytest.mark.model), "tiny"])
def both(request):
    """The same export by both roads."""
    choice = Settings() if request.param == "embedded" else request.getfixturevalue("exported") and None
    choice = choice or request.getfixturevalue("settings")
    return load_fast(choice), load_model(choice)


def test_its_ids_are_those_of_the_other_road(both):
    (model, tok, device), (other, other_tok, other_device) = both
    assert device == other_device
    assert model.stateful and model.paged and other.paged
    assert model.generation_config.eos_token_id == other.generation_config.eos_token_id
    for text in TEXTS:
        prompt = prompt_ids(tok, [{"role": "user", "content": text}])
        assert prompt == prompt_ids(other_tok, [{"role": "user", "content": text}])
        assert tok.decode(prompt) == other_tok.decode(prompt)
        for sampling in (Sampling(), Sampling(temperature=0.8, top_p=0.9, seed=5)):
            ours, theirs = (list(generate(one, prompt, 12, sampling)) for one in (model, other))
            assert [step.id for step in ours] == [step.id for step in theirs]


def test_a_cache_goes_on(both):
    (model, tok, _), _ = both
    prompt = prompt_ids(tok, [{"role": "user", "content": TEXTS[0]}])
    cache = PromptCache(model)
    first = cache.logits(prompt).copy()
    cache.logits([*prompt, int(first.argmax())])
    assert cache.cached_tokens == len(prompt)


def test_what_starts_slowly_is_not_imported(exported, settings, start):
    code = "import sys; from helpers import settings; from helpers.load import load_fast; load_fast(settings.load())"
    code += "; print(sorted({'optimum', 'nncf', 'torch._dynamo', 'sklearn'} & set(sys.modules)))"
    said, errors = start("-c", code, TUTORIAL_MODEL_ROOT=settings.model_root, TUTORIAL_DEVICE="CPU").communicate()
    assert said.strip() == "[]", errors


def test_a_damaged_export_is_told(exported, settings, tmp_path):
    folder = tmp_path / settings.model / settings.format
    folder.mkdir(parents=True)
    for file in exported.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    graph = folder / "openvino_model.xml"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(TutorialError, match="openvino_model.xml is cut short"):
        load_fast(replace(settings, model_root=str(tmp_path)))


def test_another_class_of_tokenizer_is_searched_for(exported, settings, tmp_path, monkeypatch):
    folder = tmp_path / settings.model / settings.format
    folder.mkdir(parents=True)
    for file in exported.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizerFast"}))
    asked = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *a, **options: asked.append(options))
    load_fast(replace(settings, model_root=str(tmp_path)))
    assert asked == [{"trust_remote_code": False}]

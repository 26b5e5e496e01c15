"""load_model and load_fast against each other, and what is said of an export that cannot be loaded."""

import json
import shutil
from dataclasses import replace

import numpy as np
import openvino_tokenizers
import pytest
from openvino import Core
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from helpers.checkpoint.tokenizer import load_tokenizer, restore_tokenizer
from helpers.errors import TutorialError
from helpers.files import LOAD_FILES
from helpers.generate import PromptCache, Sampling, eos_token_ids, generate
from helpers.generate.kv_cache import StatefulKVCache
from helpers.load.graph import SLICED_ABOVE
from helpers.load.model import load_error, load_fast, load_model, require_export
from helpers.metrics.quality import REFERENCE
from helpers.metrics.timing import kv_bytes_per_token
from helpers.settings import Settings
from helpers.tokenize import prompt_ids

TEXTS = ["What is the capital of France?", "Zwei Gläser für 3.50 €: f(x) = [a_1] <b>", "日本 🙂 \n\n1", "<|im_end|>"]
# Everything that helpers/, notebooks/ and bench/ read from the configuration of a model.
READ = ["max_position_embeddings", "vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers"]
READ += ["num_key_value_heads", "tie_word_embeddings", "head_dim", "random_weights"]


@pytest.fixture
def copied(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's export, to be changed."""
    choice = replace(settings, model_root=str(tmp_path))
    shutil.copytree(exported.folder, choice.model_dir)
    return choice


@pytest.fixture(scope="module", params=["llama", "phi3"])
def both(request, tmp_path_factory):
    """The same export by load_fast and by load_model."""
    if request.param == "llama":
        request.getfixturevalue("exported")
        choice = request.getfixturevalue("settings")
    else:
        choice = Settings(model="phi3-instruct", model_root=str(tmp_path_factory.mktemp("phi3")))
        shutil.copytree(request.getfixturevalue("phi3_folder"), choice.model_dir)
    return load_fast(choice), load_model(choice)


def test_both_have_the_same_properties(both):
    (fast, tok, device), (model, other_tok, other_device) = both
    assert device == other_device and type(tok) is type(other_tok)
    assert fast.stateful is model.stateful is True
    for name in READ:
        assert getattr(fast.config, name, None) == getattr(model.config, name, None), name
    assert eos_token_ids(fast) == eos_token_ids(model) != frozenset()
    assert kv_bytes_per_token(fast) == kv_bytes_per_token(model)
    (fast,), (model,) = fast.paged, model.paged
    assert [port.any_name for port in fast.inputs] == [port.any_name for port in model.inputs]
    for name in ("PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"):
        assert fast.get_property(name) == model.get_property(name)


@pytest.mark.parametrize("load", [load_fast, load_model])
def test_with_lookup_there_is_a_copy_of_the_graph_for_longer_runs(exported, settings, load):
    model, *_ = load(settings, lookup=True)
    cache, used = PromptCache(model), []
    for length in 5, 6, 8, 9:
        cache.logits(list(range(length)))
        used.append(cache.request)
    one, longer = cache.kv.requests
    assert used == [longer, one, longer, one]
    assert cache.pass_times.separate and not PromptCache(load(settings)[0]).pass_times.separate


def test_both_generate_the_same_ids_and_text(both):
    (fast, tok, _), (model, other_tok, _) = both
    for text in TEXTS:
        prompt = prompt_ids(tok, [{"role": "user", "content": text}])
        assert prompt == prompt_ids(other_tok, [{"role": "user", "content": text}])
        for sampling in (Sampling(), Sampling(temperature=0.8, top_p=0.9, seed=5)):
            ours, theirs = (list(generate(one, prompt, 12, sampling)) for one in (fast, model))
            assert [token.id for token in ours] == [token.id for token in theirs]
            assert tok.decode([token.id for token in ours]) == other_tok.decode([token.id for token in theirs])


@pytest.mark.parametrize("change", ["no file", "damaged", "no eos", "a list", "null"])
def test_both_take_the_eos_tokens_from_the_same_file(copied, change):
    file = copied.model_dir / "generation_config.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    found["eos_token_id"] = {"no eos": 0, "a list": [5, 7], "null": None}.get(change, 2)
    if change == "no eos":
        del found["eos_token_id"]
    file.write_text(json.dumps(found), encoding="utf-8")
    if change == "no file":
        file.unlink()
    if change == "damaged":
        file.write_text("{", encoding="utf-8")
    (fast, *_), (model, *_) = load_fast(copied), load_model(copied)
    assert eos_token_ids(fast) == eos_token_ids(model)


@pytest.mark.parametrize("wrong", [RuntimeError, ImportError])
def test_without_paged_attention_both_use_the_stateful_cache(exported, settings, monkeypatch, wrong):
    from openvino import _offline_transformations as passes

    def refuse(_graph):
        raise wrong("not with this graph, or not in this version")

    exact = replace(settings, ov_config=settings.ov_config | REFERENCE)
    prompt = [5, 6, 7, 8]
    expected = PromptCache(load_model(exact)[0]).logits(prompt).copy()
    monkeypatch.setattr(passes, "paged_attention_transformation", refuse)
    inputs = []
    for model, *_ in (load_model(exact), load_fast(exact)):
        cache = PromptCache(model)
        assert not model.paged and isinstance(cache.kv, StatefulKVCache)
        np.testing.assert_allclose(cache.logits(prompt), expected, atol=1e-4)
        inputs.append([port.any_name for port in model.request.get_compiled_model().inputs])
    assert inputs[0] == inputs[1]


def test_load_fast_does_not_import_what_is_slow(exported, settings, start):
    code = "import sys; from helpers import settings; from helpers.load import load_fast; load_fast(settings.load())"
    code += "; print(sorted({'optimum', 'nncf', 'torch._dynamo', 'sklearn'} & set(sys.modules)))"
    out, errors = start("-c", code, TUTORIAL_MODEL_ROOT=settings.model_root, TUTORIAL_DEVICE="CPU").communicate()
    assert out.strip() == "[]", errors


@pytest.mark.parametrize(
    "name", ["LlamaTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast", None]
)
def test_the_tokenizer_is_what_tokenizer_json_says_whatever_its_class(copied, name):
    """transformers 5.5 builds a tokenizer of its own for some classes, which loses all spaces of this vocabulary."""
    file = copied.model_dir / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": name}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")
    authority = Tokenizer.from_file(str(copied.model_dir / "tokenizer.json"))
    tok = load_tokenizer(copied.model_dir)
    for text in (*TEXTS, "Where do you live?", " two  spaces\n\n"):
        ids = tok(text, add_special_tokens=False)["input_ids"]
        assert ids == authority.encode(text, add_special_tokens=False).ids
        assert tok.decode(ids) == text
    assert (tok.bos_token_id, tok.eos_token_id) == (1, 2) and tok.chat_template


def test_an_export_whose_tokenizer_transformers_has_built_itself_gets_that_of_the_checkpoint(
    copied, checkpoint, tmp_path
):
    source, folder = shutil.copytree(checkpoint, tmp_path / "source"), copied.model_dir
    file = source / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "LlamaTokenizerFast"}
    file.write_text(json.dumps(config), encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    restore_tokenizer(source, folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}, "it was right"
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)  # as optimum-cli does
    lossy = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Where do you live?"
    assert lossy.decode(lossy.encode(text).ids) != text, "transformers is mended: delete restore_tokenizer"
    restore_tokenizer(source, folder)
    tok, core = load_tokenizer(folder), Core()
    core.add_extension(openvino_tokenizers._ext_path)
    ids = tok(text, add_special_tokens=False)["input_ids"]
    assert tok.decode(ids) == text
    assert core.compile_model(folder / "openvino_tokenizer.xml", "CPU")([text])["input_ids"].tolist() == [ids]


def test_a_missing_device_is_replaced_by_the_cpu_unless_strict(exported, settings):
    choice = replace(settings, device="GPU.9")
    model, tok, device = load_model(choice)
    assert device.device == model._device == "CPU" and model.ov_config["PERFORMANCE_HINT"] == "LATENCY"
    for load in (load_model, load_fast):
        with pytest.raises(TutorialError, match="drop strict"):
            load(choice, strict=True)


@pytest.mark.parametrize("paged", [True, False])
def test_the_model_returns_the_logits_of_the_last_position_of_a_prompt_and_of_all_of_a_draft(exported, settings, paged):
    model, *_ = load_model(settings, paged=paged)
    cache = PromptCache(model)
    for length, rows in ((SLICED_ABOVE, SLICED_ABOVE), (2 * SLICED_ABOVE + 1, 1)):
        cache.logits(list(range(length)))
        assert cache.request.get_tensor("logits").size == rows * model.config.vocab_size


def test_the_stateful_graph_is_compiled_when_model_generate_first_needs_it(exported, settings):
    exact = replace(settings, ov_config=settings.ov_config | REFERENCE)
    (paged, tok, _), (stateful, *_) = load_model(exact), load_model(exact, paged=False)
    assert paged.paged and paged.request is None and not stateful.paged and stateful.request
    prompt = tok("You may not", return_tensors="pt")
    ids = prompt["input_ids"][0].tolist()
    expected = [token.id for token in generate(paged, ids, 8, stop_ids=())]
    assert paged.request is None
    for model in (paged, stateful):
        row = model.generate(**prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0].tolist()
        assert row[len(ids) :] == expected == [token.id for token in generate(model, ids, 8, stop_ids=())]


def test_cache_dir_is_used_for_the_stateful_graph_only(exported, settings, tmp_path):
    """OpenVINO cannot load a paged graph from it, and would write it each time."""
    choice = replace(settings, ov_config=settings.ov_config | {"CACHE_DIR": str(tmp_path)})
    assert load_model(choice)[0].paged and not list(tmp_path.rglob("*.blob"))
    loaded = [load_model(choice, paged=False)[0].request.get_compiled_model() for _ in range(2)]
    assert [compiled.get_property("LOADED_FROM_CACHE") for compiled in loaded] == [False, True]


def test_each_library_is_told_whether_to_run_remote_code(copied, monkeypatch):
    """By default transformers would ask the reader."""
    file = copied.model_dir / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}), encoding="utf-8")
    told = []
    for name in ("optimum.intel.openvino.OVModelForCausalLM", "transformers.AutoTokenizer"):
        module, _, kind = name.rpartition(".")
        known = getattr(__import__(module, fromlist=[kind]), kind)
        make = known.from_pretrained
        monkeypatch.setattr(known, "from_pretrained", lambda *a, m=make, **more: told.append(more) or m(*a, **more))
    load_model(copied)
    assert [more["trust_remote_code"] for more in told] == [False, False]


def test_without_an_export_the_command_that_makes_it_is_named(tmp_path):
    for load in (load_model, load_fast):
        with pytest.raises(TutorialError, match="helpers export --model smollm2-instruct --format int8"):
            load(Settings(model_root=str(tmp_path), format="int8"))


@pytest.mark.parametrize("name", LOAD_FILES)
def test_an_export_that_lacks_a_file_is_not_loaded(copied, name):
    assert require_export(copied) == copied.model_dir
    (copied.model_dir / name).unlink()
    with pytest.raises(TutorialError, match=f"damaged: {name} is missing[.]\n") as caught:
        load_model(copied)
    assert "helpers export --model smollm2-instruct --format int4" in caught.value.hint


def test_a_damaged_file_is_named_by_both(copied):
    graph = copied.model_dir / "openvino_model.xml"
    graph.write_bytes(graph.read_bytes()[:1000])
    for load in (load_model, load_fast):
        with pytest.raises(TutorialError, match="openvino_model.xml is (incomplete|of a different size)"):
            load(copied)


def test_only_a_sound_export_runs_out_of_memory(copied):
    assert "too little free memory" in load_error(copied, "CPU", MemoryError()).message
    graph = copied.model_dir / "openvino_model.xml"
    graph.write_bytes(graph.read_bytes()[:1000])
    error = load_error(copied, "CPU", MemoryError())
    assert "openvino_model.xml is" in error.message and "helpers export" in error.hint


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a"), TutorialError("b")], ids=["damage", "other", "ours"])
def test_nobody_is_told_to_delete_an_ir_of_their_own(copied, error):
    own = Settings(model=str(copied.model_dir))
    if isinstance(error, MemoryError):
        (own.model_dir / "openvino_model.bin").write_bytes(b"")
        (own.model_dir / "tokenizer.json").unlink()
        with pytest.raises(TutorialError) as caught:
            require_export(own)
        assert "from where they came" in caught.value.hint
    hint = load_error(own, "CPU", error).hint
    assert "elete" not in hint and "from where they came" in hint


def test_the_export_of_a_checkpoint_of_ones_own_can_be_made_again(exported, settings):
    checkpoint = Settings(model=str(settings.checkpoint_dir))
    assert checkpoint.spec.source == "folder" and checkpoint.model_dir != checkpoint.checkpoint_dir
    assert "helpers export" in load_error(checkpoint, "CPU", KeyError()).hint


def test_an_error_of_openvino_is_told_by_its_own_message(copied):
    words = "Exception from src/a.cpp:1:\n\nCheck 'false' failed at src/b.cpp:2:\nNo such property\nand more\n"
    error = load_error(copied, "GPU.1", ValueError(words))
    assert error.message.endswith("cannot be loaded on GPU.1. ValueError: No such property")
    assert "ov_config" in error.hint and "helpers export --model smollm2-instruct --format int4" in error.hint
    assert load_error(copied, "CPU", KeyError()).message.endswith("KeyError: ")
    for load in (load_model, load_fast):
        with pytest.raises(TutorialError, match="NONSENSE"):
            load(replace(copied, ov_config={"NONSENSE": "1"}))

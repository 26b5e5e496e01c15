"""The random Phi-3: its shape and special tokens are Phi-3's, the weights are a seed's, and it can be loaded."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hub import TINY_SHAPE
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.catalog import MODELS
from helpers.checkpoint import random_weights
from helpers.checkpoint.fetch import fetch
from helpers.checkpoint.random_weights import ADDED_TOKENS, phi3_tokenizer, write_random_phi3

SMALL = TINY_SHAPE | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
ENTRY = replace(MODELS["phi3-rehearsal"], checkpoint_gib=0)
LIMIT = 5_000_000  # the embedding has 4.1 MB


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(folder, what was shown) of a small one, as fetch() makes it."""
    shown = []
    monkeypatch.setattr(random_weights, "PHI3_MINI_SHAPE", SMALL)
    monkeypatch.setattr(random_weights, "SHARD_BYTES", LIMIT)
    monkeypatch.setattr("helpers.files.ProgressLine.update", lambda self, text: shown.append(text))
    monkeypatch.setattr("helpers.files.ProgressLine.finish", lambda self, text: shown.append(text))
    return fetch(ENTRY, tmp_path / "checkpoint", report=lambda _: None), shown


@pytest.fixture(scope="module")
def tok():
    return phi3_tokenizer()


def loaded(made):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(made[0])


def test_it_loads_with_normal_weights_of_its_shape_and_norms_of_one(made):
    from transformers import Phi3Config, Phi3ForCausalLM

    model = loaded(made)
    wanted = Phi3ForCausalLM(Phi3Config(**SMALL)).state_dict()
    found = model.state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: each.shape for name, each in wanted.items()}
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert type(model).__name__ == "Phi3ForCausalLM" and model.config.random_weights is True
    assert {name: getattr(model.config, name) for name in SMALL} == SMALL
    for name, value in found.items():
        if "norm" in name:
            assert (value == 1).all()
        else:
            assert abs(float(value.float().mean())) < 1e-3
            assert float(value.float().std()) == pytest.approx(0.02, rel=0.05), name


def test_each_shard_stays_within_the_limit_and_the_index_lists_its_weights(made):
    from safetensors import safe_open

    folder, shown = made
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    assert [file.name for file in files] == [f"model-0000{n}-of-0000{len(files)}.safetensors" for n in (1, 2)]
    assert shown == [*(f"random weights, shard {n} of {len(files)}" for n in (1, 2)), "random weights written"]
    size, place = 0, {}
    for file in files:
        with safe_open(file, "pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
            assert weights.metadata() == {"format": "pt"}, "as transformers writes it, and some readers ask for it"
        place |= dict.fromkeys(tensors, file.name)
        bytes_of_it = sum(each.nbytes for each in tensors.values())
        assert bytes_of_it <= LIMIT
        size += bytes_of_it
    assert index == {"metadata": {"total_size": size}, "weight_map": place}


def test_the_real_shape_is_split_without_memory(monkeypatch, tmp_path):
    """Everything but the writing of tensors, which would be 7.6 GB."""
    written = []
    monkeypatch.setattr("safetensors.torch.save_file", lambda shard, *_, **__: written.append([*shard]))
    monkeypatch.setattr("torch.ones", lambda shape, **_: torch.empty(shape, device="meta", dtype=torch.bfloat16))
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: self)
    monkeypatch.setattr(random_weights, "phi3_tokenizer", lambda: SimpleNamespace(save_pretrained=print))
    write_random_phi3(tmp_path, random_weights.PHI3_MINI_SHAPE, seed=1, report=lambda _: None)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == 2 * MODELS["phi3-rehearsal"].parameters
    assert len(written) > 7 and sum(len(names) for names in written) == len(index["weight_map"])


def test_the_same_seed_gives_the_same_bytes_and_a_different_one_does_not(made, tmp_path):
    weights = {}
    for seed in (int(ENTRY.revision), 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_random_phi3(folder, SMALL, seed, report=lambda _: None)
        weights[seed] = [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))]
    ours = [file.read_bytes() for file in sorted(made[0].glob("*.safetensors"))]
    assert weights[int(ENTRY.revision)] == ours != weights[5]


def test_its_eos_tokens_are_phi3s(made, tok):
    named = loaded(made).generation_config
    ends = [tok.convert_tokens_to_ids(text) for text in ("<|endoftext|>", "<|assistant|>", "<|end|>")]
    assert named.eos_token_id == ends == [32000, 32001, 32007]
    assert (named.bos_token_id, named.pad_token_id) == (1, 32000)


def test_its_special_tokens_have_the_ids_of_phi3(tok):
    assert tok.convert_ids_to_tokens([0, 1, 2, 3, 258]) == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert tok.convert_ids_to_tokens(range(32000, 32011)) == ADDED_TOKENS and len(tok) == 32011
    assert (tok.bos_token, tok.eos_token, tok.pad_token, tok.unk_token) == ("<s>", *["<|endoftext|>"] * 2, "<unk>")
    assert tok.model_max_length == SMALL["max_position_embeddings"] == 4096
    for token in ("<s>", *ADDED_TOKENS):
        (index,) = tok(token)["input_ids"]
        assert tok.decode([index]) == token and tok.decode([index], skip_special_tokens=True) == ""


def test_added_tokens_remove_the_white_space_after_them_except_the_end_of_text(tok):
    for token in ADDED_TOKENS:
        swallows = tok(f"{token} \n")["input_ids"] == tok(token)["input_ids"]
        assert swallows == (token != "<|endoftext|>")
    assert tok("<s> \n")["input_ids"] != tok("<s>")["input_ids"]


@settings(max_examples=40)
@given(st.text().filter(lambda text: not set("▁<") & set(text) and not text.startswith(" ")))
def test_text_without_subwords_becomes_bytes_and_comes_back(tok, text):
    ids = tok(text)["input_ids"]
    assert tok.decode(ids) == text and 0 not in ids
    assert tok(" " + text)["input_ids"] != ids or not text


def test_a_saved_tokenizer_encodes_and_decodes_as_before(made, tok):
    from transformers import AutoTokenizer

    saved, text = AutoTokenizer.from_pretrained(made[0]), "Another  one, <|user|> \n of \N{SNOWMAN} <s>the others"
    assert saved(text)["input_ids"] == tok(text)["input_ids"]
    assert saved.decode(tok(text)["input_ids"]) == tok.decode(tok(text)["input_ids"])
    assert (saved.eos_token, saved.pad_token, saved.chat_template) == (tok.eos_token, tok.pad_token, tok.chat_template)


def test_a_subword_includes_the_space_before_it_and_other_characters_are_bytes(tok):
    assert tok.convert_ids_to_tokens(tok("the other one")["input_ids"]) == ["▁the", "▁other", "▁one"]
    assert tok.convert_ids_to_tokens(tok("one\N{SNOWMAN}")["input_ids"]) == ["▁one", "<0xE2>", "<0x98>", "<0x83>"]
    for text in ("the  other one ", "one\N{SNOWMAN}\n\n1", "a , b !"):
        assert tok.decode(tok(text)["input_ids"]) == text


def test_the_chat_template_is_phi3s(tok):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    written = tok.apply_chat_template(messages, tokenize=False)
    assert written == "<|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n<|endoftext|>"
    asked = tok.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>\nHi<|end|>\n<|assistant|>\n"

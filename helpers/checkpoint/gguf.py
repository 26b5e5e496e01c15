"""A GGUF file → a checkpoint that transformers can load: weights, configuration and the right tokenizer."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

CONTROL = 3  # llama.cpp's code for tokens that stand for structure, not for text
# llama.cpp's "smollm" in one pattern: each digit alone, then what is between digits as GPT-2 splits it, where white
# space before a digit stays together.  One pattern and not two steps, as in SmolLM2's own tokenizer.json, because
# openvino_tokenizers (2026.4) looks past the first step's pieces: "\n\n1" would become other ids on the OpenVINO side.
SMOLLM_PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"


def gguf_to_checkpoint(gguf_file: Path, folder: Path) -> None:
    """Write model.safetensors, config.json and the tokenizer's files of `gguf_file` into `folder`.

    The weights are unpacked to 16 bit.  float16, because a block's scale and offset are float16 in the file:
    bfloat16 would drop three more bits of every weight.
    """
    import torch  # heavy: half of this module's time, so not before it is needed
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_from_gguf(gguf_file)
    with redirect_stderr(io.StringIO()):  # two progress bars of a few seconds, which would fill a notebook
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float16, local_files_only=True
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenizer_from_gguf(gguf_file: Path):
    """The tokenizer that a llama-type GGUF file describes, as a transformers tokenizer.

    Built from the file's fields and not by AutoTokenizer(gguf_file=…): what that one saves comes back with another
    pre-tokenizer, in which every space is an unknown token (transformers 5.5).  The recipe is llama.cpp's for the
    pre-tokenizer named "smollm", written as one pattern.

    Raises ValueError for a file with another tokenizer: its recipe is not known here.
    """
    from gguf import GGUFReader
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf_file).fields

    def read(name):
        return fields[f"tokenizer.{name}"].contents()

    if (read("ggml.model"), read("ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError(f"no recipe for the tokenizer {read('ggml.model')}/{read('ggml.pre')} of {gguf_file.name}")
    texts = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    rust = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(texts)}, merges=merges))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SMOLLM_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    control = [text for text, kind in zip(texts, read("ggml.token_type"), strict=True) if kind == CONTROL]
    rust.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=texts[read("ggml.bos_token_id")],
        eos_token=texts[read("ggml.eos_token_id")],
        unk_token=texts[read("ggml.unknown_token_id")],
        pad_token=texts[read("ggml.padding_token_id")],
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,  # decoding must return the very string
    )
    tokenizer.chat_template = read("chat_template")
    return tokenizer

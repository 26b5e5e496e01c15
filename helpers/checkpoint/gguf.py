"""Convert a GGUF file to a checkpoint that transformers can load: weights, configuration and tokenizer."""

import io
from contextlib import redirect_stderr
from pathlib import Path

CONTROL = 3  # the token type of special tokens in llama.cpp
# llama.cpp's pre-tokenizer "smollm": each digit alone, and the text between digits split as in GPT-2, except that white
# space before a digit is kept together.  SmolLM2's tokenizer.json does this in two steps, but openvino_tokenizers
# (2026.4) matches across the boundaries of the first step and gives "\n\n1" different ids, so we use one pattern.
SMOLLM_PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"


def gguf_to_checkpoint(gguf_file: Path, folder: Path) -> None:
    """Write model.safetensors, config.json and the tokenizer's files of `gguf_file` into `folder`.

    Weights are dequantized to float16, the type of a block's scale and offset in the file; bfloat16 would drop three
    more bits of every weight.
    """
    import torch  # here, because importing it takes long
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_from_gguf(gguf_file)
    with redirect_stderr(io.StringIO()):  # its progress bars would fill a notebook
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float16, local_files_only=True
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenizer_from_gguf(gguf_file: Path):
    """Return the tokenizer that a llama-type GGUF file describes, as a transformers tokenizer.

    We do not use AutoTokenizer(gguf_file=…): the files that it saves are loaded with a different pre-tokenizer, which
    turns every space into an unknown token (transformers 5.5).  Raises ValueError unless the file's pre-tokenizer is
    llama.cpp's "smollm".
    """
    from gguf import GGUFReader
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf_file).fields

    def read(name):
        return fields[f"tokenizer.{name}"].contents()

    if (read("ggml.model"), read("ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError(f"cannot convert the tokenizer {read('ggml.model')}/{read('ggml.pre')} of {gguf_file.name}")
    texts = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    rust = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(texts)}, merges=merges))
    split = pre_tokenizers.Split(Regex(SMOLLM_PATTERN), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    rust.decoder = decoders.ByteLevel()
    control = [text for text, kind in zip(texts, read("ggml.token_type"), strict=True) if kind == CONTROL]
    rust.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=texts[read("ggml.bos_token_id")],
        eos_token=texts[read("ggml.eos_token_id")],
        unk_token=texts[read("ggml.unknown_token_id")],
        pad_token=texts[read("ggml.padding_token_id")],
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,  # decoding must return the exact text
        chat_template=read("chat_template"),
    )

"""Write a Phi-3 checkpoint with random weights: at full size to measure its costs, and tiny for the tests."""

import json
from pathlib import Path

from helpers.files import Report

PHI3_MINI_SHAPE = {  # of microsoft/Phi-3-mini-4k-instruct, whose other values are Phi3Config's defaults
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
}
# Most of Phi-3's added tokens remove the white space after them (rstrip in its tokenizer_config.json).
ADDED_TOKENS = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{n}|>" for n in (1, 2, 3, 4))]
ADDED_TOKENS += ["<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SHARD_BYTES = 1_000_000_000


def write_random_phi3(folder: Path, shape: dict, seed: int, report: Report = print) -> None:
    """Write a Phi-3 checkpoint of that shape into `folder`: bfloat16 weights, normal with standard deviation 0.02.

    The norms' scales are 1.  Needs memory for one shard only, because tensors are drawn when their shard is written.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(**shape, dtype="bfloat16", architectures=["Phi3ForCausalLM"], random_weights=True)
    with torch.device("meta"):  # names and shapes without memory
        tensors = Phi3ForCausalLM(config).bfloat16().state_dict()
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_BYTES)
    shards = split.filename_to_tensors.values()
    generator = torch.Generator().manual_seed(seed)
    weight_map = {}

    def draw(tensor):  # the norms' scales have one dimension; near zero, every hidden state would vanish
        ones = torch.ones(tensor.shape, dtype=torch.bfloat16)
        return ones if tensor.dim() == 1 else ones.normal_(std=0.02, generator=generator)

    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"  # an index is written even for a single shard
        report(f"random weights, shard {number} of {len(shards)}")
        save_file({name: draw(tensors[name]) for name in names}, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
    index = {"metadata": split.metadata, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    config.save_pretrained(folder)
    eos = {"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000}
    (folder / "generation_config.json").write_text(json.dumps(eos), encoding="utf-8")
    phi3_tokenizer().save_pretrained(folder)


def phi3_tokenizer():
    """Return a tokenizer like Phi-3's: byte-pair encoding with ▁ for spaces, byte fallback, and its added tokens.

    Phi-3's vocabulary cannot be shipped, so subwords are learned from the texts of helpers/metrics.  Added tokens and
    bytes have the ids that Phi-3 gives them; the ids of ordinary text differ.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    rust = Tokenizer(models.BPE())
    rust.normalizer = normalizers.Prepend("▁")  # the words below have no spaces
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special + byte_tokens, show_progress=False)
    texts = sorted(Path(__file__).parents[1].glob("metrics/*.txt"))  # sorted: the same order on every machine
    words = (word for text in texts for word in text.read_text(encoding="utf-8").split())
    rust.train_from_iterator(words, trainer)
    model = json.loads(rust.to_str())["model"]
    vocab = model["vocab"]  # the next line fills the ids between our subwords and Phi-3's added tokens
    vocab |= {f"<unused{index}>": index for index in range(len(vocab), 32000)}
    merges = [tuple(merge) for merge in model["merges"]]
    rust = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.add_special_tokens(special)
    rust.add_special_tokens([AddedToken(text, rstrip=text != "<|endoftext|>") for text in ADDED_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )

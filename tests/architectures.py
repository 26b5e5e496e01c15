"""Tiny random checkpoints of many architectures."""

from templates import tokenizer

SHAPE = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "max_position_embeddings": 256}
GROUPED = SHAPE | {"num_key_value_heads": 2}
GPT = {"vocab_size": 600, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
FACTORS = {"short_factor": [1.0] * 6, "long_factor": [2.0 + n for n in range(6)]}
LONGROPE = {"rope_scaling": {"type": "longrope", "rope_theta": 10_000.0} | FACTORS, "partial_rotary_factor": 0.75}
ARCHITECTURES = {  # name of the configuration's class without Config, arguments
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 16},
    "Qwen3Moe": GROUPED | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Mixtral": GROUPED | {"num_local_experts": 4},
    "Mistral": GROUPED | {"sliding_window": None},
    "Phi3": SHAPE | LONGROPE | {"original_max_position_embeddings": 32, "pad_token_id": 0},
    "Phi": SHAPE,
    "Granite": GROUPED | {"logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "Cohere": GROUPED | {"logit_scale": 0.25},
    "Olmo": GROUPED,
    "Olmo2": GROUPED,
    "SmolLM3": GROUPED | {"pad_token_id": 0},
    "Falcon": {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    "GPTNeoX": SHAPE,
    "GPT2": GPT,
    "GPTJ": GPT | {"rotary_dim": 8},
    "StableLm": GROUPED,
    "Starcoder2": GROUPED,
    "OPT": {"vocab_size": 600, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"max_position_embeddings": 256, "word_embed_proj_dim": 64},
    "Bloom": {"vocab_size": 600, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "Mpt": {"vocab_size": 600, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
}


def write_checkpoint(architecture: str, folder) -> None:
    """Write a checkpoint of that architecture with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**ARCHITECTURES[architecture])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # large enough that the logits differ from position to position
        for name, values in model.named_parameters():
            if values.dim() > 1:
                values.normal_(std=1.0 if "embed" in name or "wte" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer("chatml").save_pretrained(folder)

"""Read values from a model's configuration, whose names differ between model families."""

from numbers import Integral

from helpers.errors import TutorialError

# Most models; GPT-2, GPT-J, Starcoder; MPT; BLOOM, ChatGLM.
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
DEFAULT_CONTEXT = 2048  # tokens, for a model that states none, such as some with ALiBi


def check_config(model) -> None:
    """Raise TutorialError unless the configuration has all values that generation needs, with valid types."""
    context_length(model.config), vocabulary_size(model.config), eos_token_ids(model)


def context_length(config) -> int:
    """Return the length of the model's context window, in tokens."""
    stated = [value for name in CONTEXT_NAMES if (value := getattr(config, name, None)) is not None]
    return _check("context length", stated[0] if stated else DEFAULT_CONTEXT)


def vocabulary_size(config) -> int:
    """Return the number of ids in the model's vocabulary."""
    return _check("vocab_size", getattr(config, "vocab_size", None))


def eos_token_ids(model) -> frozenset[int]:
    """Return the ids of the model's EOS tokens, from generation_config.json or else config.json; empty if none."""
    ids = model.generation_config.eos_token_id
    ids = getattr(model.config, "eos_token_id", None) if ids is None else ids
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return frozenset(_check("eos_token_id", each, 0) for each in ids)


def _check(what: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= 2**31:
        raise TutorialError(f"The model's configuration has an invalid {what}: {value!r:.60}.", "Export it again.")
    return int(value)


def long_rope_start(config) -> int | None:
    """Return the number of tokens above which longrope uses different rotary frequencies, or None without longrope.

    The 128k versions of Phi-3 use it (arXiv:2402.13753).  Keys cached below this length are invalid above it.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if "longrope" not in (rope.get("rope_type"), rope.get("type")):
        return None
    start = rope.get("original_max_position_embeddings")
    return start or getattr(config, "original_max_position_embeddings", None)

"""Load the tokenizer of a checkpoint or an export as its tokenizer.json defines it, whatever class is configured."""

import json
from pathlib import Path

from helpers.files import read_json

PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")  # add nothing to tokenizer.json
# For some classes, transformers 5 builds these parts itself, from the vocabulary alone.  If tokenizer_config.json names
# such a class but tokenizer.json is of a different kind, as in DeepSeek-R1-Distill-Llama, spaces are lost (transformers
# issue 45488).
PARTS = ("normalizer", "pre_tokenizer", "decoder")


def load_tokenizer(folder: Path, trust_remote_code: bool = False):
    """Return the tokenizer of a folder: AutoTokenizer's if it agrees with tokenizer.json, else tokenizer.json's own."""
    config = read_json(folder / "tokenizer_config.json")
    if config.get("tokenizer_class") in PLAIN and "auto_map" not in config:
        from transformers import PreTrainedTokenizerFast  # without AutoTokenizer's slow imports

        return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # Always explicit: by default transformers asks the reader whether to run code from the folder.
    tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if _parts(tok.backend_tokenizer) == _parts(folder):
        return tok
    return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False, **tok.special_tokens_map)


def has_chat_template(folder: Path) -> bool:
    """Return whether the tokenizer's files have a chat template."""
    config = read_json(folder / "tokenizer_config.json")
    return (folder / "chat_template.jinja").exists() or bool(config.get("chat_template"))


def restore_tokenizer(checkpoint: Path, export: Path) -> None:
    """Replace the export's tokenizer with the checkpoint's if transformers has built a different one."""
    if not (checkpoint / "tokenizer.json").exists() or _parts(checkpoint) == _parts(export):
        return
    from openvino import save_model
    from openvino_tokenizers import convert_tokenizer

    tok = load_tokenizer(checkpoint)
    tok.save_pretrained(export)
    for model, name in zip(convert_tokenizer(tok, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True):
        save_model(model, export / f"openvino_{name}.xml")


def _parts(source) -> list:
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(source / "tokenizer.json")) if isinstance(source, Path) else source
    return [json.loads(rust.to_str())[part] for part in PARTS]

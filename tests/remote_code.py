"""A model repository that could harm: Python files that its configurations name, and a pickle."""

import json
import os
import pickle
from pathlib import Path

CLASSES = {
    "config.json": {"AutoConfig": "stranger.Phi3Config", "AutoModelForCausalLM": "stranger.Phi3ForCausalLM"},
    "tokenizer_config.json": {"AutoTokenizer": [None, "stranger.Tokenizer"]},
}
CODE = """
from pathlib import Path

from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

Path({mark!r}).write_text("the repository's code ran")


class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


class Mark:
    """Unpickling it creates the folder `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def trap(folder: Path, mark: Path) -> Path:
    """Add remote code and a pickle to a model's folder; each creates `mark` when it runs."""
    for name, classes in CLASSES.items():
        table = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(table | {"auto_map": classes}), encoding="utf-8")
    (folder / "stranger.py").write_text(CODE.format(mark=str(mark)), encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mark(mark)))
    return folder

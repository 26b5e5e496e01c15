"""helpers.checkpoint.architecture: why a model cannot be exported, with versions that explain it."""

from types import SimpleNamespace

import pytest

from helpers.checkpoint import architecture
from helpers.checkpoint.architecture import require_exportable
from helpers.errors import TutorialError


@pytest.mark.parametrize(
    "least, most, words",
    [
        (None, "5.0", "transformers up to 5.0; 5.5.4 is"),
        ("5.10", None, "transformers from 5.10 on; 5.5.4 is"),
        ("5.10", "5.10.99", "transformers from 5.10 on; 5.5.4 is"),  # Gemma 4 in optimum-intel 2.1
        ("4.50", "5.3", "transformers up to 5.3; 5.5.4 is"),
        ("4.50", "5.6", None),
        (None, None, None),
    ],
)
def test_the_version_that_is_named_is_the_one_that_excludes_the_installed(monkeypatch, least, most, words):
    from optimum.exporters.tasks import TasksManager

    found = SimpleNamespace(MIN_TRANSFORMERS_VERSION=least, MAX_TRANSFORMERS_VERSION=most)
    monkeypatch.setattr(TasksManager, "get_exporter_config_constructor", lambda **_: found)
    versions = {"optimum-intel": "2.1.0", "transformers": "5.5.4"}
    monkeypatch.setattr(architecture, "metadata", SimpleNamespace(version=versions.get))
    if words is None:
        return require_exportable({"model_type": "gemma4"}, "somebody/model", False)
    with pytest.raises(TutorialError, match=words):
        require_exportable({"model_type": "gemma4"}, "somebody/model", False)


def test_weights_that_are_quantized_already_are_refused():
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(TutorialError, match="quantized already .'awq'."):
        require_exportable(config, "somebody/model", False)

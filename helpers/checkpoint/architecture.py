"""Check from config.json whether optimum-intel can export a checkpoint, before gigabytes are downloaded."""

from importlib import metadata

from helpers.errors import TutorialError
from helpers.files import selects_weights

ALTERNATIVES = "Choose a different model (python -m helpers models), or one that is an IR already: OpenVINO/…-int4-ov."


def require_exportable(config: dict, name: str, is_ir: bool) -> None:
    """Raise TutorialError unless `config`, that of the model `name`, is for a text model that can be exported here.

    For a checkpoint this imports optimum-intel, which takes several seconds.
    """
    if "vision_config" in config or "audio_config" in config:
        what = f"{name} also reads pictures or sound; only text models can be used here."
        raise TutorialError(what, "Choose the family's text model, for instance one whose name ends in -Instruct.")
    if selects_weights(config):
        what = f"The config.json of {name} selects its weights (transformers_weights), so they may be a pickle, "
        raise TutorialError(f"{what}which can run code.", ALTERNATIVES)
    if is_ir:
        return
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise TutorialError(f"The config.json of {name} names no model_type.", ALTERNATIVES)
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        what = f"The weights of {name} are quantized already ({method!r:.20}), so they cannot be exported to int4 here."
        raise TutorialError(what, f"Choose the repository with the original weights. {ALTERNATIVES}")
    if limit := _limit(kind):
        raise TutorialError(f"{name} has the architecture {kind[:40]!r}, {limit}.", ALTERNATIVES)


def _limit(kind: str) -> str:
    """Return why this architecture cannot be exported with the installed versions, or ""."""
    from optimum.exporters.openvino import model_configs  # noqa: F401  registers the architectures
    from optimum.exporters.tasks import TasksManager
    from packaging.version import Version

    optimum, installed = metadata.version("optimum-intel"), metadata.version("transformers")
    asked = {"exporter": "openvino", "model_type": kind, "library_name": "transformers"}
    try:
        found = TasksManager.get_exporter_config_constructor(**asked, task="text-generation-with-past")
    except (KeyError, ValueError):
        return f"which optimum-intel {optimum} does not export for text generation"
    config = getattr(found, "func", found)
    least, most = (getattr(config, f"{end}_TRANSFORMERS_VERSION", None) for end in ("MIN", "MAX"))
    below, above = least and Version(installed) < Version(str(least)), most and Version(installed) > Version(str(most))
    if below or above:
        versions = f"from {least} on" if below else f"up to {most}"
        return f"which optimum-intel {optimum} exports only with transformers {versions}; {installed} is installed"
    return ""

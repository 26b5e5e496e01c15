"""Download a checkpoint from the Hugging Face hub at a pinned revision: resumable, each file checked, data only."""

import hashlib
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path

from helpers.catalog import Model
from helpers.errors import HUB_LOGIN_HINT, NETWORK_HINT, TutorialError
from helpers.files import LEGACY_MANIFEST, MANIFEST, ProgressLine, check_hash, translate_os_errors

WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "LICENSE*"]  # data, no code, no pickle


class _Progress:
    """One live line for all files, which huggingface_hub updates like a tqdm bar."""

    def __init__(self, total: int):
        self.line, self.done, self.total, self.restarts = ProgressLine(), 0, total, 0

    def update(self, count: int) -> None:
        """Add `count` bytes.  The client passes a negative count when the server restarts an interrupted file."""
        self.done += count
        self.restarts += count < 0
        if self.restarts > 3:
            what = "The connection broke several times, and the server restarted the file each time."
            hint = "Try a different network, or set HF_ENDPOINT to a mirror that resumes. Then run this again."
            raise TutorialError(what, hint)
        self.line.update(f"downloading {self.done / 2**20:.0f} of {self.total / 2**20:.0f} MiB")


def from_hub(model: Model, part: Path) -> None:
    """Download the pinned revision into `part`; a second run continues where the first one stopped, inside a file too.

    Not with snapshot_download: it restarts an interrupted file (huggingface_hub issue 4196), and Phi-3's files have
    gigabytes; and when the hub cannot be reached it returns an incomplete folder without an error.
    """
    from httpx import HTTPError

    repo = f"{model.origin} at revision {model.revision[:7]}"
    try:
        entries = _listing(model)
        progress = _Progress(sum(entry.size or 0 for entry in entries))
        for entry in entries:
            with translate_os_errors(part):
                _download(model, entry, part / entry.rfilename, progress)
    except (HTTPError, OSError, ImportError) as error:  # ImportError: a SOCKS proxy needs one more package
        raise hub_error(error, repo) from error
    except ValueError as error:
        hint = "Check the variables that begin with HF_: HF_HUB_DOWNLOAD_TIMEOUT is in seconds, HF_TOKEN is ASCII."
        raise TutorialError(f"The hub's client cannot use an environment variable: {error}.", hint) from error
    progress.line.finish("downloaded")


def _listing(model: Model) -> list:
    """Return the hub's entries (name, size, hash) of the files that we download."""
    from huggingface_hub import HfApi, constants

    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT  # without it, the client waits forever for a hub that does not answer
    try:
        info = HfApi().model_info(model.origin, revision=model.revision, files_metadata=True, timeout=timeout)
        entries = [entry for entry in info.siblings if _is_wanted(entry.rfilename, model.trust_remote_code)]
    except (OSError, UnicodeEncodeError):  # a refusal; a token with characters that no header can carry
        raise
    except (ValueError, KeyError, TypeError) as error:  # the answer is not the hub's JSON
        host = constants.ENDPOINT.rpartition("@")[2]  # without a password
        raise TutorialError(f"{host} answers, but it is not a hub.", HUB_LOGIN_HINT) from error
    if not any(entry.rfilename.endswith(".safetensors") for entry in entries):
        hint = "Choose a different model. A pickle (pytorch_model.bin) can run code, so it is not downloaded."
        raise TutorialError(f"{model.origin} has no weights as safetensors.", hint)
    return entries


def _is_wanted(name: str, code: bool = False) -> bool:
    """Return whether `name` is data at the top of the repository; one with a folder in it could lead out of ours."""
    top = Path(name).name == name and name not in (MANIFEST, LEGACY_MANIFEST)
    return top and any(fnmatch(name, kind) for kind in WANTED + ["*.py"] * code)


def _download(model: Model, entry, file: Path, progress: _Progress) -> None:
    """Download what `file` lacks, then check its hash against the hub's `entry`."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if not (entry.lfs or entry.blob_id):
        what = f"This hub gives no hash of {entry.rfilename}, so it cannot be checked."
        raise TutorialError(what, "Is HF_ENDPOINT a complete mirror of the hub?")
    size = file.stat().st_size if file.exists() else 0
    resume = size if size <= (entry.size or 0) else 0
    progress.update(resume)
    with file.open("ab" if resume else "wb") as stream:
        http_get(
            hf_hub_url(model.origin, entry.rfilename, revision=model.revision),
            stream,
            resume_size=resume,
            headers=build_hf_headers() | {"Accept-Encoding": "identity"},  # compressed bytes cannot be resumed
            expected_size=entry.size,
            tqdm_class=lambda **_: nullcontext(progress),
        )
    try:
        if entry.lfs:
            check_hash(file, entry.lfs.sha256)
        else:
            header = b"blob %d\0" % file.stat().st_size  # git hashes it before the content
            check_hash(file, entry.blob_id, lambda: hashlib.sha1(header, usedforsecurity=False))
    except TutorialError:
        file.unlink()  # otherwise the next run would take it as complete
        raise


def hub_error(error: Exception, repo: str) -> TutorialError:
    """Return the error for a failed request to the hub about `repo`."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    wait = "Wait some minutes, then run this again: what has arrived is kept."
    if status in (401, 403):
        hint = "It needs no account. Is there an old token in HF_TOKEN or from `hf auth login`? Is HF_ENDPOINT right?"
        return TutorialError(f"The hub refuses access to {repo} ({status}).", hint)
    if status == 404:
        return TutorialError(f"The hub has no {repo} (404).", "Is HF_ENDPOINT right? A mirror may lack a model.")
    if status == 429 or status >= 500:
        return TutorialError(f"The hub has a problem, or limits the requests from this address ({status}).", wait)
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    hint = NETWORK_HINT.format(mirror="HF_ENDPOINT", more=": what has arrived is kept.")
    return TutorialError(f"The hub did not deliver {repo}: {reason}", hint)

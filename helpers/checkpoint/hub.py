"""Download a checkpoint from the Hugging Face hub at a pinned revision: resumable, bounded, each file checked."""

import hashlib
import os
import re
import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from httpx import HTTPError, InvalidURL, LocalProtocolError, ReadError, ReadTimeout, RemoteProtocolError

from helpers import files
from helpers.catalog import MODELS, Model
from helpers.checkpoint.architecture import require_exportable
from helpers.errors import HUB_LOGIN_HINT, NETWORK_HINT, TutorialError, check_addresses

# Data only: no code, and no files that can run code.  Mistral's repositories have a second copy of their weights in
# one file, consolidated*.
WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "LICENSE", "LICENSE.md", "LICENSE.txt"]
IR_WANTED = [f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")]
COMMIT = re.compile("[0-9a-f]{40}")
LISTING_LIMIT = 2**24  # bytes; Phi-3's has 5 KB
SLOWEST, WINDOW = 1024, 60  # bytes per second, over so many seconds; at that rate Phi-3 takes 86 days
MIRROR_HINT = "Is HF_ENDPOINT a complete mirror of the hub?"
VARIABLES_HINT = "Check HF_ENDPOINT, HF_TOKEN (ASCII), HF_HUB_DOWNLOAD_TIMEOUT (seconds), the *_PROXY variables, and "
VARIABLES_HINT += "NO_PROXY, in which the hub's client accepts no brackets and no ranges of IPv6 addresses."
# A file as the hub lists it: size in bytes, the sha256 of large files, and git's own hash of the others.
Entry = namedtuple("Entry", "name size sha256 git")


def from_hub(model: Model, part: Path, entries: list[Entry] | None = None) -> None:
    """Download the listed `entries` of the model into `part`; a second run resumes the download, even within a file.

    We do not use huggingface_hub's functions: snapshot_download restarts an interrupted file (its issue 4196), and none
    of them limits how many bytes a server may send, or how slowly.
    """
    if entries is None:
        model, entries = listing(model)
    names = {entry.name for entry in entries}
    for path in part.iterdir():  # no other file may get into the checkpoint, and none may be written through a link
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in names or path.is_symlink() or path.stat().st_nlink > 1:
            path.unlink()
    line, done, total = files.ProgressLine(), 0, sum(entry.size for entry in entries) >> 20

    def report(size: int) -> None:
        line.update(f"downloading {done + size >> 20} of {total} MiB")

    for entry in entries:
        with _translate(model), files.translate_os_errors(part):
            _download(model, entry, part / entry.name, report)
        done += entry.size
    line.finish("downloaded")


def inspect(model: Model) -> tuple[Model, list[Entry]]:
    """Return the result of listing(), completed with sizes, after checking config.json; nothing is written.

    Raises TutorialError for a model that cannot be used here, or a gated repository to which you have no access.
    """
    model, entries = listing(model)
    sizes = {entry.name: entry.size for entry in entries}
    is_ir = files.IR_FILES[0] in sizes
    if "config.json" in sizes:
        with _translate(model), _get(f"{model.origin}/resolve/{model.revision}/config.json", model) as response:
            data = b"".join(_chunks(response, min(sizes["config.json"], LISTING_LIMIT), "its config.json"))
        try:
            config = files.parse_json(data)
        except ValueError as error:
            raise TutorialError(f"In {model.origin}, config.json is {files.NOT_JSON}.", MIRROR_HINT) from error
        require_exportable(config, model.origin, is_ir)
    if lacks := sorted({*(files.EXPORT_FILES if is_ir else files.CHECKPOINT_FILES)} - {*sizes}):
        raise TutorialError(f"{model.origin} lacks {', '.join(lacks)}.", "Choose a repository that has these files.")
    total = sum(sizes.values())
    return replace(model, download_mib=max(1, total >> 20), checkpoint_gib=round(total / files.GIB, 3)), entries


def listing(model: Model, timeout: float | None = None) -> tuple[Model, list[Entry]]:
    """Return the model at the commit of its revision, and the hub's entries of the files to download.

    Raises TutorialError if none of the files can be used, or no hub answers.
    """
    path = f"api/models/{model.origin}/revision/{model.revision}?blobs=true"
    with _translate(model), _get(path, model, timeout=timeout) as response:
        data = b"".join(_chunks(response, LISTING_LIMIT, "its list of files"))
        host = response.url.netloc.decode()
    try:
        info = files.parse_json(data)
        names = [each["rfilename"] for each in info["siblings"]]
        is_ir = files.IR_FILES[0] in names
        wanted = {name for name in names if _is_wanted(name, model.trust_remote_code, is_ir)}
        if is_ir:  # an IR needs no weights besides its own
            wanted -= {name for name in wanted if name.endswith(".safetensors")}
        entries = [_entry(each) for each in info["siblings"] if each["rfilename"] in wanted]
        if not COMMIT.fullmatch(model.revision) and COMMIT.fullmatch(info["sha"]):
            model = replace(model, revision=info["sha"])
        _check_commit(info["sha"], model)
        tags = [str(tag) for tag in info.get("tags") or () if str(tag).startswith("license:")]
        if model.name not in MODELS and tags:
            model = replace(model, licence=re.sub(r"[^\w.+-]", "", tags[0].removeprefix("license:"))[:40] or "unknown")
    except files.MALFORMED as error:
        raise TutorialError(f"{host} answers, but it is not a hub.", HUB_LOGIN_HINT) from error
    if not wanted & {files.IR_FILES[0], "model.safetensors", files.WEIGHTS_INDEX}:
        raise _unusable(model, names)
    gib, known = sum(entry.size for entry in entries) / files.GIB, model.checkpoint_gib
    if known and model.tried and gib > 2 * known + 1:
        what = f"The hub lists {gib:,.1f} GiB for {model.origin}, which has {known} GiB."
        raise TutorialError(what, MIRROR_HINT)
    return model, entries


def _unusable(model: Model, names: list[str]) -> TutorialError:
    """Return the error for a repository whose files `names` include no weights that can be used."""
    what, more = "has no weights as safetensors", "A pickle (pytorch_model.bin) can run code, so it is not downloaded."
    if "adapter_config.json" in names:
        what, more = "is an adapter (LoRA), not a complete model", "Or merge it into its base model with peft."
    elif any(name.endswith(".gguf") for name in names):
        what = "has its weights as GGUF, which optimum-cli does not export"
        more = "GGUF repositories usually name the one that they were made from."
    hint = "Choose a repository with model.safetensors or openvino_model.xml."
    return TutorialError(f"{model.origin} {what}.", f"{hint} {more}")


def _entry(listed: dict) -> Entry:
    hashes = str((listed.get("lfs") or {}).get("sha256", "")), str(listed.get("blobId") or "")
    if type(listed["size"]) is not int or listed["size"] < 0:
        raise ValueError("no size")
    if not any(hashes):
        raise TutorialError(f"This hub gives no hash of {listed['rfilename']}, so it cannot be checked.", MIRROR_HINT)
    return Entry(listed["rfilename"], listed["size"], *hashes)


def _is_wanted(name: str, code: bool = False, is_ir: bool = False) -> bool:
    """Return whether to download `name`: a plain file name, without folders, of data or, with `code`, Python.

    The repository of an IR (`is_ir`) has some more files with data.
    """
    plain = re.fullmatch(r"(?!consolidated)[A-Za-z0-9_][\w.-]{0,99}", name, re.ASCII) and name != files.MANIFEST
    return bool(plain) and any(fnmatch(name, kind) for kind in WANTED + IR_WANTED * is_ir + ["*.py"] * code)


def _check_commit(commit: str, model: Model) -> None:
    if commit != model.revision:
        what = f"The hub answers with revision {str(commit)[:7]} of {model.origin} instead of {model.revision[:7]}."
        raise TutorialError(what, MIRROR_HINT)


def _download(model: Model, entry: Entry, file: Path, report: Callable[[int], None]) -> None:
    """Download the missing part of `file`, calling `report` with its size so far, then check its hash."""
    file.touch()
    if file.stat().st_size > entry.size:  # of a different revision
        os.truncate(file, 0)
    failures = 0
    while (start := file.stat().st_size) < entry.size:
        path = f"{model.origin}/resolve/{model.revision}/{entry.name}"
        try:
            with _get(path, model, start) as response, file.open("ab") as stream:
                if whole := response.status_code == 200:
                    stream.truncate(0)
                for chunk in _chunks(response, entry.size - start * (not whole), entry.name):
                    stream.write(chunk)
                    report(stream.tell())
        except (ReadError, ReadTimeout, RemoteProtocolError):  # the connection broke: retry, while that makes progress
            failures = 0 if file.stat().st_size - start > WINDOW * SLOWEST else failures + 1
            if failures > 3:
                raise
            time.sleep(1)
        else:
            if (size := file.stat().st_size) < entry.size:
                raise OSError(f"{entry.name} ends after {size:,} of {entry.size:,} bytes")
    header = b"blob %d\0" % file.stat().st_size  # git hashes it before the content
    git = (entry.git, lambda: hashlib.sha1(header, usedforsecurity=False))
    try:
        files.check_hash(file, *((entry.sha256,) if entry.sha256 else git))
    except TutorialError:
        file.unlink()  # otherwise the next run would consider it complete
        raise


@contextmanager
def _get(path: str, model: Model, start: int = 0, timeout: float | None = None) -> Iterator:
    """Yield the hub's response to a request for `path`, from byte `start` on, if it is of the pinned revision."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = timeout or constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", f"{constants.ENDPOINT}/{path}", headers=headers, timeout=timeout) as response:
        response.raise_for_status()
        for each in (*response.history, response):
            if COMMIT.fullmatch(model.revision):  # otherwise listing() resolves it
                _check_commit(each.headers.get("X-Repo-Commit", model.revision), model)
        if "html" in response.headers.get("Content-Type", ""):
            raise TutorialError("The hub sent a web page instead of data.", HUB_LOGIN_HINT)
        if response.headers.get("Content-Encoding", "identity") != "identity":  # a few bytes may decompress to any size
            raise TutorialError("The hub sends a compressed file, which was not requested.", MIRROR_HINT)
        yield response


def _chunks(response, limit: int, what: str) -> Iterator[bytes]:
    """Yield the data as it arrives.  Raises TutorialError if it exceeds `limit` bytes, or arrives too slowly."""
    since, arrived, total = time.monotonic(), 0, 0
    for chunk in response.iter_raw():
        arrived, total, now = arrived + len(chunk), total + len(chunk), time.monotonic()
        if total > limit:
            raise TutorialError(f"The hub sends more than the {limit:,} bytes that {what} may have.", MIRROR_HINT)
        if now - since > WINDOW:
            if arrived < SLOWEST * (now - since):
                hint = "Try a different network, or try later. Run this again: what has arrived is kept."
                raise TutorialError(f"The hub sends less than {SLOWEST:,} bytes a second.", hint)
            since, arrived = now, 0
        yield chunk


@contextmanager
def _translate(model: Model) -> Iterator[None]:
    """Raise TutorialError instead of the errors of the hub's client, which may quote a part of a password or token."""
    check_addresses()
    try:
        from huggingface_hub import constants  # noqa: F401
    except ValueError as error:
        raise TutorialError(f"The hub's client cannot use an environment variable: {error}.", VARIABLES_HINT) from error
    try:
        yield
    except (InvalidURL, LocalProtocolError, ValueError) as error:
        what = "The hub's client cannot use the address, the proxy or the token in an environment variable."
        raise TutorialError(what, VARIABLES_HINT) from error
    except (HTTPError, OSError, ImportError) as error:  # ImportError: a SOCKS proxy needs one more package
        at = model.revision[:7] if COMMIT.fullmatch(model.revision) else model.revision
        raise hub_error(error, f"{model.origin} at revision {at}") from error


def hub_error(error: Exception, repo: str) -> TutorialError:
    """Return the error for a failed request to the hub about `repo`."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    wait = "Wait a few minutes, then run this again: what has arrived is kept."
    if status in (401, 403):
        hint = "Is the name right? For a gated model, accept its licence on its page, then run `hf auth login` or set "
        hint += "HF_TOKEN. For an open one, check for an old token or a wrong HF_ENDPOINT."
        return TutorialError(f"The hub refuses access to {repo} ({status}).", hint)
    if status == 404:
        return TutorialError(f"The hub has no {repo} (404).", "Are the name, the revision and HF_ENDPOINT right?")
    if status == 429 or status >= 500:
        return TutorialError(f"The hub has a problem, or limits the requests from this address ({status}).", wait)
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    hint = NETWORK_HINT.format(mirror="HF_ENDPOINT", more=": what has arrived is kept.")
    return TutorialError(f"The hub did not deliver {repo}: {reason}", hint)

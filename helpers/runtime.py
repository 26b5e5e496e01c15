"""IR → model and tokenizer on a device that is really there."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import graph
from helpers.plumbing import TutorialError, damage, damaged
from helpers.settings import Settings, short

NEEDED = ("openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json", "tokenizer_config.json")
GPU_MISSING = {
    "linux": "an Intel GPU needs its OpenCL driver (intel-opencl-icd) and a user in the group render",
    "win32": "an Intel GPU needs Intel's own graphics driver, not the one that Windows brings",
    "darwin": "OpenVINO has no GPU support on macOS",
}
NPU_MISSING = "an NPU is in Intel Core Ultra processors, needs its driver, and on Linux /dev/accel must be readable"
# With HF_HUB_OFFLINE=1 optimum-intel 2.1 logs at every load of a folder that it could not look for it on the hub, and
# then loads it as it should.
logging.getLogger("optimum.intel.openvino.modeling_base").addFilter(
    lambda record: "Could not infer whether" not in record.getMessage()
)


@dataclass(frozen=True)
class DeviceChoice:
    """`device` is what to load on; `why` is the sentence for the reader."""

    device: str
    wanted: str
    available: tuple[str, ...]
    why: str


def choose_device(wanted: str, strict: bool = False, available: tuple[str, ...] | None = None) -> DeviceChoice:
    """`wanted` if OpenVINO has it here, else CPU; with `strict` a missing device is a TutorialError.

    "GPU" and "GPU.0" are the same when there is one GPU; "AUTO" is always there and chooses by itself.
    """
    import openvino

    here = tuple(openvino.Core().available_devices) if available is None else available
    name = wanted.strip().upper()
    same = {name, name.removesuffix(".0"), f"{name}.0"} & set(here)
    kind, _, listed = name.partition(":")
    known = not listed or "-" in listed or {one.strip().removesuffix(".0") for one in listed.split(",")} & set(here)
    if same or kind == "AUTO" and known:
        device = same.pop() if len(same) == 1 else name
        return DeviceChoice(device, wanted, here, f"{device} is here.")
    reason = NPU_MISSING if name.startswith("NPU") else GPU_MISSING.get(sys.platform, "")
    hint = f" ({reason})" if name[:3] in ("GPU", "NPU") and reason else ""
    what = f"There is no device {wanted} here{hint}. OpenVINO sees: {', '.join(here)}."
    if strict:
        raise TutorialError(what, "Choose one of those, or drop strict to use the CPU.")
    return DeviceChoice("CPU", wanted, here, f"{what} We use CPU.")


def need_export(settings: Settings) -> Path:
    """The exported model's folder.  Raises TutorialError, saying how to make it, when it or a part of it is missing."""
    if not settings.model_dir.exists():
        raise TutorialError(
            f"There is no export at {short(settings.model_dir)} yet.",
            f"Run notebook 01_export, or{_again(settings)}",
        )
    # Without its configuration, transformers takes another tokenizer, and says nothing.
    if wrong := {name: "missing" for name in NEEDED if not (settings.model_dir / name).exists()}:
        raise damaged(short(settings.model_dir), wrong, _again(settings))
    return settings.model_dir


def _again(settings: Settings) -> str:
    return f": python -m helpers export --model {settings.model} --format {settings.format}"


def load(settings: Settings, strict: bool = False, paged: bool = True):
    """The exported model on its device, its tokenizer, and the DeviceChoice.

    The model scores the last position of what it is given, [1, 1, vocabulary], which is all that generation needs.
    On the CPU, helpers.generate keeps keys and values in blocks (helpers.kv); then the first call of model.generate,
    which needs the state, compiles the graph once more.  `paged=False`: both use the state, and share one model.
    Raises TutorialError when there is no export yet, or one that is damaged or cannot be used.
    """
    folder = need_export(settings)
    from optimum.intel.openvino import OVModelForCausalLM
    from transformers import AutoTokenizer

    choice = choose_device(settings.device, strict)
    # Said, not left to the default: with none, transformers asks the reader whether to run what the folder brings.
    trust = {"trust_remote_code": settings.spec.trust_remote_code}
    try:
        model = OVModelForCausalLM.from_pretrained(
            folder,
            export=False,
            compile=False,
            device=choice.device,
            ov_config=dict(settings.ov_config),
            **trust,
        )
        model.paged = graph.prepare(model.model, choice.device, model.ov_config, paged)
        if not model.paged:
            model.compile()
        return model, AutoTokenizer.from_pretrained(folder, **trust), choice
    except Exception as error:  # each library has its own for a file that is not whole
        raise cannot_load(settings, choice.device, error) from error


def cannot_load(settings: Settings, device: str, error: Exception) -> TutorialError:
    if wrong := damage(settings.model_dir, NEEDED):
        return damaged(short(settings.model_dir), wrong, _again(settings))
    noise = ("Exception from", "Check '")  # OpenVINO's way through its own sources
    words = [line for line in str(error).splitlines() if line.strip() and not line.startswith(noise)] or [""]
    return TutorialError(
        f"{short(settings.model_dir)} cannot be loaded on {device}. {type(error).__name__}: {words[0]}",
        f"Is all in ov_config right (page 02)? If so, delete that folder, then{_again(settings)}",
    )

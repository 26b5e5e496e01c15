"""Choose a device that OpenVINO sees on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from helpers.errors import TutorialError

GPU_MISSING = {
    "linux": "an Intel GPU needs its OpenCL driver (intel-opencl-icd) and a user in the group render",
    "win32": "an Intel GPU needs Intel's own graphics driver, not the one that Windows brings",
    "darwin": "OpenVINO has no GPU support on macOS",
}
NPU_MISSING = "an NPU is in Intel Core Ultra processors, needs its driver, and on Linux /dev/accel must be readable"


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

"""Choose a device that OpenVINO sees on this machine."""

import sys
from dataclasses import dataclass

from helpers.errors import TutorialError

GPU_MISSING = {
    "linux": "To use an Intel GPU, install intel-opencl-icd and add your user to the render group.",
    "win32": "To use an Intel GPU, install Intel's own graphics driver; the one in Windows is not enough.",
    "darwin": "OpenVINO does not support GPUs on macOS.",
}
NPU_MISSING = "An NPU (Intel Core Ultra) needs its driver; on Linux, also read access to /dev/accel."


@dataclass(frozen=True)
class DeviceChoice:
    """The device to load on, and a sentence that says why."""

    device: str
    why: str


def choose_device(wanted: str, strict: bool = False, available: tuple[str, ...] | None = None) -> DeviceChoice:
    """Return `wanted` if OpenVINO sees it, else CPU; with `strict`, raise TutorialError when it is missing.

    "GPU" and "GPU.0" are the same when there is one GPU.  "AUTO" is always available and chooses a device itself.
    """
    import openvino

    seen = tuple(openvino.Core().available_devices) if available is None else available
    name = wanted.strip().upper()
    same = {name, name.removesuffix(".0"), f"{name}.0"} & set(seen)
    kind, _, listed = name.partition(":")  # AUTO:GPU,CPU or AUTO:-NPU
    known = not listed or "-" in listed or {one.strip().removesuffix(".0") for one in listed.split(",")} & set(seen)
    if same or kind == "AUTO" and known:
        device = same.pop() if len(same) == 1 else name
        return DeviceChoice(device, f"{device} is available.")
    reason = NPU_MISSING if name.startswith("NPU") else GPU_MISSING.get(sys.platform, "")
    reason = f" {reason}" if name[:3] in ("GPU", "NPU") and reason else ""
    message = f"No {wanted.strip() or 'such device'} on this machine. OpenVINO sees: {', '.join(seen)}."
    if strict:
        raise TutorialError(message + reason, "Choose one of those, or drop strict to use the CPU.")
    return DeviceChoice("CPU", f"{message} Using CPU.{reason}")

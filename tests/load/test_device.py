"""choose_device: a device that OpenVINO sees, or a sentence that says what to do."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import TutorialError
from helpers.load.device import choose_device

devices = st.lists(st.sampled_from(["GPU", "NPU", "GPU.0", "GPU.1"]), unique=True).map(lambda more: ("CPU", *more))


@given(available=devices, data=st.data())
def test_an_available_device_is_chosen_in_any_spelling(available, data):
    device = data.draw(st.sampled_from(available))
    for wanted in (device, device.lower(), f" {device} "):
        assert choose_device(wanted, strict=True, available=available).device == device


@given(available=devices, wanted=st.sampled_from(["GPU", "GPU.0", "GPU.1", "NPU", "TPU", "", "GPU.9"]))
def test_a_fallback_to_the_cpu_says_what_is_missing(available, wanted):
    choice = choose_device(wanted, available=available)
    assert choice.device in available
    if choice.device == "CPU":
        assert choice.why.startswith(f"No {wanted or 'such device'} on this machine") and " Using CPU." in choice.why
        assert f"OpenVINO sees: {', '.join(available)}." in choice.why
        with pytest.raises(TutorialError) as caught:
            choose_device(wanted, strict=True, available=available)
        assert caught.value.message == choice.why.replace(" Using CPU.", "")


@pytest.mark.parametrize("wanted, available", [("GPU", "GPU.0"), ("GPU.0", "GPU"), ("gpu.0", "GPU"), ("NPU.0", "NPU")])
def test_the_only_gpu_has_two_names(wanted, available):
    assert choose_device(wanted, strict=True, available=("CPU", available)).device == available


def test_the_second_gpu_is_never_the_first():
    for first in ("GPU", "GPU.0"):
        assert choose_device("GPU.1", available=("CPU", first)).device == "CPU"
    assert choose_device("GPU", available=("CPU", "GPU.0", "GPU.1")).device == "GPU.0"


@pytest.mark.parametrize("wanted", ["AUTO", "auto", "AUTO:GPU,CPU", "AUTO:-GPU"])
def test_auto_is_always_available(wanted):
    assert choose_device(wanted, strict=True, available=("CPU",)).device == wanted.upper()


def test_auto_with_unknown_devices_only_is_missing():
    assert choose_device("AUTO:TOASTER", available=("CPU",)).device == "CPU"


@pytest.mark.parametrize(
    "system, wanted, words",
    [
        ("linux", "GPU", "intel-opencl-icd"),
        ("win32", "GPU.0", "graphics driver"),
        ("darwin", "GPU", "does not support GPUs on macOS"),
        ("linux", "NPU", "/dev/accel"),
    ],
)
def test_the_reason_depends_on_the_operating_system(monkeypatch, system, wanted, words):
    monkeypatch.setattr(sys, "platform", system)
    assert words in choose_device(wanted, available=("CPU",)).why


def test_by_default_openvino_is_asked():
    import openvino

    assert f"OpenVINO sees: {', '.join(openvino.Core().available_devices)}." in choose_device("GPU.9").why
    assert choose_device("CPU", strict=True).device == "CPU"

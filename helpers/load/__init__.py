"""03: load an exported model on a device of this machine."""

from helpers.load.device import DeviceChoice, choose_device  # noqa: F401
from helpers.load.model import load_fast, load_model, require_export  # noqa: F401

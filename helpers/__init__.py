"""Helpers of the notebooks.

Importing this package switches off the telemetry of the libraries that have any, and limits the memory for kernels.
"""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# openvino_telemetry (used by nncf and OpenVINO's converter) sends data unless a file in the home folder forbids it, or
# it detects CI: this is the marker of a CI system that nothing else here reads.
os.environ.setdefault("TF_BUILD", "telemetry off")
# How many compiled kernels oneDNN keeps for OpenVINO's CPU plugin.  With the default of 1024, memory grows with each
# new length of a prompt; with 64, the passes of lookup, which have several lengths, compile some of them again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

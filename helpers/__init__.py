"""Helpers of the notebooks.

Importing this package turns off the telemetry of the libraries, and limits the memory for compiled kernels.
"""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# openvino_telemetry (used by nncf and OpenVINO's converter) sends data unless a file in the home folder forbids it or
# it detects a CI system.  TF_BUILD is the marker of a CI system (Azure Pipelines) that nothing else here reads.
os.environ.setdefault("TF_BUILD", "telemetry off")
# How many compiled kernels oneDNN keeps for OpenVINO's CPU plugin.  With the default of 1024, memory grows with each
# new length of a prompt; with 64, the passes of prompt lookup, which vary in length, recompile some of them.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

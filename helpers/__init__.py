"""The plumbing beside the notebooks: one module per stretch of the road, in the order of the road.

Importing this package switches telemetry off before any of the libraries that have it is loaded, and our
subprocesses inherit that.  Nothing of the tutorial phones home.
"""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# openvino_telemetry (used by nncf and by openvino's converter) sends unless a file in the home folder says no, or it
# believes it runs in CI.  We do not write into homes, so we set the marker of one CI system that nothing else reads.
os.environ.setdefault("TF_BUILD", "telemetry off")

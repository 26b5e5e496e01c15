"""workshop/measure.py, where the hub does not start; what it measures needs JupyterHub."""

import os
import subprocess
import sys

from helpers.settings import ROOT


def test_a_hub_that_does_not_start_is_reported_with_its_log(tmp_path):
    (tmp_path / "jupyterhub").mkdir()
    (tmp_path / "jupyterhub" / "__init__.py").touch()
    (tmp_path / "jupyterhub" / "__main__.py").write_text("raise SystemExit('No port is free.')", encoding="utf-8")
    argv = [sys.executable, str(ROOT / "workshop" / "measure.py"), "1"]
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and ran.stderr == "The hub did not start:\nNo port is free.\n\n"

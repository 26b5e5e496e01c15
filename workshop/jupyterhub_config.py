"""Light kernels for a class: JupyterLab for each learner, one model on a server for all.

For The Littlest JupyterHub, copy this file to /opt/tljh/config/jupyterhub_config.d/tutorial.py; see README.md.
"""

import os

c = get_config()  # noqa: F821  which JupyterHub defines

# The hub's own environment has the address and the key (README.md), so that this file can be published.  Learners can
# read both in their kernels: use a key for this class only.
c.Spawner.environment = {
    "TUTORIAL_SERVER": os.environ.get("TUTORIAL_SERVER", "http://127.0.0.1:8000/v1"),
    "TUTORIAL_API_KEY": os.environ.get("TUTORIAL_API_KEY", ""),
    "TUTORIAL_CONVERSATIONS": "~/conversations",
    # Saves memory: NumPy and glibc would reserve some for each core.
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
# The limits apply if the spawner can enforce them, as the one of The Littlest JupyterHub can.
c.Spawner.mem_limit = "512M"
c.Spawner.cpu_limit = 1.0
# As jupyterhub-singleuser, with 30 MB less.  -P: or a random.py in the learner's home would be imported as Python's.
c.Spawner.cmd = ["python3", "-P", "-m", "helpers.serve.singleuser"]
# No requests for news and updates, no language servers, no terminals.  Do not use braces here: the spawner of The
# Littlest JupyterHub replaces {USERNAME} in these arguments, and fails at other names.
c.Spawner.args = [
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
    "--ServerApp.terminals_enabled=False",
    "--ServerApp.jpserver_extensions=jupyter_lsp=False",
    "--ServerApp.jpserver_extensions=jupyter_server_terminals=False",
]
# Thirty people log in within the same minute.
c.JupyterHub.concurrent_spawn_limit = 10
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120

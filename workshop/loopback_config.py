"""The hub of jupyterhub_config.py on this machine only, to rehearse and to measure: any name can log in.

jupyterhub --config workshop/loopback_config.py, in the environment of README.md's section on the rehearsal.  Never bind
it to a different address: it asks for no password, and every learner's kernel runs as the user who started the hub.
"""

import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821
load_subconfig(str(Path(__file__).with_name("jupyterhub_config.py")))  # noqa: F821

folder = Path(os.environ.get("CLASS_FOLDER", "class")).resolve()  # all that this hub writes
folder.mkdir(exist_ok=True)
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ.get('CLASS_PORT', '8001')}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = int(os.environ.get("CLASS_HUB_PORT", "8081"))
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ.get('CLASS_PROXY_PORT', '8002')}"
c.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{folder / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"  # processes of this user, without system accounts
c.SimpleLocalProcessSpawner.home_dir_template = str(folder / "{username}")
c.Spawner.environment["JUPYTER_CONFIG_PATH"] = str(Path(__file__).resolve().parents[1] / "demo" / "jupyter")
c.Spawner.cmd = [sys.executable, *c.Spawner.cmd[1:]]
c.Spawner.args += ["--allow-root"]
if "CLASS_API_TOKEN" in os.environ:  # for measure.py
    c.JupyterHub.services = [{"name": "measure", "api_token": os.environ["CLASS_API_TOKEN"]}]
    scopes = ["admin:users", "admin:servers", "access:servers"]
    c.JupyterHub.load_roles = [{"name": "measure", "services": ["measure"], "scopes": scopes}]

"""JupyterLab and Voilà for the tests: on loopback, with no configuration and no state but their own."""

from __future__ import annotations

import json
import os
import runpy
import secrets
import socket
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.settings import ROOT

HERE = Path(__file__).parent


@dataclass
class Server:
    """`work` is the folder that it shows, `runtime` the one with its kernels' connection files."""

    url: str
    token: str
    work: Path
    runtime: Path

    def api(self, method: str, address: str, **content):
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        data = json.dumps(content).encode() if content else None
        request = urllib.request.Request(f"{self.url}/{address}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def end_kernels(self) -> None:
        """A kernel outlives its page, and the next page with the same notebook would get it."""
        for session in self.api("GET", "api/sessions"):
            self.api("DELETE", f"api/sessions/{session['id']}")


def environment(folder: Path) -> dict[str, str]:
    """This environment, with all of Jupyter's folders in `folder`, and no way for a kernel to leave this machine."""
    names = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"]
    names += ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "offline"), str(ROOT)]  # this checkout, if there are two
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environ = os.environ | {name: str(folder / name.lower()) for name in names}
    environ |= {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environ.pop("PYTEST_CURRENT_TEST", None)  # the kernel would take itself for a part of a test
    return environ | {"OFFLINE_LOG": str(folder / "outward.log")}  # what it tried all the same


def command(name: str, *posargs: str) -> tuple[list[str], dict[str, str]]:
    """Return the last command of `nox -s name -- posargs`, and its variables, without running it, and without nox."""
    nox = types.ModuleType("nox")
    nox.options, nox.Session = types.SimpleNamespace(), object
    nox.session = lambda *function, **_: function[0] if function else lambda function: function
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nox", nox)
        tasks = runpy.run_path(str(ROOT / "noxfile.py"))
    ran: list[tuple[list[str], dict[str, str]]] = []
    run = lambda *argv, env=None, **_: ran.append((list(argv), env or {}))  # noqa: E731
    session = types.SimpleNamespace(posargs=posargs, run=run)
    session.log = session.warn = session.error = lambda *_: None
    tasks[name].__globals__["install"] = lambda *_: None
    tasks[name](session)
    return ran[-1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def running(argv: list[str], url: str, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; yield its process.  Raises RuntimeError with its log if it never answers."""
    with log.open("w") as stream:
        process = subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=stream, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=10).close()
                break
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.25)
        else:
            process.kill()
        if process.poll() is not None:
            raise RuntimeError(f"{argv[2]} did not start:\n{log.read_text()[-3000:]}")
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def jupyterlab(folder: Path, program: str = "jupyterlab") -> Iterator[Server]:
    """JupyterLab as `nox -s lab` starts it, on the notebooks of folder/work; or Notebook 7, `program` "notebook"."""
    (_, _, _, *options), variables = command("lab")
    environ = environment(folder) | variables
    work, token, port = folder / "work", secrets.token_hex(16), free_port()
    work.mkdir()
    options = [option for option in options if "root_dir" not in option and "default_url" not in option]
    argv = [sys.executable, "-m", program, *options, "--no-browser", "--allow-root", f"--port={port}"]
    argv += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}"]
    argv += ["--LabApp.expose_app_in_browser=True"]  # as `jupyterapp`, for commands without their menus
    server = Server(f"http://127.0.0.1:{port}", token, work, Path(environ["JUPYTER_RUNTIME_DIR"]))
    with running(argv, f"{server.url}/api", environ, folder / "lab.log"):
        yield server


@contextmanager
def voila(folder: Path, *options: str) -> Iterator[Server]:
    """Voilà on the notebooks of folder/work, with its own token for its API."""
    environ = environment(folder)
    work, token, port = folder / "work", secrets.token_hex(16), free_port()
    work.mkdir()
    argv = [sys.executable, "-m", "voila", str(work), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"]
    argv += ["--Voila.port_retries=0", f"--token={token}", *options]
    server = Server(f"http://127.0.0.1:{port}", token, work, Path(environ["JUPYTER_RUNTIME_DIR"]))
    with running(argv, f"{server.url}/voila/static/voila.js", environ, folder / "voila.log"):
        yield server

"""After set-up nothing needs the network: tests/offline refuses it, and the embedded model answers all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OFFLINE = ROOT / "tests" / "offline"
REFUSED = "tests/offline lets nothing leave this machine"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file in which what was tried is kept; not there as long as nothing was."""
    monkeypatch.setenv("OFFLINE_LOG", str(tmp_path / "tried.log"))
    return tmp_path / "tried.log"


def python(*argv: str, guard: bool = True, path: str = "") -> subprocess.CompletedProcess:
    """Run this Python with the guard, or without, and with one more folder on its path."""
    folders = [str(OFFLINE)] * guard + [path] * bool(path)
    # No hub's offline switch: that would hide an attempt which the guard must see.
    environ = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TUTORIAL_MODEL")}
    environ |= {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1"}
    options = {"cwd": ROOT, "env": environ, "capture_output": True, "encoding": "utf-8", "timeout": 120}
    return subprocess.run([sys.executable, *argv], **options)


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "socket.create_connection(('example.invalid', 80), timeout=1)",
        "socket.gethostbyname('example.invalid')",
        "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
    ],
)
def test_nothing_else_is_reached(attempt):
    imports = "import socket, urllib.request; "
    assert REFUSED in python("-c", imports + attempt).stderr
    assert REFUSED not in python("-c", imports + attempt, guard=False).stderr, "the guard did it, not this machine"


def test_this_machine_is_reached():
    talk = """
import os, socket, tempfile
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
for name in ("127.0.0.1", "localhost"):
    socket.create_connection((name, port)).close()
if hasattr(socket, "AF_UNIX"):
    path = os.path.join(tempfile.mkdtemp(), "s")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    socket.socket(socket.AF_UNIX).connect(path)
"""
    ran = python("-c", talk)
    assert ran.returncode == 0, ran.stderr


def test_grandchildren_inherit_it():
    code = "import socket; socket.gethostbyname('example.invalid')"
    for _ in range(2):
        code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    assert REFUSED in python("-c", code).stderr


def test_the_sitecustomize_that_it_hides_is_loaded_too(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('the hidden one')", encoding="utf-8")
    assert python("-c", "pass", path=str(tmp_path)).stdout == "the hidden one\n"


def test_an_attempt_is_kept_even_if_the_program_hides_it(log):
    code = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.gethostbyname('example.invalid')"
    assert python("-c", code).returncode == 0
    assert "example.invalid" in log.read_text(encoding="utf-8")


def test_the_libraries_load_without_a_network(log):
    ran = python("-c", "import helpers, optimum.intel, openvino, nncf")
    assert ran.returncode == 0, ran.stderr
    assert not log.exists(), log.read_text(encoding="utf-8")


@pytest.mark.model
def test_the_embedded_model_answers_without_a_network(log):
    ran = python("-m", "helpers", "ask", "What is the capital of France?", "--model", "smollm2-instruct")
    assert ran.returncode == 0, ran.stderr
    assert "Paris" in ran.stdout
    assert not log.exists(), log.read_text(encoding="utf-8")

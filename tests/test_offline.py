"""After set-up nothing needs the network: tests/offline refuses every connection, and the embedded model answers.

tests/connections.py records the connections that a command tries to make.  `nox -s connections` runs all notebooks
under it; here it records one answer.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import connections
import pytest

ROOT = Path(__file__).parent.parent
OFFLINE = ROOT / "tests" / "offline"
REFUSED = "tests/offline lets nothing leave this machine"


TELEMETRY = {"openvino", "openvino_genai", "nncf", "optimum", "transformers", "huggingface_hub"}
PROGRAMS = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("bench/*.py")]
SENDERS = {  # how each library sends telemetry, and waits until it is sent
    "nncf": "from nncf.telemetry.wrapper import telemetry as t; t.send_event('a', 'b', 'c'); t._impl.force_shutdown(3)",
    "openvino": "from openvino_telemetry import Telemetry; t = Telemetry('a', '1', 'G-1', 'ga4', False, True); "
    "t.send_event('a', 'b', 'c'); t.force_shutdown(3)",
    "openvino, imported": "import openvino.tools.ovc as t; t.telemetry.force_shutdown(3)",
    "hub": "from huggingface_hub.utils import _telemetry as t; t.send_telemetry('a'); t._TELEMETRY_QUEUE.join()",
}
# A connection by libc, which Python does not see.  Connecting a UDP socket sends nothing.
UNSEEN = """
import ctypes, socket, struct
address = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(80), socket.inet_aton("192.0.2.1"))
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    ctypes.CDLL(None).connect(sock.fileno(), address, len(address))
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file that lists the attempts; it does not exist before the first one."""
    monkeypatch.setenv("OFFLINE_LOG", str(tmp_path / "tried.log"))
    return tmp_path / "tried.log"


def python(*argv: str, guard: bool = True, path: str = "") -> subprocess.CompletedProcess:
    """Run this Python with or without the guard, and with one more folder on its path."""
    folders = [str(OFFLINE)] * guard + [path] * bool(path)
    # Without HF_HUB_OFFLINE, which would hide attempts from the guard.
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
def test_other_machines_cannot_be_reached(attempt):
    imports = "import socket, urllib.request; "
    assert REFUSED in python("-c", imports + attempt).stderr
    assert REFUSED not in python("-c", imports + attempt, guard=False).stderr, "it is not the guard that refuses"


def test_this_machine_can_be_reached():
    conversation = """
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
    ran = python("-c", conversation)
    assert ran.returncode == 0, ran.stderr


def test_child_processes_inherit_the_guard():
    code = "import socket; socket.gethostbyname('example.invalid')"
    for _ in range(2):
        code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    assert REFUSED in python("-c", code).stderr


def test_a_sitecustomize_that_the_guard_hides_is_loaded_too(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('the hidden one')", encoding="utf-8")
    assert python("-c", "pass", path=str(tmp_path)).stdout == "the hidden one\n"


def test_an_attempt_is_logged_even_if_the_program_hides_it(log):
    code = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.gethostbyname('example.invalid')"
    assert python("-c", code).returncode == 0
    assert "example.invalid" in log.read_text(encoding="utf-8")


@pytest.mark.weekly
def test_the_libraries_load_without_a_network(log):
    ran = python("-c", "import helpers, optimum.intel, openvino, nncf")
    assert ran.returncode == 0, ran.stderr
    assert not log.exists(), log.read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A home folder, where OpenVINO would store an id of the user, and no variable that opts out of telemetry."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)  # importing helpers has set some
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_importing_helpers_turns_telemetry_off(log, reader):
    ran = python("-c", "\n".join(["import helpers", *SENDERS.values()]))
    assert ran.returncode == 0, ran.stderr
    assert not log.exists(), log.read_text(encoding="utf-8")
    assert not list(reader.rglob("*_cid")), "it has stored an id of the user"


@pytest.mark.weekly
@pytest.mark.parametrize("library", SENDERS)
def test_without_helpers_telemetry_is_sent(log, reader, library):
    """Otherwise the test above would show nothing."""
    ran = python("-c", SENDERS[library])
    assert ran.returncode == 0, ran.stderr
    assert log.exists(), f"{library} sends in a different way now: update SENDERS"


def imported_too_early(path: Path) -> set[str]:
    """Return the libraries with telemetry that a program imports before helpers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = []
    for line in ast.parse(text).body:
        names += [alias.name for alias in line.names] if isinstance(line, ast.Import) else []
        names += [line.module] if isinstance(line, ast.ImportFrom) else []
    roots = [name.split(".")[0] for name in names]
    before = roots[: roots.index("helpers")] if "helpers" in roots else roots
    return TELEMETRY & set(before)


def test_helpers_are_imported_before_libraries_with_telemetry():
    """`import openvino` alone sends a message; the hub's client reads its variable when it is imported."""
    wrong = {path.name: early for path in PROGRAMS if (early := imported_too_early(path))}
    assert wrong == {}


@pytest.mark.skipif(os.name == "nt", reason="ctypes.CDLL(None) is the C library of other systems")
def test_connections_that_python_does_not_see_are_recorded_with_strace():
    seen = connections.record([sys.executable, "-c", UNSEEN])
    assert seen.code == 0, seen.output
    assert len(seen.tried) == (seen.by == "Python and strace")
    assert all("192.0.2.1" in line for line in seen.tried)


def test_connections_are_recorded_and_counted():
    conversation = "import socket; server = socket.create_server(('127.0.0.1', 0)); "
    conversation += "socket.create_connection(server.getsockname()).close(); "
    seen = connections.record([sys.executable, "-c", f"{conversation}socket.gethostbyname('example.invalid')"])
    assert seen.code == 1 and len(seen.tried) == 1 and "example.invalid" in seen.tried[0]
    assert seen.local == (seen.by == "Python and strace")


@pytest.mark.parametrize(
    "line, leaves",
    [
        ('connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")}, 16) = 0', True),
        ('connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', False),
        ('connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0', True),
        ('sendto(3, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(5), sin_addr=inet_addr("192.0.2.1")}, 16) = 1', True),
        (
            "connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), "
            'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 EINPROGRESS',
            True,
        ),
        ('connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT', False),
        ('sendto(4, "x", 1, MSG_NOSIGNAL, NULL, 0) = 1', False),
    ],
)
def test_system_calls_that_leave_this_machine_are_recognized(line, leaves):
    assert connections.leaves(line) == leaves


@pytest.mark.model
@pytest.mark.weekly
def test_the_embedded_model_answers_without_a_network():
    environ = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TUTORIAL_MODEL")}
    argv = ["-m", "helpers", "ask", "What is the opposite of hot?", "--model", "smollm2-instruct"]
    seen = connections.record([sys.executable, *argv], cwd=ROOT, environ=environ)
    assert seen.code == 0 and "cold" in seen.output, seen.output
    assert seen.tried == []

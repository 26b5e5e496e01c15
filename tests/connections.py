"""Run a command and print its attempts to connect to other machines; exit with 1 if there were any.

    python tests/connections.py COMMAND ARGUMENT …

tests/offline watches each Python process, and refuses such connections.  Where strace is installed (Linux), it watches
the system calls of all processes too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "offline"))
from loopback import is_local

OFFLINE = Path(__file__).parent / "offline"
CALLS = "connect,sendto,sendmsg,sendmmsg"
# {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")} and the like for IPv6
ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\)[^}]*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')
NAME_SERVER = "53"  # some systems have a DNS stub on loopback, which asks other machines


@dataclass(frozen=True)
class Recording:
    """The command's exit code and output; a line for each attempt to leave this machine; the number of local
    connections; and what watched them: "Python" or "Python and strace".
    """

    code: int
    output: str
    tried: list[str]
    local: int
    by: str


def strace_works() -> bool:
    """Return whether strace is installed and allowed."""
    argv = ["strace", "-qq", "-o", os.devnull, "true"]
    return bool(shutil.which("strace")) and subprocess.run(argv, capture_output=True).returncode == 0


def record(argv: list[str], cwd: Path | None = None, environ: Mapping[str, str] = os.environ) -> Recording:
    """Run `argv` and return its connections; stdout and stderr are one text."""
    with tempfile.TemporaryDirectory() as folder:
        asked, calls = Path(folder, "asked.log"), Path(folder, "calls.log")
        path = os.pathsep.join([str(OFFLINE), *filter(None, [environ.get("PYTHONPATH")])])
        environ = {**environ, "PYTHONPATH": path, "OFFLINE_LOG": str(asked)}
        traced = strace_works()
        if traced:  # only these system calls are slowed down
            argv = ["strace", "-f", "--seccomp-bpf", "-qqq", "-e", f"trace={CALLS}", "-o", str(calls), *argv]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        ran = subprocess.run(argv, cwd=cwd, env=environ, encoding="utf-8", errors="replace", **pipes)
        tried = asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []
        lines = calls.read_text(encoding="utf-8", errors="replace").splitlines() if traced else []
        lines = [line for line in lines if ADDRESS.search(line)]
        outward = [line for line in lines if leaves(line)]
        by = "Python and strace" if traced else "Python"
        return Recording(ran.returncode, ran.stdout, tried + outward, len(lines) - len(outward), by)


def leaves(line: str) -> bool:
    """Return whether a line of strace's log has the address of a different machine, or asks for one."""
    return any(not is_local(host) or port == NAME_SERVER for port, host in ADDRESS.findall(line))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    seen = record(sys.argv[1:])
    print(seen.output, end="")
    print(*seen.tried, sep="\n", end="\n" if seen.tried else "")
    print(f"{len(seen.tried)} attempts to leave this machine, {seen.local} connections within it; {seen.by} watched.")
    sys.exit(1 if seen.tried else seen.code)

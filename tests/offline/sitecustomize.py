"""With this folder on PYTHONPATH, no Python process reaches anything but its own machine.  Children inherit it.

Python loads a module named sitecustomize before any program; this one refuses to connect to, send to or look up
anything but loopback, and then loads the sitecustomize that it hides, if there is one.  A library may swallow the
refusal: the file that OFFLINE_LOG names keeps what was tried.
"""

import importlib.machinery
import importlib.util
import os
import socket
import sys

from loopback import is_local

LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def refuse(event: str, arguments: tuple) -> None:
    """Python calls this for every audited event; an exception from here stops it."""
    if event in CONNECTIONS:
        sock, address = arguments
        if address is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
    elif event in LOOKUPS:
        address = arguments[0]
    else:
        return
    if not is_local(address[0] if isinstance(address, tuple) else address):
        words = f"{event} to {address!r} refused: tests/offline lets nothing leave this machine"
        if log := os.environ.get("OFFLINE_LOG"):
            with open(log, "a", encoding="utf-8") as stream:
                stream.write(f"{words} ({sys.argv[:1]})\n")
        raise PermissionError(words)


sys.addaudithook(refuse)

here = os.path.dirname(os.path.abspath(__file__))
others = [path for path in sys.path if os.path.abspath(path or ".") != here]
if hidden := importlib.machinery.PathFinder.find_spec("sitecustomize", others):
    module = importlib.util.module_from_spec(hidden)
    hidden.loader.exec_module(module)

"""Measure the memory of a class: start the hub of loopback_config.py, and for each learner a light kernel that chats.

python workshop/measure.py 30, in the environment of README.md's section on the rehearsal, with TUTORIAL_SERVER and
TUTORIAL_API_KEY.  The learners come one after the other; each kernel runs the code cells of chat.ipynb, so each asks
the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from statistics import median

import psutil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

HERE = Path(__file__).resolve().parent
LIMIT_MB = 130  # for each learner


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return taken.getsockname()[1]


def code_cells() -> list[str]:
    notebook = json.loads((HERE / "chat.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


class Hub:
    """The hub's API, and those of the learners' servers behind it."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.headers = url, {"Authorization": f"token {token}"}

    async def request(self, method: str, path: str, body: dict | None = None):
        options = {"method": method, "headers": self.headers, "request_timeout": 120}
        data = json.dumps(body or {}) if method == "POST" else None
        answer = await AsyncHTTPClient().fetch(HTTPRequest(f"{self.url}{path}", body=data, **options))
        return json.loads(answer.body or b"null")

    async def start(self, name: str) -> None:
        """Create a learner, and start their server."""
        await self.request("POST", f"/hub/api/users/{name}")
        await self.request("POST", f"/hub/api/users/{name}/server")
        while not (await self.request("GET", f"/hub/api/users/{name}"))["servers"].get("", {}).get("ready"):
            await asyncio.sleep(0.2)

    async def run(self, name: str, cells: list[str]) -> str:
        """Run cells in a new kernel of a learner; return what they print.  Raises RuntimeError for a failed cell."""
        kernel = (await self.request("POST", f"/user/{name}/api/kernels", {"name": "python3"}))["id"]
        address = f"{self.url}/user/{name}/api/kernels/{kernel}/channels".replace("http", "ws", 1)
        channel = await websocket_connect(HTTPRequest(address, headers=self.headers, request_timeout=120))
        printed = []
        for code in cells:
            header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3", "username": name}
            content = {"code": code, "silent": False, "allow_stdin": False}
            message = {"header": header | {"session": name, "date": ""}, "parent_header": {}, "metadata": {}}
            await channel.write_message(json.dumps(message | {"content": content, "channel": "shell"}))
            replies = {}  # by type; what is printed arrives on a different channel than the reply
            while not (replies.get("status") == {"execution_state": "idle"} and "execute_reply" in replies):
                reply = json.loads(await asyncio.wait_for(channel.read_message(), 120))
                if reply["parent_header"].get("msg_id") == header["msg_id"]:
                    replies[reply["msg_type"]] = reply["content"]
                    printed += [reply["content"]["text"]] if reply["msg_type"] == "stream" else []
            if replies["execute_reply"]["status"] != "ok":
                raise RuntimeError("\n".join(replies["execute_reply"]["traceback"]))
        channel.close()
        return "".join(printed)


def memory_mb(processes: list[psutil.Process]) -> float:
    """Return the memory of `processes`: PSS, which divides what several share among them; USS where there is no PSS."""
    infos = [process.memory_full_info() for process in processes]
    return sum(getattr(info, "pss", info.uss) for info in infos) / 1e6


async def measure(hub: Hub, process: subprocess.Popen, learners: int) -> None:
    """Print how much memory each learner takes while the class grows."""
    seconds = []
    for number in range(1, learners + 1):
        name, begun = f"learner{number}", time.perf_counter()
        await hub.start(name)
        seconds.append(time.perf_counter() - begun)
        printed = await hub.run(name, code_cells())
        if number in (1, 2, 5, 10, 20, learners):
            members = psutil.Process(process.pid).children(recursive=True)
            kernels = [member for member in members if "ipykernel_launcher" in member.cmdline()]
            servers = [member for member in members if "helpers.serve.singleuser" in member.cmdline()]
            assert len(kernels) == len(servers) == number
            each = [memory_mb(kernels) / number, memory_mb(servers) / number]
            print(f"{number:3} learners: kernel {each[0]:.0f} MB, Jupyter server {each[1]:.0f} MB each", flush=True)
    rest = [psutil.Process(process.pid), *(member for member in members if member not in (*kernels, *servers))]
    print(f"The hub itself, with its proxy: {memory_mb(rest):.0f} MB.")
    print(f"A learner's server starts in {median(seconds):.1f} s (median).")
    print(f"Memory per learner: {sum(each):.0f} MB (target: {LIMIT_MB}).  The last kernel printed:\n{printed}")


async def main(learners: int) -> None:
    port, token = free_port(), secrets.token_hex(16)
    environ = os.environ | {"CLASS_PORT": str(port), "CLASS_API_TOKEN": token, "CLASS_HUB_PORT": str(free_port())}
    environ |= {"CLASS_PROXY_PORT": str(free_port())}
    with tempfile.TemporaryDirectory(prefix="class-", ignore_cleanup_errors=True) as folder:
        argv = [sys.executable, "-m", "jupyterhub", "--config", str(HERE / "loopback_config.py")]
        with open(Path(folder, "hub.log"), "wb") as log:
            environ |= {"CLASS_FOLDER": folder}
            process = subprocess.Popen(argv, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            hub, deadline = Hub(f"http://127.0.0.1:{port}", token), time.monotonic() + 60
            while True:
                try:
                    await hub.request("GET", "/hub/api/")
                    break
                except (OSError, HTTPClientError):  # the proxy answers before the hub does
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit(f"The hub did not start:\n{Path(folder, 'hub.log').read_text()[-3000:]}")
                    await asyncio.sleep(0.3)
            await measure(hub, process, learners)
        finally:
            for member in psutil.Process().children(recursive=True):  # the hub, if it is running, and its children
                with suppress(psutil.NoSuchProcess):
                    member.terminate()
            process.wait(30)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))

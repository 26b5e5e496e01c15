"""python -m helpers serve: Ray Serve with the embedded model, its ports, its end, and a replica that is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.model, pytest.mark.weekly]
KEY = "0123456789abcdef" * 2
BODY = {"model": "smollm2-instruct", "temperature": 0, "stream": True, "max_tokens": 400}


def body(number: int) -> dict:
    return BODY | {"messages": [{"role": "user", "content": f"Tell me a very long story, number {number}."}]}


class Served:
    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process, self.port, self.url = process, port, f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)

    def replicas(self) -> list[psutil.Process]:
        names = ((each, each.cmdline()) for each in psutil.Process(self.process.pid).children(recursive=True))
        return [each for each, line in names if "ray::ServeReplica:chat" in " ".join(line)]

    def stream(self, number: int, told: list) -> None:
        """Append the status and the last event, or the name of an error."""
        try:
            with self.http.stream("POST", "/v1/chat/completions", json=body(number)) as answer:
                told.append((number, answer.status_code, [line for line in answer.iter_lines() if line][-1]))
        except httpx.HTTPError as error:
            told.append((number, type(error).__name__, ""))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "helpers", "serve", "--port", str(port), "--replicas", "2"]
    environ = os.environ | {"TUTORIAL_API_KEY": KEY}
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, encoding="utf-8") as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ready"):
                break
        assert said[-1].startswith("Ready") and KEY not in "".join(said)
        yield Served(process, port)
        process.kill()


def test_the_interface_listens_on_loopback_only_and_requires_the_key(served):
    listening = [
        at.laddr.ip
        for each in psutil.Process(served.process.pid).children(recursive=True)
        for at in each.net_connections("inet")
        if at.status == psutil.CONN_LISTEN and at.laddr.port == served.port
    ]
    assert listening == ["127.0.0.1"]
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    assert served.http.get("/v1/models").json()["data"][0]["id"] == "smollm2-instruct"
    answer = served.http.post("/v1/chat/completions", content=b'{"\xff')
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_a_replica_that_is_killed_costs_its_own_requests_only_and_is_replaced(served):
    first, second = served.replicas()
    told = []
    threads = [threading.Thread(target=served.stream, args=(n, told)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    children = first.children()
    first.kill()
    for thread in threads:
        thread.join()
    finished = [each for each in told if each[2] == "data: [DONE]"]
    assert 0 < len(finished) < 8 and len(told) == 8, told
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    for number in range(100, 104):
        served.stream(number, told)
    assert [each[2] for each in told[-4:]] == ["data: [DONE]"] * 4
    for _ in range(600):
        if len(found := served.replicas()) == 2:
            break
        time.sleep(0.1)
    assert len(found) == 2 and second in found


def test_sigterm_lets_answers_finish(served):
    told = []
    threads = [threading.Thread(target=served.stream, args=(n, told)) for n in range(200, 203)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert not told, "an answer was short; the test needs one that takes longer"
    family = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [each[2] for each in told] == ["data: [DONE]"] * 3
    assert served.process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == [], json.dumps([each.name() for each in alive])

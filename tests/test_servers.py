"""JupyterLab and Voilà, with the arguments of noxfile.py: only this machine reaches them, and only with a token."""

from __future__ import annotations

import dataclasses
import http.client
import ipaddress
import re
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from helpers.settings import ROOT

sys.path.insert(0, str(ROOT / "tests" / "browser"))
import servers


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server: `private` is a path that needs the token, `shown` its status with the token."""

    url: str
    token: str
    private: str
    shown: int
    opened: str  # the address that a browser was told to open
    process: psutil.Process

    def get(self, path: str, token: str = "", **headers: str) -> http.client.HTTPResponse:
        """Return the response; a redirection to a log-in page is not followed."""
        headers |= {"Authorization": f"token {token}"} if token else {}
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def status(self, path: str, token: str = "", **headers: str) -> int:
        return self.get(path, token, **headers).status


OPEN = """
import pathlib, re, sys, urllib.request
page = urllib.request.urlopen(sys.argv[2]).read().decode()
pathlib.Path(sys.argv[1]).write_text(re.search('url=([^"]+)"', page)[1])
"""
SERVERS = {
    "lab": ("/api", "/api/contents", 200),
    "demo": ("/voila/static/voila.js", f"/api/kernels/{uuid.UUID(int=0)}", 404),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory) -> Iterator[Served]:
    """Start JupyterLab or Voilà as nox does, with a browser that only records the address."""
    folder = tmp_path_factory.mktemp(request.param)
    public, private, shown = SERVERS[request.param]
    (folder / "open.py").write_text(OPEN, encoding="utf-8")
    opened, port = folder / "opened.txt", servers.free_port()
    browser = f"{Path(sys.executable).as_posix()} {(folder / 'open.py').as_posix()} {opened.as_posix()} %s"
    option = {"lab": "--ServerApp.browser", "demo": "--Voila.browser"}[request.param]
    root = ["--allow-root"] if request.param == "lab" else []
    (_, *argv), variables = servers.command(request.param, f"{option}={browser}", f"--port={port}", *root)
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    with servers.running(
        [sys.executable, *argv], url + public, servers.environment(folder) | variables, log
    ) as process:
        for _ in range(240):
            if opened.exists() and opened.read_text():
                break
            time.sleep(0.25)
        token = re.search(r"token=(\w+)", log.read_text(encoding="utf-8"))
        yield Served(
            url, token[1] if token else "", private, shown, unescape(opened.read_text()), psutil.Process(process.pid)
        )


def test_a_server_requires_its_token(server):
    assert len(server.token) >= 32, "there is no token"
    assert server.status(server.private) == 403
    assert server.status(server.private, token="0" * 48) == 403
    assert server.status(server.private, token=server.token) == server.shown
    assert server.status("/") in (302, 403), "anybody on this machine gets a page, and with Voilà a kernel"


def test_no_page_of_a_different_origin_may_show_it_in_a_frame(server):
    for path, token in [("/", ""), (server.private, ""), (server.private, server.token)]:
        answer = server.get(path, token)
        redirected = answer.status == 302 and answer.headers["Content-Length"] == "0"  # nothing that could be shown
        assert redirected or "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"], path


def test_a_foreign_host_name_is_refused(server):
    """DNS rebinding: a web page may let its host name resolve to 127.0.0.1, and the browser sees one origin."""
    assert server.status(server.private, token=server.token, Host="rebound.example") == 403


def test_a_server_and_its_kernels_listen_on_loopback_only(server):
    if server.private == "/api/contents":
        address, data = f"{server.url}/api/kernels", b"{}"
        request = urllib.request.Request(address, data, {"Authorization": f"token {server.token}"})
        urllib.request.urlopen(request, timeout=60).close()
    listening = []
    for process in [server.process, *server.process.children(recursive=True)]:
        with suppress(psutil.Error):
            listening += [at.laddr.ip for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN]
    assert listening and {ipaddress.ip_address(host).is_loopback for host in listening} == {True}, listening


def test_the_browser_is_opened_with_the_token(server):
    assert parse_qs(urlsplit(server.opened).query).get("token") == [server.token]
    assert server.opened.startswith(server.url + "/")

"""JupyterLab and Voilà, as nox starts them, and the browser in them: none asks for anything outside this machine."""

import subprocess
import sys

import pytest
from conftest import BOX, SETUP, write_notebook
from playwright.sync_api import expect
from servers import environment
from test_box_voila import open_page


def outward(server) -> str:
    """Return what the server and its kernels tried to reach, all of which was refused."""
    log = server.work.parent / "outward.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


def test_jupyterlab_asks_for_neither_updates_nor_news(new_page, lab_server):
    write_notebook(lab_server.work / "quiet.ipynb", "1 + 1")
    page, guard = new_page(lab_server)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{lab_server.url}/lab/tree/quiet.ipynb?token={lab_server.token}")
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(5000)  # it asks some seconds after the page is there
    expect(page.locator(".Toastify__toast")).to_have_count(0)
    assert [url for url in asked if "/lab/api/news" in url] == []
    guard.check()
    assert outward(lab_server) == ""


@pytest.mark.weekly
def test_the_demo_asks_for_nothing(new_page, voila_server):
    write_notebook(voila_server.work / "quiet.ipynb", SETUP, BOX)
    _, guard, box = open_page(new_page, voila_server, "quiet.ipynb")
    box.ask("Hello")
    guard.check()
    assert outward(voila_server) == ""


def test_what_a_server_tries_would_be_noticed(tmp_path):
    """The same environment, and a program that asks for updates."""
    code = "import urllib.request; urllib.request.urlopen('https://example.org/news.json', timeout=5)"
    ran = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert ran.returncode and "example.org" in (tmp_path / "outward.log").read_text(encoding="utf-8")

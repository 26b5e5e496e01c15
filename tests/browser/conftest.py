"""A browser, two servers, and a notebook with a chat box on a fake model; the tests share one kernel."""

from __future__ import annotations

import nbformat
import pytest
from browsers import NoBrowser, launch
from chat_page import ChatPage, Guard
from playwright.sync_api import Error, sync_playwright
from servers import jupyterlab, voila

SETUP = "from helpers.chat.box import ChatBox\nfrom fakes import fake_conversation\n"
SETUP += "from openai_servers import scripted_conversation, served_conversation"
BOX = "box = ChatBox(fake_conversation(rate=40))\nbox"
BOXES = {"model": BOX, "server": BOX.replace("fake", "served"), "script": BOX.replace("fake", "scripted")}


def write_notebook(path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture(scope="session")
def playwright():
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright):
    try:
        _, browser = launch(playwright)
    except NoBrowser as error:
        pytest.fail(str(error), pytrace=False)
    with browser:
        yield browser


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def voila_server(tmp_path_factory):
    """As `nox -s demo` starts it, with a folder for notebooks."""
    with voila(tmp_path_factory.mktemp("voila"), "--Voila.config_file_paths=demo") as server:
        yield server


@pytest.fixture(scope="session")
def new_page(browser):
    """A function (server) → a page that may load from that server only, and its guard."""
    contexts = []

    def new(server, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        contexts.append(context := browser.new_context(**options))
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        context.set_default_timeout(20_000)
        page = context.new_page()
        return page, Guard(page, server.url)

    yield new
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def lab(new_page, lab_server):
    """JupyterLab in a page, with a notebook of three cells; the last is for whatever a test wants to run."""
    write_notebook(lab_server.work / "chat.ipynb", SETUP, BOX, "")
    chat = ChatPage(*new_page(lab_server), lab_server)
    chat.open("chat.ipynb")
    chat.run_cell(0, SETUP)
    yield chat
    lab_server.end_kernels()


@pytest.fixture
def chat(request, lab):
    """That notebook with a new, empty chat box.  Afterwards nothing has been loaded from anywhere else."""
    lab.new_box(BOXES[getattr(request, "param", "model")])
    yield lab
    lab.guard.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A picture of the page that a test failed on."""
    report = yield
    if report.failed and call.when != "teardown" and (chat := item.funcargs.get("lab")):
        picture = chat.server.work.parent / f"{item.name}.png"
        try:
            chat.page.screenshot(path=picture, timeout=5000)
        except Error as error:  # the page may be what failed
            picture = error.message
        report.sections.append(("the page", f"{picture}"))
    return report

"""The chat box in Notebook 7, which sees the keys before the box does."""

import pytest
from chat_page import Box
from conftest import BOX, SETUP, write_notebook
from playwright.sync_api import expect
from servers import jupyterlab

pytestmark = pytest.mark.weekly


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("notebook"), "notebook") as server:
        write_notebook(server.work / "chat.ipynb", f"{SETUP}\n{BOX}", "")
        yield server
        server.end_kernels()


@pytest.fixture(scope="module")
def page(new_page, server):
    page, guard = new_page(server)
    page.goto(f"{server.url}/notebooks/chat.ipynb?token={server.token}")
    page.locator(".jp-Notebook .jp-Cell").first.locator(".cm-content").click(timeout=60_000)
    page.get_by_text("Python 3", exact=False).first.wait_for()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=60_000, state="attached")
    page.keyboard.press("Control+Enter")
    expect(Box(page).message).to_be_visible(timeout=60_000)
    yield page
    guard.check()


def test_keys_stay_in_the_message(page):
    box, cells = Box(page), page.locator(".jp-Notebook .jp-Cell")
    box.message.click()
    page.keyboard.type("abdd")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("x")
    expect(box.message).to_have_value("abdd\nx")
    page.keyboard.press("Enter")
    expect(box.questions).to_have_text(["abdd\nx"])
    expect(box.answers).to_have_text(["abdd x"])
    box.wait()
    box.button("Edit").click()
    edit = page.get_by_role("textbox", name="Edit message")
    edit.press("Shift+Enter")
    edit.press("Escape")
    page.keyboard.type("dd")
    assert cells.count() == 2 and box.questions.count() == 1


def test_arrow_up_edits_and_escape_stops(page):
    box, cells = Box(page), page.locator(".jp-Notebook .jp-Cell")
    before = cells.count()
    box.message.fill("")
    box.message.press("ArrowUp")
    edit = page.get_by_role("textbox", name="Edit message")
    expect(edit).to_have_value("abdd\nx")
    edit.press("Escape")
    box.say("long")
    expect(box.answers.last).to_contain_text("word5")
    box.message.press("Escape")
    box.wait()
    expect(box.status).to_contain_text("stopped.")
    page.keyboard.type("dd")
    expect(box.message).to_have_value("dd")
    box.message.fill("")
    assert cells.count() == before


def test_ctrl_s_still_saves(page, server):
    box = Box(page)
    box.message.click()
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/contents/" in answer.url):
        page.keyboard.press("Control+s")


def test_keys_stay_in_the_settings(page):
    page.get_by_role("button", name="Settings").click()
    system = page.get_by_role("textbox", name="System message")
    system.click()
    page.keyboard.type("add")
    page.keyboard.press("Shift+Enter")
    expect(system).to_have_value("add\n")
    assert Box(page).questions.count() == 2, "the cell was run again"

"""JupyterLab as `nox -s lab` starts it: what opening and saving a page changes."""

from shutil import copy

from playwright.sync_api import expect

from helpers.settings import ROOT

PAGE = ROOT / "notebooks" / "07_chat.ipynb"


def test_a_page_that_is_opened_and_saved_is_what_it_was(new_page, lab_server):
    stored = lab_server.work / "stored.ipynb"
    copy(PAGE, stored)
    page, guard = new_page(lab_server)
    page.goto(f"{lab_server.url}/lab/workspaces/own/tree/stored.ipynb?token={lab_server.token}")
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(1000)  # the kernel tells its version after that
    expect(page.get_by_role("tab", name="stored.ipynb")).to_be_visible()
    assert page.locator(".jp-mod-dirty").count() == 0
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/contents/" in answer.url):
        page.keyboard.press("Control+s")
    assert stored.read_bytes() == PAGE.read_bytes()
    guard.check()

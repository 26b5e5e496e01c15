"""Versions of a message and kept conversations in JupyterLab, by the names that a screen reader says."""

import os
import signal

import pytest
from conftest import BOX
from playwright.sync_api import expect
from test_box_kernel import new_kernel


def test_an_edit_can_be_switched_back_and_forth(chat):
    chat.ask("first")
    expect(chat.button("Previous version of your message, number 1")).to_have_count(0)
    chat.kernel("box.edit(0, 'second')")
    expect(chat.answers.last).to_have_text("second")
    chat.wait()
    previous = chat.button("Previous version of your message, number 1")
    previous.click()
    expect(chat.answers.last).to_have_text("first")
    expect(previous).to_be_focused()
    previous.press("Enter")
    expect(chat.answers.last).to_have_text("second")


def test_a_kept_conversation_is_renamed_continued_and_deleted(chat):
    chat.ask("<b>mine</b>")
    chat.button("Conversations").click()
    chat.button("Rename b mine b").click()
    chat.page.get_by_label("New name of b mine b").fill("<i>Other</i>")
    chat.page.get_by_label("New name of b mine b").press("Enter")
    expect(chat.page.get_by_role("button", name="i Other i", exact=True)).to_be_visible()
    chat.button("Clear").click()
    chat.button("Continue: i Other i").click()
    expect(chat.answers.last).to_have_text("<b>mine</b>")
    chat.button("Conversations").click()
    chat.button("Delete i Other i").click()
    chat.button("Delete for good: i Other i").click()
    expect(chat.page.get_by_role("button", name="i Other i", exact=True)).to_have_count(0)


def test_an_old_list_cannot_be_clicked_while_the_new_one_is_on_its_way(chat):
    chat.ask("mine")
    mine = chat.button("mine").first  # earlier tests have kept theirs, too
    chat.button("Conversations").click()
    expect(mine).to_be_visible()
    chat.button("Conversations").click()
    rows = chat.root.locator('[aria-label="Kept conversations"]').element_handle()  # while it is hidden
    assert chat.button("Conversations").evaluate("(button, rows) => (button.click(), rows.children.length)", rows) == 0
    expect(mine).to_be_visible()


def test_a_rerun_of_the_cell_offers_the_last_conversation(chat):
    chat.ask("keep me")
    chat.new_box(BOX)
    chat.button("Continue: keep me").click()
    expect(chat.answers).to_have_text(["keep me"])
    expect(chat.button("Continue: keep me")).to_have_count(0)
    chat.ask("more")
    assert chat.kernel("len(box.conversation.messages)") == 4


def test_export_as_markdown_and_as_json(chat):
    chat.ask("mine")
    chat.button("Conversations").click()
    for name, ending in (("Markdown", ".md"), ("JSON", ".json")):
        with chat.page.expect_download() as download:
            chat.button(f"Export as {name}").click()
        assert download.value.suggested_filename.endswith(ending)
        text = download.value.path().read_text(encoding="utf-8")
        assert text == chat.kernel(f"box.export({ending[1:]!r})") and "mine" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_after_a_kill_the_conversation_is_there_and_the_half_answer_is_marked(chat):
    chat.ask("before the kill")
    chat.say("long")
    expect(chat.answers.last).to_contain_text("word5")
    with new_kernel(chat):
        os.kill(chat.kernel("__import__('os').getpid()"), signal.SIGKILL)
        chat.page.locator(".jp-Dialog .jp-mod-accept").click(timeout=60_000)
    chat.new_box(BOX)
    chat.button("Continue: before the kill").click()
    expect(chat.questions).to_have_text(["before the kill", "long"])
    expect(chat.answers.first).to_have_text("before the kill")
    expect(chat.log.locator(".assistant .stats").last).to_contain_text("stopped")
    chat.ask("and on")
    expect(chat.answers.last).to_have_text("and on")

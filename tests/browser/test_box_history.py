"""Versions of a message and kept conversations in JupyterLab, by the names that a screen reader says."""

from playwright.sync_api import expect


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

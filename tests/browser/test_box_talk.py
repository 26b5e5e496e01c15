"""Talking to the chat box in JupyterLab: it streams, it stops, and the keys do what a person expects."""

import re

import pytest
from chat_page import Box
from playwright.sync_api import expect

# The time from the order (a click or a key) to the next frame without Stop, as the page itself sees it.
STOPPED = """new Promise(tell => {
    let ordered = null
    const order = () => ordered ??= performance.now()
    document.addEventListener("click", order, {capture: true, once: true})
    document.addEventListener("keydown", order, {capture: true, once: true})
    const look = () => {
        const stop = [...document.querySelectorAll("button")].find(button => button.textContent == "Stop")
        if (ordered && !stop?.checkVisibility()) tell(performance.now() - ordered)
        else requestAnimationFrame(look)
    }
    look()
})"""

both = pytest.mark.parametrize("chat", ["model", "server"], indirect=True)


@both
def test_an_answer_grows_and_what_stands_stays(chat):
    chat.say("long")
    answer = chat.answers.last
    expect(answer).to_contain_text("word5")
    first = answer.locator("p").first.element_handle()
    first.evaluate("p => getSelection().selectAllChildren(p)")
    length = len(answer.inner_text())
    expect(answer).to_have_text(re.compile(f".{{{length + 50}}}", re.DOTALL))
    expect(chat.button("Stop")).to_be_visible()
    assert first.evaluate("p => p.isConnected"), "the paragraph was thrown away and made again"
    assert first.evaluate("() => getSelection().toString()").strip() == "The beginning stands."
    chat.button("Stop").click()
    chat.wait()


@pytest.mark.parametrize(
    "chat, how", [("model", "button"), ("model", "Escape"), ("server", "button")], indirect=["chat"]
)
def test_stop_ends_the_answer_and_keeps_what_there_is(chat, how):
    chat.say("long")
    expect(chat.answers).to_contain_text("word10")
    chat.page.evaluate(f"void (window.stopped = {STOPPED})")
    if how == "button":
        chat.button("Stop").click()
    else:
        chat.message.press("Escape")
    print(f"Stop by {how}: {chat.page.evaluate('window.stopped'):.0f} ms")
    chat.wait()
    shown = chat.answers.inner_text()
    ending, text = chat.kernel(
        "(box.conversation.messages[-1].stats.finish_reason, box.conversation.messages[-1].content)",
    )
    assert ending == "stopped" and "word149" not in text
    assert shown.split() == text.split()
    chat.page.wait_for_timeout(500)
    assert chat.answers.inner_text() == shown, "the text went on after Stop"
    chat.ask("and the next")
    expect(chat.answers.last).to_have_text("and the next")


def test_keys_stay_in_the_message(chat):
    chat.message.click()
    # In JupyterLab's command mode a and b insert a cell, dd deletes one, Shift+Enter runs the cell.
    chat.page.keyboard.type("abdd")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("x")
    expect(chat.message).to_have_value("abdd\nx")
    assert chat.page.locator(".jp-Notebook .jp-Cell").count() == 3
    chat.page.keyboard.press("Enter")
    expect(chat.questions).to_have_text("abdd\nx")
    expect(chat.message).to_have_value("")
    chat.wait()
    expect(chat.message).to_be_focused()
    assert chat.page.locator(".jp-Notebook .jp-Cell").count() == 3


def test_enter_that_ends_a_composition_does_not_send(chat):
    """In Japanese and Chinese, Enter chooses what the letters stand for."""
    chat.message.fill("にほん")
    for state in ({"isComposing": True}, {"keyCode": 229}):  # the second is Safari's
        chat.message.dispatch_event("keydown", {"key": "Enter", "bubbles": True} | state)
    chat.message.press("End")
    chat.page.keyboard.insert_text("ご")
    chat.message.press("Enter")
    expect(chat.answers).to_have_text(["にほんご"])
    chat.wait()


def test_an_empty_message_is_not_sent(chat):
    chat.say("  \n ")
    expect(chat.status).to_contain_text("The message is empty.")
    expect(chat.questions).to_have_count(0)
    expect(chat.button("Send")).to_be_visible()


@pytest.mark.parametrize("chat", ["script"], indirect=True)
def test_what_a_server_does_not_tell_is_left_out(chat):
    chat.ask("one")
    expect(chat.status).to_contain_text("prompt 30 tokens.")
    expect(chat.root.get_by_role("meter", name="Context")).to_be_hidden()
    expect(chat.button("X-ray")).to_be_hidden()
    expect(chat.button("Continue")).to_be_hidden()
    expect(chat.root.get_by_text("tiny · 127.0.0.1:")).to_be_visible()


@both
def test_an_earlier_message_can_be_edited(chat):
    chat.ask("one")
    chat.ask("two")
    chat.button("Edit").first.click()
    edit = chat.root.get_by_role("textbox", name="Edit message")
    expect(edit).to_have_value("one")
    edit.fill("never mind")
    chat.button("Cancel").click()
    expect(chat.questions).to_have_text(["one", "two"])
    chat.button("Edit").first.click()
    edit.fill("three")
    chat.button("Save").click()
    expect(chat.questions).to_have_text(["three"])
    expect(chat.answers).to_have_text(["three"])
    chat.wait()
    assert chat.kernel("[message.content for message in box.conversation.messages]") == ["three", "three"]


@both
def test_an_answer_can_be_had_again(chat):
    chat.ask("say it again")
    last = "box.conversation.messages[-1]"
    first = chat.kernel(f"id({last})")
    chat.button("Regenerate").click()
    expect(chat.status).to_contain_text("The answer is the same")  # it says so at the end of the new one
    chat.wait()
    expect(chat.answers).to_have_text(["say it again"])
    assert chat.kernel("[message.content for message in box.conversation.messages]") == ["say it again"] * 2
    assert chat.kernel(f"({last}.role, id({last}) != {first})") == ("assistant", True)


@pytest.mark.parametrize("chat", ["model", "script"], indirect=True)
def test_an_error_is_shown_and_the_next_message_works(chat):
    chat.ask("boom")
    expect(chat.status).to_contain_text("the model went away")
    expect(chat.answers).to_have_text(["This answer ends in the mid"])
    chat.ask("are you back?")
    expect(chat.answers.last).to_have_text("are you back?")
    expect(chat.status).not_to_contain_text("went away")


@pytest.fixture
def busy(chat):
    """Another cell runs until the function that this gives is called."""
    go = chat.server.work / "go"
    go.unlink(missing_ok=True)
    chat.run_cell(2, "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.05)")
    expect(chat.page.locator(".jp-Notebook-ExecutionIndicator[data-status='busy']")).to_be_visible()
    yield go.touch
    go.touch()


@pytest.fixture
def one_at_a_time(lab):
    """JupyterLab as it was before it could talk to a widget while a cell runs; this setting brings that back."""
    setting = "lab/api/settings/@jupyterlab/apputils-extension:kernels-settings"
    lab.server.api("PUT", setting, raw='{"commsOverSubshells": "disabled"}')
    lab.reload()
    yield
    lab.server.api("PUT", setting, raw="{}")
    lab.reload()


@both
def test_it_answers_and_stops_while_another_cell_runs(chat, busy):
    chat.say("long")
    expect(chat.answers).to_contain_text("word10")
    chat.button("Stop").click()
    chat.wait()
    expect(chat.status).to_contain_text("stopped.")


def test_it_says_that_it_waits_where_it_cannot(one_at_a_time, chat, busy):
    chat.say("hello")
    expect(chat.status).to_contain_text("your message waits")
    expect(chat.message).to_have_value("hello")
    busy()
    expect(chat.answers).to_have_text(["hello"])
    chat.wait()
    expect(chat.message).to_have_value("")


def test_an_answer_is_copied_as_its_markdown(chat):
    chat.ask("code")
    chat.button("Copy").last.click()
    expect(chat.status).to_contain_text(re.compile("copied", re.IGNORECASE))
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied == chat.kernel("box.conversation.messages[-1].content") and "```python" in copied


def test_export_is_the_conversation_as_markdown(chat):
    chat.ask("code")
    with chat.page.expect_download() as download:
        chat.button("Export").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert download.value.suggested_filename.endswith(".md")
    assert text == chat.kernel("box.export()") and "```python" in text


@both
def test_clear_and_undo(chat):
    chat.ask("one")
    chat.button("Clear").click()
    expect(chat.questions).to_have_count(0)
    expect(chat.button("Undo")).to_be_enabled()
    chat.button("Undo").click()
    expect(chat.questions).to_have_text(["one"])
    expect(chat.answers).to_have_text(["one"])
    chat.ask("two")
    assert chat.kernel("len(box.conversation.messages)") == 4


def test_a_reload_brings_the_history_back(chat):
    chat.ask("code")
    html = chat.answers.inner_html()
    chat.reload()
    expect(chat.questions).to_have_text(["code"])
    assert chat.answers.inner_html() == html
    chat.ask("still here?")
    expect(chat.answers.last).to_have_text("still here?")


@both
def test_two_views_stay_in_step(chat):
    chat.run_cell(2, "box")
    one, two = Box(chat.cell(1)), Box(chat.cell(2))
    expect(two.message).to_be_visible()
    one.say("long")
    expect(two.questions).to_have_text(["long"])
    expect(two.answers).to_contain_text("word10")
    expect(two.button("Stop")).to_be_visible()
    two.button("Stop").click()
    one.wait()
    two.wait()
    assert one.answers.inner_html() == two.answers.inner_html()
    assert one.status.inner_text() == two.status.inner_text()


def test_a_refused_message_returns_only_to_the_view_that_sent_it(chat):
    chat.run_cell(2, "box")
    one, two = Box(chat.cell(1)), Box(chat.cell(2))
    chat.kernel("setattr(box.conversation, 'context_length', 60)")
    two.message.fill("not yet sent")
    one.say("far too long " * 30)
    for view in one, two:
        expect(view.status).to_contain_text("no older messages are left to remove")
        view.wait()
    expect(one.message).to_have_value(("far too long " * 30).strip())
    expect(two.message).to_have_value("not yet sent")
    expect(two.questions).to_have_count(0)


def test_a_conversation_goes_on_over_the_end_of_the_context(chat):
    chat.kernel("setattr(box.conversation, 'context_length', 200) or setattr(box.conversation.model, 'rate', 500)")
    said = [f"Message {number} with so many words that soon there is no room for more." for number in range(8)]
    for text in said:
        chat.ask(text)
        expect(chat.answers.last).to_have_text(text)
    truncated_messages = chat.kernel("box.conversation.truncated_messages")
    assert truncated_messages > 0
    divider = chat.log.get_by_text("The messages above are no longer in the prompt.")
    expect(divider).to_have_count(1)
    before = divider.evaluate("line => [...line.parentElement.children].indexOf(line)")
    assert before == truncated_messages, "the line is not above the first message in the prompt"
    expect(chat.root.get_by_role("meter", name="Context")).to_have_js_property("max", 200)
    expect(chat.questions).to_have_count(len(said))

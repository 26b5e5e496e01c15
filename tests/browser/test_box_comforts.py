"""What a person knows from other chats, in JupyterLab: keys, files, formulas, tables, code, starters, sizes, models."""

import pytest
from fakes import ANSWERS
from playwright.sync_api import expect

RICH = r"""The *sum* is \(x_1^2\), and

\[ \int_0^1 x\,dx = \frac{1}{2} \]

| one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve |
|--|--|--|--|--|--|--|--|--|--|--|--|
| word | another | word | another | word | another | word | another | word | another | word | another |

- [ ] to do
- [x] done, see https://example.org/page

```python
def f():
    return 1
```

שלום עולם
"""
ANSWER = (
    f"from fakes import ANSWERS\nANSWERS |= {{'rich': [{RICH!r}], 'lines': ['```py\\n' + 'x = 1\\n' * 200 + '```']}}"
)
RICH_BOX = f"{ANSWER}\nbox = ChatBox(fake_conversation(rate=150, max_new_tokens=1500))\nbox"
assert "rich" not in ANSWERS


@pytest.fixture
def rich(lab):
    lab.new_box(RICH_BOX)
    yield lab
    lab.guard.check()


def test_formulas_tables_tasks_links_and_directions(rich):
    rich.page.evaluate("""() => {
        window.seen = []
        const log = document.querySelector("[role=log]")
        const look = () => window.seen.push(log.querySelector(".assistant .body")?.innerText ?? "")
        new MutationObserver(look).observe(log, {subtree: true, childList: true, characterData: true})
    }""")
    rich.ask("rich")
    answer = rich.answers.last
    expect(answer.locator("math")).to_have_count(2)
    expect(answer.locator("math mfrac")).to_be_visible()
    table = answer.locator("table")
    assert table.evaluate("table => table.scrollWidth > table.clientWidth"), "a wide table scrolls"
    assert table.locator("td").first.evaluate("cell => cell.getClientRects().length === 1 && cell.offsetHeight < 60")
    expect(answer.locator("li.task")).to_have_text(["☐ to do", "☑ done, see https://example.org/page"])
    expect(answer.get_by_role("link", name="https://example.org/page")).to_be_visible()
    hebrew = answer.locator("p").last
    assert hebrew.evaluate("p => getComputedStyle(p).direction") == "rtl"
    rich.require_accessible()
    assert answer.locator("p").first.evaluate("p => getComputedStyle(p).direction") == "ltr"
    seen = rich.page.evaluate("window.seen")
    assert len(seen) > 3, "it was watched"
    raw = [text for text in seen if any(sign in text for sign in ("|", "```", "\\(", "\\[", "\\frac", "--"))]
    assert raw == [], "half-written Markdown was shown"


def test_code_has_its_language_a_copy_button_and_folds(rich):
    rich.ask("rich")
    code = rich.answers.last.locator(".code")
    expect(code).to_have_attribute("data-language", "Python")
    rich.button("Copy code").click()
    expect(rich.status).to_have_text("Copied.")
    assert rich.page.evaluate("navigator.clipboard.readText()") == "def f():\n    return 1\n"
    rich.kernel("setattr(box.conversation.model, 'rate', 1e6)")
    rich.ask("lines")
    code = rich.answers.last.locator(".code")
    expect(code.locator("pre")).to_be_hidden()
    code.get_by_text("200 lines").click()
    expect(code.locator("pre")).to_be_visible()


def test_the_message_field_grows_to_eight_lines(chat):
    height = "area => area.getBoundingClientRect().height"
    heights = []
    for lines in (1, 4, 8, 30):
        chat.message.fill("\n".join(["line"] * lines))
        heights.append(chat.message.evaluate(height))
    assert heights[0] < heights[1] < heights[2] == heights[3]
    chat.message.press("Enter")
    expect(chat.message).to_have_value("")
    assert chat.message.evaluate(height) == heights[0]
    chat.wait()


def test_arrow_up_edits_the_last_message(chat):
    chat.ask("one")
    chat.ask("two")
    chat.message.fill("text")
    chat.message.press("ArrowUp")
    edit = chat.root.get_by_role("textbox", name="Edit message")
    expect(edit).to_have_count(0)
    chat.message.fill("")
    chat.message.press("ArrowUp")
    expect(edit).to_have_value("two")
    expect(edit).to_be_focused()
    edit.fill("three")
    edit.press("Enter")
    expect(chat.questions).to_have_text(["one", "three"])
    chat.wait()


def test_escape_is_named_as_the_key_that_stops(chat):
    chat.say("long")
    expect(chat.button("Stop")).to_have_attribute("aria-keyshortcuts", "Escape")
    assert chat.message.get_attribute("placeholder").startswith("Escape stops")
    chat.message.press("Escape")
    chat.wait()


def test_jump_to_latest(chat):
    jump = chat.button("Jump to latest")
    chat.kernel("setattr(box.conversation.model, 'rate', 500)")
    chat.ask("\n".join(["line"] * 60))
    expect(jump).to_be_hidden()
    chat.log.evaluate("log => log.scrollTop = 0")
    expect(jump).to_be_visible()
    jump.click()
    expect(jump).to_be_hidden()
    chat.page.set_viewport_size({"width": 420, "height": 900})
    chat.page.wait_for_timeout(300)
    expect(jump).to_be_hidden()
    chat.page.set_viewport_size({"width": 1280, "height": 900})
    chat.page.wait_for_timeout(300)
    assert chat.log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight < 3")


def test_an_answer_that_was_cut_is_continued(chat):
    chat.kernel("setattr(box.conversation, 'max_new_tokens', 8)")
    chat.ask("long")
    short = chat.answers.last.inner_text()
    expect(chat.status).to_contain_text("stopped at max_new_tokens")
    chat.button("Continue").click()
    expect(chat.answers.last).not_to_have_text(short)
    chat.wait()
    assert chat.answers.count() == 1 and chat.answers.last.inner_text().startswith(short[:20])
    chat.kernel("setattr(box.conversation, 'max_new_tokens', 500)")
    chat.ask("complete")
    expect(chat.button("Continue")).to_have_count(0)


def test_an_empty_box_offers_three_starters(chat):
    starters = chat.log.get_by_role("button")
    expect(starters).to_have_count(3)
    text = starters.nth(1).inner_text()
    starters.nth(1).click()
    expect(chat.questions).to_have_text([text])
    chat.wait()
    chat.button("Clear").click()
    expect(starters).to_have_count(3)


PASTE = """(area, [name, type, bytes]) => {
    const files = new DataTransfer()
    files.items.add(new File([new Uint8Array(bytes)], name, {type}))
    area.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, bubbles: true, cancelable: true}))
}"""


def test_a_picture_is_answered_and_a_text_file_is_inserted(chat):
    chat.message.evaluate(PASTE, ["cat.png", "image/png", [137, 80, 78, 71]])
    expect(chat.status).to_have_text("This model cannot read pictures. Text files are inserted into the message.")
    expect(chat.message).to_have_value("")
    chat.message.evaluate(PASTE, ["<img src=x onerror=y>.bin", "", [0, 255, 1]])
    expect(chat.status).to_contain_text("is not text")
    chat.message.evaluate(PASTE, ["notes.txt", "text/plain", [*"Grüße <b>".encode()]])
    expect(chat.message).to_have_value("notes.txt:\n\nGrüße <b>\n")
    chat.message.fill("")


def test_the_text_can_be_larger_and_smaller(chat):
    size = "getComputedStyle(document.querySelector('.ovchat .frame')).fontSize"
    before = float(chat.page.evaluate(size).removesuffix("px"))
    chat.button("Larger text").click()
    assert float(chat.page.evaluate(size).removesuffix("px")) > before
    chat.button("Smaller text").click()
    assert float(chat.page.evaluate(size).removesuffix("px")) == pytest.approx(before, rel=0.01)


def test_the_status_has_one_line_and_the_progress_is_not_announced(chat):
    height = chat.page.locator(".status-line").evaluate("line => line.offsetHeight")
    chat.page.evaluate("""() => {
        window.announced = []
        const status = document.querySelector(".ovchat [role=status]")
        new MutationObserver(() => window.announced.push(status.textContent)).observe(status, {childList: true})
    }""")
    chat.ask("long")
    announced = chat.page.evaluate("window.announced")
    assert len(announced) == 2 and announced[0] == "Working…" and "tokens" in announced[1]
    chat.kernel("setattr(box.widget, 'status', 'A long sentence about this answer. ' * 20)")
    chat.button("Details").click()
    assert chat.status.evaluate("status => status.scrollHeight <= status.clientHeight + 1"), "all of it is shown"
    assert chat.page.locator(".status-line").evaluate("line => line.offsetHeight") == height
    chat.button("Details").click()


def test_a_bad_setting_is_answered_in_words(chat):
    chat.page.get_by_role("button", name="Settings", exact=True).last.click()
    temperature = chat.page.get_by_label("Temperature").last
    old = temperature.input_value()
    temperature.fill("-3")
    temperature.press("Enter")
    expect(chat.status).to_have_text("Temperature must be 0 or at least 0.000001. -3.0 is not applied.")
    expect(temperature).to_have_value(old)


MODELS = """
import os, pathlib, tempfile, threading
from helpers import settings
from helpers.chat import box as box_module
root = pathlib.Path(tempfile.mkdtemp())
for name in ("smollm2-instruct", "owner--other"):
    (root / name / "int4").mkdir(parents=True)
    (root / name / "int4" / "config.json").touch()
os.environ["TUTORIAL_MODEL_ROOT"] = str(root)
def load_fast(wanted):
    conversation = fake_conversation("From the other model.")
    conversation.model.settings = wanted
    loads.wait(20)
    return conversation.model, conversation.tok, None
loads = threading.Event()
box_module.load_fast = load_fast
box = ChatBox(fake_conversation(rate=400))
box.conversation.model.settings = settings.load()
box.refresh()
box
"""


def test_the_model_is_named_and_can_be_changed(lab):
    lab.new_box(MODELS)
    about = lab.page.locator(".ovchat .about")
    expect(about).to_have_text("smollm2-instruct · int4 · CPU")
    lab.ask("Hello")
    lab.page.get_by_role("button", name="Settings", exact=True).last.click()
    lab.page.get_by_label("Model").last.select_option("owner/other · int4")
    expect(lab.button("Stop")).to_be_disabled()
    lab.say("And now?")
    expect(lab.status).to_have_text("Wait until the model is loaded. Your text stays here.")
    lab.kernel("loads.set()")
    expect(about).to_have_text("owner/other · int4 · CPU")
    expect(lab.status).to_contain_text("The next answer prefills the whole conversation")
    expect(lab.answers).to_have_text(["Hello"])
    expect(lab.message).to_have_value("And now?")
    lab.ask("And now?")
    expect(lab.answers.last).to_have_text("From the other model.")
    lab.kernel("__import__('os').environ.pop('TUTORIAL_MODEL_ROOT') and None")
    lab.guard.check()


@pytest.mark.parametrize("width, height", [(1280, 720), (420, 800), (640, 360), (1920, 1080)])
def test_the_message_field_is_on_the_screen_with_its_conversation(chat, width, height):
    """640 by 360 is a screen of 1280 by 720 at 200 %."""
    chat.kernel("setattr(box.conversation.model, 'rate', 500)")
    chat.ask("long")
    try:
        chat.page.set_viewport_size({"width": width, "height": height})
        chat.page.wait_for_timeout(300)
        chat.message.scroll_into_view_if_needed()
        log, field = (each.bounding_box() for each in (chat.log, chat.message))
        assert log["height"] >= 100 and field["y"] + field["height"] - log["y"] <= height
        assert field["x"] + field["width"] <= width
    finally:
        chat.page.set_viewport_size({"width": 1280, "height": 900})

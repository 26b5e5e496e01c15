"""What people or the model write is shown, and never run or loaded, whatever it is."""

import pytest
from payloads import PAYLOADS
from playwright.sync_api import expect
from strategies import ALLOWED

SAY_ALL = """
from payloads import PAYLOADS
box.conversation.model.rate = 1e6
for text in PAYLOADS:
    box.conversation.clear()
    box.submit(text)
    box.wait()
    said.append(box.conversation.messages)
"""
# The file names are what the system's rules leave of the payloads.
KEEP_ALL = """
import tempfile
from types import SimpleNamespace
from payloads import PAYLOADS
from helpers.chat.history import History
from helpers.chat.messages import Message
box.conversation.history, names = History(tempfile.mkdtemp()), []
for text in PAYLOADS:
    box.conversation.clear()
    box.conversation.system = text
    box.conversation.messages = [Message("user", text), Message("assistant", text)]
    box.conversation._keep(box.conversation.messages)
    names.append(box.conversation.history.name)
    box.settings.system.value = text
    box.settings.seed.value = text
    box.widget.about = text
box.conversation.clear()
open(box.conversation.history.folder / "<img src=x onerror=window.__xss=1>.json", "w").write("<script>")
box.refresh()
'all ' + 'kept'
"""
SHOW_ALL = """
box.conversation.messages = [message for turn in said for message in turn]
box.refresh()
"""
# What Markdown may become; the rest of the box is the widget's own, and sets the direction of each paragraph.
ATTRIBUTES = {"class", "style", "dir", "tabindex"}.union(*ALLOWED.values())
STRANGE = """([allowed, attributes]) =>
[...document.querySelectorAll("[role=log] .body, [role=log] .body *")].flatMap(node => [
    ...(allowed.includes(node.localName) ? [] : [node.outerHTML]),
    ...[...node.attributes].filter(({name}) => !attributes.includes(name))
        .map(({name, value}) => name + "=" + value),
    ...(/url|expression|position/.test(node.getAttribute("style")) ? [node.getAttribute("style")] : []),
])"""


def test_nothing_that_is_said_runs_or_loads_anything(chat):
    """Every payload as a person's words and, since the fake model repeats them, as a streamed answer."""
    chat.run_cell(2, f"said = []{SAY_ALL}{SHOW_ALL}'all ' + 'said'")
    expect(chat.cell(2)).to_contain_text("all said", timeout=120_000)
    expect(chat.answers).to_have_count(len(PAYLOADS))
    said = chat.kernel("[message.content for message in box.conversation.messages]")
    assert said[0] == said[1] == PAYLOADS[0], "the model did not repeat it"
    chat.guard.check()

    assert chat.page.evaluate(STRANGE, [[*ALLOWED], [*ATTRIBUTES]]) == []
    links = chat.log.locator("a").evaluate_all("all => all.map(a => [a.protocol, a.target, a.rel])")
    assert links and {tuple(link) for link in links} <= {
        ("https:", "_blank", "noopener noreferrer"),
        ("http:", "_blank", "noopener noreferrer"),
        ("mailto:", "_blank", "noopener noreferrer"),
    }

    # The same in the other ways to look at it: tokens, and the text area of Edit.
    chat.log.get_by_role("button", name="X-ray").evaluate_all("all => all.forEach(one => one.click())")
    expect(chat.log.get_by_role("group", name="Tokens")).to_have_count(len(PAYLOADS))
    chat.log.get_by_role("button", name="Edit").evaluate_all("all => all.forEach(one => one.click())")
    expect(chat.log.get_by_role("textbox", name="Edit message")).to_have_count(len(PAYLOADS))
    assert chat.log.locator("img, script, iframe, object, embed, svg, video, audio, form, style, link").count() == 0
    chat.guard.check()


ALL = pytest.param(range(len(PAYLOADS)), marks=pytest.mark.weekly, id="all")


@pytest.mark.parametrize("opened", [pytest.param((0, 5, -1), id="some"), ALL])
def test_names_settings_and_saved_files_run_nothing(chat, opened):
    """Every payload as the name of a kept conversation, in a saved file, in a setting, and as the model's name."""
    chat.run_cell(2, KEEP_ALL)
    expect(chat.cell(2)).to_contain_text("all kept", timeout=120_000)
    chat.button("Conversations").click()
    kept = chat.root.get_by_role("list", name="Kept conversations").get_by_role("listitem")
    expect(kept).to_have_count(len(PAYLOADS) + 1)
    chat.guard.check()
    for index in opened:  # from the list, with its content
        name = chat.kernel(f"names[{index}]")
        kept.get_by_role("button", name=name, exact=True).first.click()
        expect(chat.questions.last).to_have_text(PAYLOADS[index])
        chat.button("Conversations").click()
    rename = kept.first.get_by_role("button", name="Rename")
    rename.click()
    kept.first.get_by_role("textbox").fill(PAYLOADS[4])
    kept.first.get_by_role("textbox").press("Enter")
    expect(kept.first.get_by_role("textbox")).to_have_count(0)
    assert chat.page.evaluate(STRANGE, [[*ALLOWED], [*ATTRIBUTES]]) == []
    assert chat.page.locator(".ovchat").locator("img, script, iframe, svg, object, form").count() == 0
    chat.guard.check()


def test_the_guard_would_see_it(chat):
    """The same payload where nothing escapes it: it runs, and asks for something elsewhere."""
    chat.page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {PAYLOADS[4]!r})")
    chat.page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {PAYLOADS[5]!r})")
    chat.page.wait_for_function("window.__xss === 1")
    chat.page.wait_for_function("[...document.images].every(image => image.complete)")
    assert any("xss.example" in address for address in chat.guard.refused)
    chat.guard.refused.clear()
    chat.page.evaluate("delete window.__xss")

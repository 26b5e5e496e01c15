"""What people or the model write is shown, and never run or loaded, whatever it is."""

from payloads import PAYLOADS
from playwright.sync_api import expect

SAY_ALL = """
from payloads import PAYLOADS
box.conversation.model.rate = 1e6
for text in PAYLOADS:
    box.conversation.clear()
    box.submit(text)
    box.wait()
    said.append(box.conversation.messages)
"""
SHOW_ALL = """
box.conversation.messages = [message for turn in said for message in turn]
box.refresh()
"""
# What Markdown may become; the rest of the box is the widget's own.
ALLOWED = "a b br blockquote code del div em h3 h4 h5 h6 hr i li ol p pre s span strong table tbody td th thead tr ul"
STRANGE = """allowed => [...document.querySelectorAll("[role=log] .body, [role=log] .body *")].flatMap(node => [
    ...(allowed.includes(node.localName) ? [] : [node.outerHTML]),
    ...[...node.attributes].filter(({name}) => !["class", "href", "target", "rel", "style", "start"].includes(name))
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

    assert chat.page.evaluate(STRANGE, ALLOWED.split()) == []
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


def test_the_guard_would_see_it(chat):
    """The same payload where nothing escapes it: it runs, and asks for something elsewhere."""
    chat.page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {PAYLOADS[4]!r})")
    chat.page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {PAYLOADS[5]!r})")
    chat.page.wait_for_function("window.__xss === 1")
    chat.page.wait_for_function("[...document.images].every(image => image.complete)")
    assert any("xss.example" in address for address in chat.guard.refused)
    chat.guard.refused.clear()
    chat.page.evaluate("delete window.__xss")

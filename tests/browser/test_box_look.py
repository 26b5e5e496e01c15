"""How the chat box looks and what it is called: both themes, a narrow window, a keyboard, a screen reader."""

import pytest
from playwright.sync_api import expect

# The least contrast (WCAG) of text against what is behind it, and the text that has it.  Colours are read back from a
# canvas, which understands every way to write one.
CONTRAST = """(root, skipped) => {
    const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true})
    const paint = colours => {
        pen.clearRect(0, 0, 1, 1)
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1) }
        return [...pen.getImageData(0, 0, 1, 1).data]
    }
    const light = colour => {
        const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    let worst = [21, ""]
    while (walk.nextNode()) {
        const text = walk.currentNode.data.trim(), own = walk.currentNode.parentElement
        if (!text || !own.checkVisibility() || own.closest(skipped)) continue
        const behind = ["white"], over = []
        for (let node = own; node; node = node.parentElement) over.unshift(getComputedStyle(node).backgroundColor)
        const ground = paint([...behind, ...over])
        const ink = paint([...behind, ...over, getComputedStyle(own).color])
        const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x)
        const ratio = (a + 0.05) / (b + 0.05)
        if (ratio < worst[0]) worst = [ratio, `${text.slice(0, 40)}: ${ink} on ${ground}`]
    }
    return worst
}"""

# The contrast of the border of a field against what is around it.
EDGE = """field => {
    const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true})
    const light = colours => {
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1) }
        const parts = [...pen.getImageData(0, 0, 1, 1).data].map(v => v / 255)
        const [r, g, b] = parts.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const behind = ["white"]
    const all = []
    for (let node = field.parentElement; node; node = node.parentElement)
        all.unshift(getComputedStyle(node).backgroundColor)
    const [a, b] = [light([...behind, ...all]), light([...behind, ...all, getComputedStyle(field).borderTopColor])]
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
}"""


@pytest.fixture
def theme(lab, request):
    lab.theme(request.param)
    yield request.param
    lab.theme("JupyterLab Light")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"], indirect=True)
def test_text_can_be_read_in_each_theme(chat, theme):
    chat.ask("code")
    chat.ask("A bird sings in the tree.")
    chat.button("X-ray").last.click()
    tokens = chat.root.get_by_role("group", name="Tokens").get_by_role("button")
    tokens.first.click()
    chat.page.mouse.move(0, 0)
    chat.page.wait_for_timeout(300)  # colours may fade in
    box = chat.page.locator(".ovchat")
    ratio, where = box.evaluate(CONTRAST, "nothing")
    print(f"{theme}: the least contrast is {ratio:.2f}: {where}")
    assert ratio >= 4.5, where
    ratio = chat.message.evaluate(EDGE)
    print(f"{theme}: the contrast of the field's border is {ratio:.2f}")
    assert ratio >= 3


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"], indirect=True)
def test_axe_finds_no_violation(chat, theme):
    chat.ask("code")
    chat.button("X-ray").last.click()
    chat.button("Conversations").click()
    chat.page.get_by_text("Settings", exact=True).last.click()
    chat.require_accessible()


@pytest.mark.parametrize("width", [1280, 420])
def test_targets_are_large_enough(chat, width):
    chat.kernel("setattr(box.conversation, 'max_new_tokens', 30)")
    chat.ask("code")
    chat.button("X-ray").last.click()
    chat.button("Conversations").click()
    try:
        chat.page.set_viewport_size({"width": width, "height": 800})
        small = chat.page.locator(".ovchat-box").evaluate(
            """box => [...box.querySelectorAll("button, summary, textarea, input")].filter(one => one.checkVisibility())
                .map(one => [one.ariaLabel || one.textContent, one.offsetWidth, one.offsetHeight])
                .filter(([, width, height]) => height < 24 || width < 24)
                .filter(([name]) => !name.match(/%$/))"""  # tokens stand in a text, which may be narrower
        )
        assert small == []
        heights = chat.root.get_by_role("group", name="Tokens").get_by_role("button")
        assert min(heights.evaluate_all("all => all.map(one => one.offsetHeight)")) >= 24
    finally:
        chat.page.set_viewport_size({"width": 1280, "height": 900})


def test_forced_colours_keep_the_meaning(chat):
    chat.ask("A bird sings in the tree.")
    chat.ask("code")
    chat.page.emulate_media(forced_colors="active")
    try:
        border = "node => ['Left', 'Right', 'Bottom'].map(side => getComputedStyle(node)[`border${side}Width`])"
        question, answer = (each.first.evaluate(border) for each in (chat.questions, chat.answers))
        assert min(map(width, [*question, *answer])) >= 1 and question != answer, "whose message it is"
        chat.button("X-ray").first.click()
        tokens = chat.root.get_by_role("group", name="Tokens").locator("button")
        style = "node => getComputedStyle(node).borderBottomStyle"
        assert tokens.and_(chat.page.locator(".unlikely")).first.evaluate(style) == "dotted"
        assert tokens.and_(chat.page.locator(":not(.unlikely)")).first.evaluate(style) != "dotted"
    finally:
        chat.page.emulate_media(forced_colors="none")


def width(value: str) -> float:
    return float(value.removesuffix("px"))


def test_a_narrow_window_needs_no_sideways_scrolling(chat):
    chat.ask("code")
    chat.ask("unbreakable" * 20)
    chat.button("X-ray").last.click()
    expect(chat.root.get_by_role("group", name="Tokens")).to_be_visible()
    try:
        chat.page.set_viewport_size({"width": 400, "height": 800})
        box = chat.page.locator(".ovchat")
        wider = box.evaluate(
            """box => [box, ...box.querySelectorAll("*")].filter(node => node.checkVisibility()
                && node.scrollWidth > node.clientWidth + 1 && !node.closest("pre, table")
                && !["hidden", "clip"].includes(getComputedStyle(node).overflowX)
                && getComputedStyle(node).display != "inline").map(node => node.className || node.localName)"""
        )
        assert wider == []
        right = box.evaluate("box => box.getBoundingClientRect().right")
        assert right <= 400
        for name in ("Send", "Clear", "Export", "Regenerate"):
            assert chat.button(name).evaluate("button => button.getBoundingClientRect().right") <= right
    finally:
        chat.page.set_viewport_size({"width": 1280, "height": 900})


def test_names_and_roles_are_those_of_the_interface(chat):
    chat.ask("hello")
    for name in ("Send", "Regenerate", "Clear", "Edit", "Copy", "X-ray", "Export"):
        expect(chat.button(name).first).to_be_visible()
    expect(chat.message).to_be_visible()
    expect(chat.log).to_be_visible()
    expect(chat.root.get_by_role("meter", name="Context")).to_be_visible()
    chat.button("Clear").click()
    expect(chat.button("Undo")).to_be_visible()
    chat.button("Undo").click()
    chat.say("long")
    expect(chat.button("Stop")).to_be_visible()
    expect(chat.button("Send")).to_be_hidden()
    expect(chat.log).to_have_attribute("aria-busy", "true")
    chat.button("Stop").click()
    chat.wait()
    expect(chat.log).to_have_attribute("aria-busy", "false")
    expect(chat.status).to_contain_text("stopped")


def test_every_control_has_a_name(chat):
    """The stock controls of the settings too, when they are open."""
    chat.ask("hello")
    chat.page.get_by_text("Settings", exact=True).last.click()
    tree = chat.cell(1).locator(".jp-OutputArea").aria_snapshot()
    lines = [line.strip() for line in tree.splitlines()]
    roles = ("button", "textbox", "spinbutton", "slider", "meter", "article", "group")
    assert [line for line in lines if line.removeprefix("- ").rstrip(":") in roles] == [], tree


def test_all_of_it_can_be_done_by_keyboard(chat):
    chat.message.focus()
    chat.page.keyboard.type("hello")
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_have_text(["hello"])
    chat.wait()
    reached = set()
    chat.log.focus()
    for _ in range(20):
        chat.page.keyboard.press("Tab")
        reached.add(chat.page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
    assert {"Edit", "Copy", "X-ray", "Message", "Send", "Regenerate", "Export", "Clear"} <= reached
    chat.message.focus()
    chat.page.keyboard.type("a second")
    chat.page.keyboard.press("Tab")
    chat.page.keyboard.press("Space")
    expect(chat.answers).to_have_text(["hello", "a second"])

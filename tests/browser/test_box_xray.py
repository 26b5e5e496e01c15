"""X-ray: an answer as its tokens, their alternatives, and where those lead."""

import pytest
from fakes import DETOUR, MARGINS
from playwright.sync_api import expect

TEXT = "A bird sings in the tree."
NEARLY = 3  # the position at which the fake model is least sure: MARGINS by turns


@pytest.fixture
def tokens(chat):
    chat.ask(TEXT)
    chat.button("X-ray").click()
    group = chat.root.get_by_role("group", name="Tokens")
    expect(group).to_be_visible()
    return group.get_by_role("button")


def test_the_tokens_are_those_of_the_answer_with_their_probabilities(chat, tokens):
    shares = chat.kernel("[round(token.probability, 4) for token in box.conversation.messages[-1].tokens]")
    words = chat.kernel("[box.conversation.tok.decode([token.id]) for token in box.conversation.messages[-1].tokens]")
    assert "".join(words[:-1]) == TEXT, "the EOS token has no text"
    expect(tokens).to_have_count(len(words))
    names = tokens.evaluate_all("chips => chips.map(chip => chip.getAttribute('aria-label'))")
    assert all(word.strip() in name for word, name in zip(words, names, strict=True))
    assert f"{shares[NEARLY]:.0%}".replace("%", " %") in names[NEARLY]
    assert shares[NEARLY] == min(shares[: len(MARGINS)])
    colours = tokens.evaluate_all("chips => chips.map(chip => getComputedStyle(chip).backgroundColor)")
    assert len(set(colours[: len(MARGINS)])) == len(MARGINS), "each probability has its colour"


def test_it_goes_back_to_the_text(chat, tokens):
    chat.button("X-ray").click()
    expect(tokens).to_have_count(0)
    expect(chat.answers).to_be_visible()
    expect(chat.answers).to_have_text(TEXT)


def test_another_token_takes_the_answer_elsewhere(chat, tokens):
    tokens.nth(NEARLY).click()
    options = chat.root.get_by_role("group", name="Instead of").get_by_role("button")
    expect(options).to_have_count(5)
    options.filter(has_text="tea").click()
    expect(chat.answers).to_have_text("A bird sings tea" + DETOUR)
    chat.wait()
    assert chat.kernel("box.conversation.messages[-1].content") == "A bird sings tea" + DETOUR
    chat.button("Undo").click()
    expect(chat.answers).to_have_text(TEXT)


def test_by_keyboard_alone(chat, tokens):
    """From the message back to the tokens by Shift+Tab, along them by arrows, in and out of the alternatives."""
    chat.message.focus()
    for _ in range(12):
        chat.page.keyboard.press("Shift+Tab")
        if tokens.first.evaluate("chip => chip === document.activeElement"):
            break
    expect(tokens.first).to_be_focused()
    for _ in range(NEARLY):
        chat.page.keyboard.press("ArrowRight")
    expect(tokens.nth(NEARLY)).to_be_focused()
    chat.page.keyboard.press("Enter")
    options = chat.root.get_by_role("group", name="Instead of").get_by_role("button")
    expect(options.first).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(options).to_have_count(0)
    expect(tokens.nth(NEARLY)).to_be_focused()
    chat.page.keyboard.press("Enter")
    chat.page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_be_focused()
    chat.page.keyboard.press("Enter")
    chat.wait()
    expect(chat.answers).to_contain_text(DETOUR.strip())
    expect(chat.message).to_be_focused()

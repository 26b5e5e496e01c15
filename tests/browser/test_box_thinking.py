"""Thoughts in the chat box: folded beside the answer, and switched off in the settings."""

from fakes import WORDS
from playwright.sync_api import expect

BOX = "from fakes import thinking_conversation\n"
BOX += "box = ChatBox(thinking_conversation('Let me see. <b>Not</b> HTML.', rate=40))\nbox"
PROMPT = """box.conversation.prompt() == box.conversation.tok.apply_chat_template(
    [{"role": m.role, "content": m.answer, "reasoning_content": m.thought} for m in box.conversation.messages],
    add_generation_prompt=True, return_dict=True)["input_ids"]"""


def test_a_thought_is_folded_and_can_be_opened_and_switched_off(lab):
    lab.new_box(BOX)
    lab.ask("Hello")
    thought = lab.log.locator(".assistant details.thought")
    expect(thought.get_by_text("Let me see.")).to_be_hidden()
    expect(lab.answers.last).to_have_text(WORDS.replace("**", ""))
    thought.last.get_by_text("Thought", exact=True).click()
    expect(thought.last).to_have_attribute("open", "")
    expect(thought.get_by_text("Let me see. <b>Not</b> HTML.", exact=True)).to_be_visible()
    assert lab.kernel(PROMPT), "the history differs from that of the template"
    lab.page.get_by_role("button", name="Settings", exact=True).last.click()
    lab.page.get_by_label("Thinking").uncheck()
    lab.ask("And now?")
    expect(lab.answers.last).to_have_text(WORDS.replace("**", ""))
    expect(thought.last).to_be_hidden()
    assert lab.kernel("[bool(message.thought) for message in box.conversation.messages]") == [False, True, False, False]
    lab.guard.check()

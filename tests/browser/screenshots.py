"""Takes the README's pictures of the chat box, with the embedded model's own words: nox -s screenshots"""

import io

import pytest
from chat_page import ChatPage
from conftest import write_notebook
from PIL import Image
from playwright.sync_api import Locator

from helpers.settings import ROOT

IMAGES = ROOT / "images"
LIMIT = 200_000  # bytes; a README should open at once
pytestmark = pytest.mark.model
SETUP = """
from helpers import settings
from helpers.chat.conversation import Conversation
from helpers.chat.box import ChatBox

from helpers.load import load_model
model, tok, _ = load_model(settings.load())
"".join(Conversation(model, tok, max_new_tokens=8).say("Hello!"))  # a first answer is slower than all others"""
BOX = "box = ChatBox(Conversation(model, tok))\nbox"


@pytest.fixture
def chat(new_page, lab_server):
    write_notebook(lab_server.work / "pictures.ipynb", SETUP, BOX, "")
    page, guard = new_page(lab_server, viewport={"width": 1000, "height": 1000}, device_scale_factor=1.5)
    chat = ChatPage(page, guard, lab_server)
    chat.open("pictures.ipynb")
    chat.run_cell(0, SETUP)
    chat.new_box(BOX)
    return chat


def take(chat: ChatPage, name: str, of: Locator) -> None:
    """A picture of a part of the page, with 256 colours, which is enough for it."""
    chat.page.mouse.move(0, 0)
    taken = Image.open(io.BytesIO(of.screenshot(animations="disabled", caret="hide")))
    file = IMAGES / name
    file.parent.mkdir(exist_ok=True)
    taken.convert("RGB").quantize(256).save(file, optimize=True)
    assert file.stat().st_size < LIMIT
    print(f"{file.relative_to(ROOT)}: {taken.width} x {taken.height}, {file.stat().st_size / 1000:.0f} kB")


def test_take_the_pictures(chat):
    box = chat.cell(1).locator(".jp-OutputArea-output")
    chat.log.evaluate("log => log.style.height = '345px'")  # as a person would draw it to fit
    chat.ask("What is photosynthesis?")
    chat.button("X-ray").click()
    tokens = chat.root.get_by_role("group", name="Tokens").get_by_role("button")
    tokens.filter(has_text="energy").first.click()
    take(chat, "chat-xray.png", box)
    chat.button("X-ray").click()
    chat.ask("Give me three tips for a good night's sleep.")
    take(chat, "chat-light.png", box)
    chat.theme("JupyterLab Dark")
    take(chat, "chat-dark.png", box)
    chat.theme("JupyterLab Light")

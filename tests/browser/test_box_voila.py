"""The chat box as a page of its own, as `nox -s demo` shows it, with a fake and with the real model."""

import io
import re
import shutil
from urllib.parse import urlencode

import psutil
import pytest
from chat_page import Box
from conftest import BOX, SETUP, write_notebook
from PIL import Image
from playwright.sync_api import expect
from servers import voila

from helpers.settings import ROOT


def open_page(new_page, server, name, **query):
    page, guard = new_page(server)
    query = urlencode({"token": server.token} | query)
    # The rest comes when the cells have run.
    response = page.goto(f"{server.url}/voila/render/{name}?{query}", wait_until="commit")
    assert "frame-ancestors 'self'" in response.headers["content-security-policy"]
    box = Box(page)
    expect(box.message).to_be_visible(timeout=240_000)  # a model is loaded, on a machine that may be busy
    return page, guard, box


@pytest.fixture(scope="module")
def demo(new_page, voila_server):
    write_notebook(voila_server.work / "fake.ipynb", SETUP, "1 / 0\nprint(box)", BOX, "2 / 0")
    page, guard, box = open_page(new_page, voila_server, "fake.ipynb")
    yield page, box
    guard.check()


def test_it_streams_and_stops(demo):
    _, box = demo
    box.say("long")
    expect(box.answers).to_contain_text("word10")
    box.button("Stop").click()
    box.wait()
    expect(box.status).to_contain_text("stopped.")
    expect(box.answers).not_to_contain_text("word149")
    box.say("long")
    expect(box.answers).to_have_count(2)
    expect(box.answers.last).to_contain_text("word10")
    box.message.press("Escape")
    box.wait()
    expect(box.status).to_contain_text("stopped.")


def test_enter_sends_and_shift_enter_breaks_the_line(demo):
    page, box = demo
    box.message.click()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box.message).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(box.questions.last).to_have_text("one\ntwo")
    box.wait()


def test_a_reload_offers_the_last_conversation(demo):
    page, box = demo
    box.ask("keep this one")
    asked = box.questions.all_inner_texts()
    (name,) = [each for each in asked[:1]]
    page.reload(wait_until="commit")
    expect(page).to_have_title("Chat with a model on this computer")
    expect(box.message).to_be_visible(timeout=240_000)
    page.get_by_role("button", name="Continue: ").click()
    expect(box.questions).to_have_text(asked)
    box.ask("and on")


def test_a_picture_stands_there_at_once(new_page, voila_server):
    write_notebook(voila_server.work / "slow.ipynb", "import time\nbox = time.sleep(5)")
    page, guard = new_page(voila_server)
    page.goto(f"{voila_server.url}/voila/render/slow.ipynb?token={voila_server.token}", wait_until="commit")
    expect(page.locator("#loading .log")).to_be_visible()
    expect(page.get_by_text("The model is being loaded.")).to_be_visible()
    expect(page).to_have_title("Chat with a model on this computer")
    guard.check()


@pytest.mark.parametrize("width, height", [(1280, 720), (1920, 1080), (3840, 2160), (420, 800)])
def test_it_fills_each_screen_and_the_message_field_is_on_it(demo, width, height):
    page, box = demo
    try:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        field = box.message.bounding_box()
        assert height / 2 < field["y"] and field["y"] + field["height"] < height
        size = float(page.locator(".frame").evaluate("frame => getComputedStyle(frame).fontSize").removesuffix("px"))
        assert size >= 14 and size >= width / 140, "legible at a distance"
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})


def test_only_the_box_is_shown(demo):
    """The other cells would have failed."""
    page, box = demo
    expect(page.get_by_text("Error")).to_have_count(0)
    outputs = page.locator(".jp-OutputArea-output").filter(visible=True)
    expect(outputs).to_have_count(1)
    expect(outputs.get_by_role("log", name="Conversation")).to_be_visible()


@pytest.mark.weekly
def test_a_kernel_ends_after_its_page_and_not_before(new_page, tmp_path):
    assert "cull_idle_timeout" in (ROOT / "demo" / "voila.py").read_text(encoding="utf-8")
    # Shorter, but not shorter than a page takes to connect to its kernel.
    short = ["--MappingKernelManager.cull_idle_timeout=20", "--MappingKernelManager.cull_interval=2"]
    with voila(tmp_path, "--Voila.config_file_paths=demo", *short) as server:
        write_notebook(server.work / "fake.ipynb", SETUP, BOX)
        page, guard, box = open_page(new_page, server, "fake.ipynb")
        page.wait_for_timeout(30_000)
        box.ask("still here?")
        expect(box.answers).to_have_text(["still here?"])
        guard.check()
        family = psutil.Process().children(recursive=True)
        (started,) = [each for each in family if str(server.work) in each.cmdline()]
        kernels = [each for each in started.children(recursive=True) if "ipykernel_launcher" in each.cmdline()]
        page.context.close()  # as a crash of the browser does; a page that is closed ends its kernel itself
        assert len(kernels) == 1 and psutil.wait_procs(kernels, timeout=90)[1] == []


def test_on_a_dark_page_the_empty_part_of_the_context_is_dark(new_page, voila_server):
    write_notebook(voila_server.work / "dark.ipynb", SETUP, BOX)
    page, guard, box = open_page(new_page, voila_server, "dark.ipynb", theme="dark")
    box.ask("Hello")
    taken = Image.open(io.BytesIO(page.get_by_role("meter").screenshot())).convert("L")
    assert taken.getpixel((taken.width * 3 // 4, taken.height // 2)) < 64
    guard.check()


@pytest.mark.model
@pytest.mark.weekly
def test_page_07_with_the_real_model(new_page, voila_server):
    """The published page, the embedded model: it streams, stops, answers, and says what that cost."""
    shutil.copy(ROOT / "notebooks" / "07_chat.ipynb", voila_server.work)
    page, guard, box = open_page(new_page, voila_server, "07_chat.ipynb")
    box.ask("What is the opposite of hot?")
    expect(box.answers).to_contain_text("cold")
    expect(box.status).to_contain_text(re.compile(r"\d+ tokens · first token .* tokens/s"))
    box.say("Tell me a long story about a lighthouse.")
    expect(box.answers).to_have_count(2)
    expect(box.answers.last).to_have_text(re.compile(".{40}", re.DOTALL))
    box.button("Stop").click()
    box.wait()
    expect(box.status).to_contain_text(" cached)")
    box.button("X-ray").first.click()
    expect(box.root.get_by_role("group", name="Tokens").get_by_role("button").first).to_be_visible()
    guard.check()

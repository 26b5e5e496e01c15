"""The chat box when its kernel is busy, slow, interrupted, restarted or dead, and when its cell is run again."""

import os
import re
import signal
from contextlib import contextmanager

import pytest
from conftest import BOX, SETUP
from playwright.sync_api import expect


@contextmanager
def new_kernel(chat):
    """After the block, which ends the kernel, the page has a kernel that knows the first cell."""
    yield
    expect(chat.idle).to_be_visible(timeout=60_000)
    chat.run_cell(0, SETUP)


def assert_unlocked(chat, sentence: str, *texts: str) -> None:
    expect(chat.status).to_have_text(sentence)
    expect(chat.button("Stop")).to_be_hidden()
    expect(chat.message).to_be_editable()
    for text in texts:
        expect(chat.answers).to_contain_text(text)
    chat.say("hello?")
    expect(chat.status).to_have_text(sentence)
    expect(chat.message).to_have_value("hello?")
    chat.message.press("Escape")
    chat.button("Copy").last.click()
    expect(chat.status).to_have_text(re.compile("copied", re.IGNORECASE))


def test_after_a_restart_it_says_so_and_unlocks_its_controls(chat):
    chat.say("long")
    expect(chat.answers).to_contain_text("word5")
    with new_kernel(chat):
        chat.menu("Kernel", "Restart Kernel…")
        chat.page.locator(".jp-Dialog .jp-mod-accept").click()
        assert_unlocked(chat, "The kernel was restarted: run this cell again.", "The beginning stands.", "word5")
    chat.new_box(BOX)
    chat.ask("and now?")
    expect(chat.answers).to_have_text(["and now?"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_after_its_kernel_died_it_says_so(chat):
    chat.ask("one")
    with new_kernel(chat):
        os.kill(chat.kernel("__import__('os').getpid()"), signal.SIGKILL)
        chat.page.locator(".jp-Dialog .jp-mod-accept").click(timeout=60_000)
        assert_unlocked(chat, "The kernel was restarted: run this cell again.", "one")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
def test_a_slow_kernel_is_not_taken_for_a_busy_one(chat):
    process = chat.kernel("__import__('os').getpid()")
    expect(chat.idle).to_be_visible()  # or it would stop before it has said that it is
    os.kill(process, signal.SIGSTOP)
    try:
        chat.say("hello")
        expect(chat.status).to_have_text("The kernel has not replied yet; your message waits.")
        expect(chat.message).to_have_value("hello")
    finally:
        os.kill(process, signal.SIGCONT)
    expect(chat.answers).to_have_text(["hello"])
    chat.wait()
    expect(chat.message).to_have_value("")


def test_a_page_that_has_lost_an_update_asks_for_all_messages(chat):
    lose = "comm = box.widget.comm; comm.send = dict; box.submit('one'); box.wait(); del comm.send"
    chat.kernel(f"exec({lose!r})")
    chat.say("two")
    expect(chat.questions).to_have_text(["one", "two"])
    expect(chat.answers).to_have_text(["one", "two"])
    chat.wait()


def test_interrupting_the_kernel_stops_the_answer(chat):
    chat.say("long")
    expect(chat.answers).to_contain_text("word10")
    chat.menu("Kernel", "Interrupt Kernel")
    chat.wait()
    expect(chat.status).to_contain_text("stopped.")
    expect(chat.answers).not_to_contain_text("word149")
    chat.ask("go on")
    expect(chat.answers.last).to_have_text("go on")


def test_a_message_that_does_not_fit_comes_back_into_the_field(chat):
    chat.ask("one")
    chat.kernel("setattr(box.conversation, 'context_length', 60)")
    long = "far too long " * 30
    chat.say(long)
    expect(chat.status).to_contain_text("no older messages are left to remove")
    expect(chat.message).to_have_value(long.strip())
    expect(chat.questions).to_have_text(["one"])
    expect(chat.button("Send")).to_be_visible()


def test_a_cell_that_is_run_again_frees_its_box(chat):
    chat.ask("one")
    chat.run_cell(2, "import gc, weakref\nold = weakref.ref(box), weakref.ref(box.conversation)\n'noted'")
    expect(chat.cell(2)).to_contain_text("'noted'")
    chat.new_box(BOX)
    assert chat.kernel("gc.collect() >= 0 and old[1]() is None")
    chat.ask("two")
    expect(chat.answers).to_have_text(["two"])

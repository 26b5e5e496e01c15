"""helpers.chat.box and widget without a browser: requests come as a page sends them, and its traits are read."""

import copy
import gc
import json
import math
import re
import threading
import time
import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import DETOUR, WORDS, fake_conversation, thinking_conversation, token_ids, tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from ipywidgets.widgets.widget import _instances
from payloads import PAYLOADS
from strategies import ANY_JSON, Found

from helpers import catalog
from helpers import settings as project
from helpers.chat import box as box_module
from helpers.chat import conversation as conversation_module
from helpers.chat import markdown
from helpers.chat.box import CONTROLS, ChatBox
from helpers.chat.conversation import Conversation
from helpers.chat.messages import Message, stats_line
from helpers.chat.picture import to_html
from helpers.checkpoint.gguf import tokenizer_from_gguf
from helpers.errors import TutorialError
from helpers.generate import GeneratedToken
from helpers.generate.sampling import Sampling
from helpers.tokenize import prompt_ids

FOLDER = Path(box_module.__file__).parent
N_TOKENS = len(token_ids(WORDS)) + 1  # with the EOS token


class Page:
    """What a browser sees of a box, and does with it."""

    def __init__(self, box, monkeypatch):
        self.box, self.got, self.ids = box, [], count()
        monkeypatch.setattr(box.widget, "send", self.got.append)

    def ask(self, kind, **request):
        """Return the reply to a request; what else is sent meanwhile is in `got`."""
        request = {"type": kind, "id": str(next(self.ids)), **request}
        self.box.widget._handle_custom_msg(json.loads(json.dumps(request)), [])
        (reply,) = [sent for sent in self.got if sent.get("id") == request["id"]]
        return reply

    @property
    def drafts(self):
        return [sent["draft"] for sent in self.got if sent["type"] == "draft"]


@pytest.fixture
def box():
    box = ChatBox(fake_conversation(WORDS))
    yield box
    box.stop()
    box.conversation.model.go.release(10**4)
    assert box.wait(20)


@pytest.fixture
def page(box, monkeypatch):
    return Page(box, monkeypatch)


def hold(box, tokens=0):
    """Let the model generate that many tokens, and no more until it may `go`."""
    box.conversation.model.go = threading.Semaphore(tokens)


def go(box, tokens=10**6):
    box.conversation.model.go.release(tokens)


def reply_with(box, *parts):
    box.conversation.model.reply = lambda text: list(parts)


def say(box, text="Hello"):
    box.submit(text)
    assert box.wait(20)


def texts(box) -> list[str]:
    """Return what the page shows, which is what the conversation has."""
    shown = [message["text"] for message in box.widget.messages]
    assert shown == [message.content for message in box.conversation.messages]
    assert box.widget.truncated_messages == box.conversation.truncated_messages
    return shown


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("that never happened")


def test_an_answer_is_generated_and_shown(box):
    say(box, "Hello <b>")
    assert texts(box) == ["Hello <b>", WORDS]
    question, answer = box.widget.messages
    assert "html" not in question, "the browser shows it as text"
    stats = box.conversation.messages[1].stats
    assert answer["html"] == markdown.render(WORDS) and answer["xray"] and answer["stats"] == stats_line(stats)
    assert box.status == f"{stats_line(stats)}."
    assert box.widget.context == [stats.context_tokens, 8192] and not box.busy and box.error == ""


def test_an_update_brings_the_messages_from_the_first_new_one_on(box, monkeypatch):
    """And a page that puts them behind those that it has, shows what the kernel has, whatever happens."""
    shown, brought = [], []

    def receive(data, buffers=None):
        got = data.get("state", {}).get("messages")
        if isinstance(got, dict):
            assert got["from"] <= len(shown)
            brought.append(len(got["cards"]))
            got = shown[: got["from"]] + got["cards"]
        shown[:] = shown if got is None else json.loads(json.dumps(got))

    monkeypatch.setattr(box.widget.comm, "send", receive)

    def does(what, at_most):
        brought.clear()
        what()
        assert box.wait(20) and shown == box.widget.messages and sum(brought) <= at_most

    for turn in range(20):
        does(lambda turn=turn: box.submit(f"Turn {turn}"), 2)  # the question, then the answer
    does(box.regenerate, 1)
    does(box.undo, 2)
    does(lambda: box.edit(4, "Other"), 3)  # the question again, with the number of its versions
    does(lambda: box.switch(4, 1), 36)
    does(box.clear, 0)
    does(lambda: box.submit("New"), 2)
    shown.clear()
    box.widget.send_state()
    assert shown == box.widget.messages, "a new page, or one that has lost an update, gets all"


def test_a_page_gets_the_draft_as_a_whole_and_the_status(box, page, monkeypatch):
    monkeypatch.setattr(box_module, "MIN_INTERVAL", 0)
    monkeypatch.setattr(box_module, "MAX_INTERVAL", 0)
    hold(box)
    seen = []
    box.widget.observe(lambda change: seen.append((change.name, change.new)), ["status", "busy"])
    assert page.ask("submit", text="Hello") == {"type": "reply", "id": "0", "ok": True, "data": None}
    assert box.busy and box.widget.messages == [{"role": "user", "text": "Hello"}]
    for number in range(1, N_TOKENS):
        go(box, 1)
        wait_for(lambda number=number: len(page.drafts) == number)
    go(box)
    assert box.wait(20)
    drafts = [markdown.render(tokenizer().decode(token_ids(WORDS)[:n])) for n in range(1, N_TOKENS)]
    assert page.drafts == [{"number": 1, "html": html, "thought": ""} for html in drafts]
    assert [new for name, new in seen if name == "busy"] == [True, False]
    statuses = [new for name, new in seen if name == "status"]
    assert statuses == ["Prefill…", "Prefill: 0 of 20 tokens", "Generating…", box.status]


def test_a_page_that_comes_late_gets_the_draft(box, page):
    hold(box, 2)
    box.submit("Hello")
    wait_for(lambda: page.drafts)
    assert page.ask("draft")["data"]["html"].startswith("<p>One")
    box.stop()
    go(box)
    assert box.wait(20) and page.ask("draft")["data"] is None


def test_a_fast_model_does_not_flood_the_page(box, page):
    reply_with(box, "word " * 400)
    box.conversation.max_new_tokens = 4000
    started = time.monotonic()
    say(box)
    assert len(page.drafts) <= 2 + (time.monotonic() - started) / box_module.MIN_INTERVAL


def test_stop_keeps_the_text_so_far(box, page):
    hold(box, 2)
    box.submit("Hello")
    wait_for(lambda: page.drafts)
    assert page.ask("stop")["ok"]
    go(box)
    assert box.wait(20) and texts(box)[1].startswith("One") and len(texts(box)[1]) < 20
    assert box.status.endswith(" · stopped.") and box.error == ""
    say(box, "And now?")
    assert texts(box)[3] == WORDS


@pytest.fixture
def slow_prompt(box, monkeypatch):
    """Two events: set when a prompt is being made, and to let it be finished."""
    begun, go_on = threading.Event(), threading.Event()

    def make(*arguments, **options):
        begun.set()
        assert go_on.wait(20)
        return prompt_ids(*arguments, **options)

    monkeypatch.setattr(conversation_module, "prompt_ids", make)
    yield begun, go_on
    go_on.set()


def test_submit_returns_and_stop_works_while_the_prompt_is_made(box, page, slow_prompt):
    begun, go_on = slow_prompt
    assert page.ask("submit", text="Hello")["ok"]
    assert box.busy and box.widget.busy and begun.wait(20) and not go_on.is_set()
    assert page.ask("stop")["ok"]
    go_on.set()
    assert box.wait(20) and texts(box) == ["Hello", ""]
    assert box.conversation.messages[1].stats.finish_reason == "stopped" and box.error == ""


def test_a_message_that_does_not_fit_is_given_back(box, page):
    say(box)
    box.conversation.context_length, before = 60, box.conversation.messages
    long = "far too long " * 30
    for kind, request in [("submit", {"text": long}), ("edit", {"text": long, "number": 0})]:
        page.got.clear()
        assert page.ask(kind, **request)["ok"] and box.wait(20)
        assert box.conversation.messages == before and texts(box) == ["Hello", WORDS]
        assert "no older messages are left" in box.status and "Traceback" in box.error
        assert {"type": "refused", "text": long} in page.got
    box.conversation.context_length = 8
    page.got.clear()
    assert page.ask("regenerate")["ok"] and box.wait(20)
    assert not [sent for sent in page.got if sent["type"] == "refused"], "it is in the log"


def test_a_change_of_the_conversation_before_an_answer_begins_is_not_overwritten(box, page, slow_prompt):
    begun, go_on = slow_prompt
    box.submit("Hello")
    assert begun.wait(20)
    box.conversation.messages = [Message("user", "Mine"), Message("assistant", "Yes")]
    go_on.set()
    assert box.wait(20) and texts(box) == ["Mine", "Yes"] and "has changed since" in box.status


def test_stop_right_after_submit_is_not_lost(box):
    hold(box, 1)
    box.submit("Hello")
    box.stop()
    go(box)
    assert box.wait(20) and box.conversation.messages[-1].stats.finish_reason == "stopped"


@pytest.mark.parametrize("text", ["", "  \n", None, 7])
def test_an_empty_message_is_refused(box, page, text):
    with pytest.raises(TutorialError, match="empty"):
        box.submit(text)
    assert not page.ask("submit", text=text)["ok"], "so that the page keeps what was typed"
    assert "The message is empty" in box.status and texts(box) == [] and not box.busy


@pytest.mark.parametrize("error", [RuntimeError("the model\nwent away"), TutorialError("No numbers.", "Use f32.")])
def test_an_error_ends_the_answer_and_not_the_chat(box, page, error):
    reply_with(box, "Half", error)
    say(box)
    assert texts(box) == ["Hello", "Half"]
    assert str(error).replace("\n", " ") in box.status and "\n" not in box.status
    assert "Traceback" in box.error and type(error).__name__ in box.error
    assert box.widget.messages[1]["stats"].endswith("ended by an error")
    reply_with(box, WORDS)
    say(box, "Again")
    assert texts(box)[2:] == ["Again", WORDS] and box.error == "" and "went away" not in box.status


def test_one_answer_at_a_time(box, page):
    hold(box)
    box.submit("Hello")
    for attempt in (lambda: box.submit("Me too"), box.regenerate, box.clear, box.undo, box.refresh):
        with pytest.raises(TutorialError, match="being generated"):
            attempt()
    assert not page.ask("submit", text="Me too")["ok"] and not box.wait(0.01)
    go(box)
    assert box.wait(20) and texts(box) == ["Hello", WORDS]


NUMBER, TEXT = st.integers(-2, 5) | ANY_JSON, st.text(max_size=5) | ANY_JSON
FIELDS = {"text": TEXT, "number": NUMBER, "position": NUMBER, "token_id": NUMBER}
ACTIONS = {"submit": ["text"], "edit": ["number", "text"], "branch": ["number", "position", "token_id"]}
ACTIONS |= {"xray": ["number"]} | {name: [] for name in ("regenerate", "stop", "clear", "undo", "export", "draft")}
REQUESTS = st.sampled_from([*ACTIONS]).flatmap(
    lambda name: st.fixed_dictionaries({"type": st.just(name)} | {field: FIELDS[field] for field in ACTIONS[name]})
)
REQUESTS |= st.fixed_dictionaries({}, optional={"type": st.sampled_from([*ACTIONS]) | TEXT, "self": TEXT} | FIELDS)


@given(REQUESTS | ANY_JSON, TEXT)
@example(None, "1")
@example({"type": ["submit"]}, "1")
@example({"type": "__init__"}, "1")
@example({"type": "xray", "number": 1.0}, "1")
@example({"type": "xray", "number": math.nan}, "1")
@example({"type": "edit", "number": 0.0, "text": "x"}, "1")
@example({"type": "edit", "number": 10**300, "text": "x"}, "1")
@example({"type": "branch", "number": 1, "position": 0, "token_id": [[]]}, "1")
@example({"type": "branch", "number": True, "position": True, "token_id": 1e300}, "1")
def test_whatever_a_page_sends_is_answered(request, request_id):
    assert_answered(request, request_id)


@pytest.mark.parametrize("field", ["text", "number", "position", "token_id", "type", "id"])
def test_deeply_nested_requests_are_answered(field):  # hypothesis cannot print them
    for name, fields in ACTIONS.items():
        deep = json.loads("[" * 900 + "]" * 900)
        request = {"type": name, "id": "1"} | dict.fromkeys(fields, 0) | {field: deep}
        assert_answered(request, request["id"])


def assert_answered(request, request_id) -> None:
    box, got = ChatBox(fake_conversation("Yes.", max_new_tokens=3)), []
    say(box)
    box.widget.send = got.append
    box.widget._handle_custom_msg(request | {"id": request_id} if isinstance(request, dict) else request, [])
    (reply,) = [sent for sent in got if sent["type"] == "reply"]
    is_text = isinstance(request, dict) and isinstance(request_id, str)
    assert reply["id"] == (request_id if is_text else None) and (reply["ok"] or box.status)
    json.dumps(reply, allow_nan=False)
    assert box.wait(20)
    say(box, "And now?")
    assert texts(box)[-2:] == ["And now?", "Yes."]
    box.close()


def test_many_threads_that_submit_get_one_answer(box):
    hold(box)
    refused = []

    def submit():
        try:
            box.submit("Hello")
        except TutorialError as error:
            refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    go(box)
    assert box.wait(20) and len(refused) == 19 and len(texts(box)) == 2


def test_edit_and_undo(box, page):
    say(box, "first")
    say(box, "second")
    before = box.conversation.messages
    hold(box)
    assert page.ask("edit", number=0, text="other")["ok"]
    assert box.widget.messages == [{"role": "user", "text": "other"}] and not box.widget.can_undo
    go(box)
    assert box.wait(20) and texts(box) == ["other", WORDS] and box.widget.can_undo
    assert page.ask("undo")["ok"]
    assert box.conversation.messages == before and texts(box)[2] == "second"
    assert not box.widget.can_undo and not page.ask("undo")["ok"]
    for number in (1, 9):  # an answer, none
        assert not page.ask("edit", number=number, text="x")["ok"] and box.conversation.messages == before


def test_regenerate(box, page):
    with pytest.raises(TutorialError, match="no answer to regenerate"):
        box.regenerate()
    say(box)
    assert page.ask("regenerate")["ok"] and box.wait(20) and "The answer is the same" in box.status
    reply_with(box, "Different.")
    box.regenerate()
    assert box.wait(20) and texts(box) == ["Hello", "Different."] and "Same settings" not in box.status
    box.undo()
    assert texts(box)[1] == WORDS


def test_branch(box, page):
    say(box, "first")
    say(box, "second")
    tea = token_ids(" tea")[0]
    assert not page.ask("branch", number=1, position=2, token_id=tea + 1)["ok"] and "alternatives" in box.status
    assert page.ask("branch", number=1, position=2, token_id=tea)["ok"] and box.wait(20)
    assert texts(box) == ["first", "One two tea" + DETOUR] and box.widget.can_undo
    assert box.status.startswith(f"{len(token_ids(DETOUR)) + 1} tokens · ")


def test_clear_and_undo(box, page):
    box.conversation.context_length, box.conversation.max_new_tokens = 100, 10
    while box.conversation.truncated_messages == 0:
        say(box, "Tell me more.")
    n_messages, n_truncated = len(texts(box)), box.conversation.truncated_messages
    assert f"first {n_truncated} messages are no longer in the prompt" in box.status
    assert page.ask("clear")["ok"]
    assert texts(box) == [] and box.widget.context == [0, 100] and "Undo" in box.status
    assert page.ask("undo")["ok"] and len(texts(box)) == n_messages
    box.clear()
    say(box, "new")
    assert not box.widget.can_undo


def test_settings_reach_the_conversation(box):
    controls, conversation = box.settings, box.conversation
    controls.system.value, controls.temperature.value, controls.top_p.value = "Be brief.", 0.7, 0.9
    controls.repetition_penalty.value, controls.max_new_tokens.value, controls.seed.value = 1.1, 33, " 7 "
    assert (conversation.system, conversation.max_new_tokens) == ("Be brief.", 33)
    assert conversation.sampling == Sampling(0.7, top_p=0.9, repetition_penalty=1.1, seed=7)
    assert "next answer" in box.status
    controls.seed.value = 18 * "9"
    assert conversation.sampling.seed == 10**18 - 1
    controls.seed.value = " "
    assert conversation.sampling.seed is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", -1),
        ("top_p", 0),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("seed", "x"),
        ("seed", "²"),
        ("seed", "-1"),
        ("seed", 19 * "9"),
    ],
)
def test_invalid_settings_change_nothing(box, name, value):
    before, control = vars(box.conversation).copy(), getattr(box.settings, name)
    old = control.value
    control.value = value
    assert (
        box.status.startswith(f"{control.description} must be ") and f"{control.value.__class__(value)}" in box.status
    )
    assert vars(box.conversation) == before and control.value == old, "the field shows what is used"
    say(box)
    assert len(texts(box)) == 2


def test_settings_begin_as_the_conversation_has_them():
    sampling = Sampling(0.5, 40, 0.8, 1.2, 11)
    box = ChatBox(fake_conversation(system="Hi", sampling=sampling, max_new_tokens=3))
    settings = box.settings
    settings.top_p.value = 0.7
    assert box.conversation.sampling == replace(sampling, top_p=0.7), "top_k, which has no control, stays"
    assert (settings.system.value, settings.max_new_tokens.value, settings.seed.value) == ("Hi", 3, "11")
    assert settings.controls.layout.display == "none"
    settings.shown.value = True
    assert settings.controls.layout.display is None
    settings.shown.value = False
    assert settings.controls.layout.display == "none"


def test_each_setting_has_a_label_and_a_tooltip_and_applies_when_it_is_complete(box):
    for name, control in controls(box).items():
        assert control.description.lower().startswith(name.split("_")[0]) and control.tooltip
        assert name == "thinking" or not control.continuous_update, "not at half a number"
    assert box.settings.shown.description == "Settings" and box.settings.shown.tooltip


def controls(box) -> dict:
    return {name: getattr(box.settings, name) for name in CONTROLS}


def test_no_label_is_cut_off_and_no_control_is_wider_than_a_phone(box):
    for name, control in controls(box).items():
        for_name = em(control.style.description_width)
        assert for_name >= len(control.description) / 2, "an em is about two letters"
        assert control.layout.width == "auto" if name == "system" else for_name + 5 <= em(control.layout.width) <= 24
    assert box.settings.model.layout.width == "auto" and box.layout.width == "100%"


def em(width: str) -> float:
    return float(width.removesuffix("em"))


def test_an_arrow_key_changes_a_number_a_little(box):
    for name in ("temperature", "top_p", "repetition_penalty"):
        assert 0.01 <= controls(box)[name].step <= 0.1
    assert box.settings.max_new_tokens.step == 1


def test_only_a_new_value_is_reported(box):
    before = box.status
    for control in controls(box).values():
        control.disabled = True
    box.settings.shown.disabled = True
    assert box.status == before and box.settings.controls.layout.display == "none"
    box.settings.system.value = "Be brief."
    assert "next answer" in box.status


def test_a_setting_that_changes_during_an_answer_does_not_hide_the_progress(box, page):
    hold(box, 1)
    box.submit("Hello")
    wait_for(lambda: box.status == "Generating…")
    box.settings.max_new_tokens.value = 99
    assert box.status == "Generating…" and box.conversation.max_new_tokens == 99


def test_the_limit_may_be_one_token(box):
    box.settings.max_new_tokens.value = 1
    assert box.conversation.max_new_tokens == 1


def test_an_existing_conversation_is_shown():
    conversation = fake_conversation(WORDS)
    conversation.messages = [Message(role, role) for role in ("user", "assistant") * 2]
    conversation.truncated_messages = 2
    box = ChatBox(conversation)
    assert texts(box) == ["user", "assistant"] * 2 and box.widget.context == [0, 8192]
    assert [message.get("xray") for message in box.widget.messages] == [None, False, None, False]
    list(conversation.say("from code"))
    box.refresh()
    assert texts(box)[4:] == ["from code", WORDS]


def test_nothing_that_varies_is_in_the_repr(box):
    before = repr(box), repr(box.widget), repr(box.settings)
    say(box)
    assert (repr(box), repr(box.widget), repr(box.settings)) == before
    assert before == ("ChatBox()", "ChatWidget()", "AnswerSettings()")


def test_export(box, page):
    say(box, "Hello")
    assert page.ask("export")["data"] == box.export() == box.conversation.markdown()


def test_half_of_a_surrogate_pair_is_replaced(box, page):
    assert page.ask("submit", text="x \ud83d y \ud83e\udd16")["ok"] and box.wait(20)
    assert texts(box)[0] == "x \ufffd y \U0001f916"


def test_interrupting_the_wait_stops_the_answer(box, monkeypatch):
    hold(box)
    box.submit("Hello")

    def interrupted(timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(box._thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            box.wait()
    go(box)
    assert box.wait(20) and box.conversation.messages[-1].stats.finish_reason == "stopped"


def test_xray_has_each_token_with_its_probability_and_alternatives(tiny, monkeypatch):
    tok = tokenizer_from_gguf(tiny.gguf)
    letter, space, half = (tok(text, add_special_tokens=False)["input_ids"][0] for text in ("a", " ", "語"))
    tokens = [
        GeneratedToken(letter, 0.123456, ((letter, 0.123456), (half, 0.1)), 5.0),
        GeneratedToken(space, 1.0, (), 5.0, drafted=True),
        GeneratedToken(half, 0.00001, (), 5.0),
        GeneratedToken(tok.eos_token_id, 0.5, ((space, 0.6),), 5.0),
    ]
    conversation = fake_conversation()
    conversation.tok = tok
    conversation.messages = [Message("user", "?"), Message("assistant", "a …", tuple(tokens))]
    page = Page(ChatBox(conversation), monkeypatch)
    drawn = [
        {"id": letter, "text": "a", "kind": "text", "probability": 0.1235},
        {"id": space, "text": "␣", "kind": "text", "probability": 1.0},
        {"id": half, "text": "E8", "kind": "part", "probability": 0.0},
        {"id": tok.eos_token_id, "text": tok.eos_token, "kind": "control", "probability": 0.5},
    ]
    others = [[drawn[0], drawn[2] | {"probability": 0.1}], [], [], [drawn[1] | {"probability": 0.6}]]
    pairs = zip(drawn, others, strict=True)
    expected = [token | {"options": options, "drafted": token is drawn[1]} for token, options in pairs]
    assert page.ask("xray", number=1)["data"] == expected
    for number in (0, 2, -1):
        assert not page.ask("xray", number=number)["ok"] and "no tokens" in page.box.status


def freed(reference) -> bool:
    gc.collect()
    return reference() is None


def test_a_closed_box_is_freed_and_its_conversation_goes_on():
    widgets_before = set(_instances)
    box = ChatBox(conversation := fake_conversation(WORDS))
    say(box)
    died = weakref.ref(box)
    box.close()
    assert set(_instances) == widgets_before
    del box
    assert freed(died) and "".join(conversation.say("And now?")) == WORDS


@pytest.mark.parametrize("cell", ["the same", "a different one"])
def test_a_cell_that_is_run_again_replaces_its_boxes(monkeypatch, cell):
    """IPython's Out still has the old box, but no longer its conversation, hence neither cache nor model."""
    request = {"metadata": {"cellId": "the same"}, "header": {"msg_id": "run 1"}}
    monkeypatch.setattr(box_module, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: request))
    out = [ChatBox(fake_conversation(WORDS)), ChatBox(fake_conversation(WORDS))]
    died = weakref.ref(out[0].conversation)
    hold(out[0])
    out[0].submit("Hello")
    go_on, thread = out[0].conversation.model.go, out[0]._thread
    request = {"metadata": {"cellId": cell}, "header": {"msg_id": "run 2"}}
    new = ChatBox(fake_conversation(WORDS))
    go_on.release(100)
    thread.join(20)
    say(new)
    assert texts(new) == ["Hello", WORDS] and out[0].error == out[1].error == ""
    assert [box.comm is None for box in out] == [cell == "the same"] * 2 and freed(died) == (cell == "the same")


def test_an_interrupt_between_two_cells_stops_the_answers(monkeypatch):
    kernel = SimpleNamespace(saved_sigint_handler=None)
    monkeypatch.setattr(box_module, "get_ipython", lambda: SimpleNamespace(kernel=kernel, get_parent=dict))
    busy, idle = ChatBox(fake_conversation(WORDS)), ChatBox(fake_conversation(WORDS))
    hold(busy)
    busy.submit("Hello")
    kernel.saved_sigint_handler(2, None)
    busy.conversation.model.go.release(100)
    assert busy.wait(20) and busy.conversation.messages[-1].stats.finish_reason == "stopped"
    assert idle.conversation.messages == [] and idle.error == ""


def test_an_xray_of_probabilities_that_are_no_numbers_is_answered(box, page):
    box.settings.repetition_penalty.value = 1e-320  # makes logits infinite
    say(box)
    assert box.conversation.messages[1].tokens
    json.dumps(page.ask("xray", number=1), allow_nan=False)


def test_an_answer_in_progress_does_not_keep_the_program_alive(box):
    hold(box)
    before = set(threading.enumerate())
    box.submit("Hello")
    new = set(threading.enumerate()) - before
    assert new and all(thread.daemon for thread in new)


def test_a_request_is_handled_by_the_thread_that_gets_it(monkeypatch):
    comm = ChatBox(fake_conversation()).widget.comm
    monkeypatch.setattr(type(comm), "_reply_subshell_for", lambda *_: "a busy one", raising=False)
    comm = ChatBox(fake_conversation()).widget.comm
    assert comm._reply_subshell_for("data", "the first") == "the first"


def test_the_browsers_part_sets_html_in_one_place_and_loads_nothing():
    code = (FOLDER / "box.js").read_text(encoding="utf-8")
    assert code.count("innerHTML") == 1 and "template.innerHTML = html" in code
    assert not re.search(
        r"insertAdjacentHTML|outerHTML|document\.write|eval\(|Function\(|fetch\(|import[ (]|https?:", code
    )
    style = (FOLDER / "box.css").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", style)
    assert len(re.findall(r"\bmain\b|!important", style)) <= 1


def test_a_user_s_text_never_becomes_html(box):
    box.conversation.model.reply = lambda text: [text]
    for payload in PAYLOADS:
        box.conversation.clear()
        say(box, payload)
        question, answer = box.widget.messages
        assert "html" not in question and answer["html"] == markdown.render(answer["text"])


@pytest.mark.model
@pytest.mark.weekly
def test_the_embedded_model_in_the_box(embedded_lm, monkeypatch):
    box = ChatBox(Conversation(embedded_lm.exact, embedded_lm.tok, max_new_tokens=40))
    page = Page(box, monkeypatch)
    assert page.ask("submit", text="What is the capital of France?")["ok"] and box.wait(120)
    assert "Paris" in texts(box)[1]
    tokens = page.ask("xray", number=1)["data"]
    assert "".join(token["text"] for token in tokens if token["kind"] == "text").replace("␣", " ") == texts(box)[1]
    assert tokens[-1]["kind"] == "control" and all(0 <= token["probability"] <= 1 for token in tokens)
    assert all(len(token["options"]) == box.conversation.alternatives for token in tokens)
    other = tokens[1]["options"][1]
    assert page.ask("branch", number=1, position=1, token_id=other["id"])["ok"] and box.wait(120)
    assert texts(box)[1].startswith(tokens[0]["text"] + other["text"].replace("␣", " "))


def test_a_thought_is_apart_and_can_be_switched_off_where_the_template_can():
    assert ChatBox(fake_conversation(WORDS)).settings.thinking.layout.display == "none"
    box = ChatBox(thinking_conversation("Hm <b>"))
    say(box)
    card = box.widget.messages[-1]
    assert card["thought"] == "Hm <b>" and card["text"] == WORDS and "Hm" not in card["html"]
    assert box.settings.thinking.value is True
    box.settings.thinking.value = False
    assert box.conversation.thinking is False
    say(box)
    assert box.widget.messages[-1]["thought"] == "" and box.widget.messages[-1]["text"] == WORDS


def test_a_page_switches_between_versions(box, page):
    box.conversation.model.reply = lambda text: [text]
    say(box, "Hello")
    assert "versions" not in box.widget.messages[0]
    box.edit(0, "Other")
    assert box.wait(20) and box.versions(0) == (2, 2)
    assert box.widget.messages[0]["versions"] == [2, 2] and "versions" not in box.widget.messages[1]
    assert page.ask("switch", number=0, version=1)["ok"]
    assert texts(box) == ["Hello", "Hello"] and box.status == "Version 1 of 2."
    assert not page.ask("switch", number=0, version=3)["ok"] and "no version 3" in box.status


def test_an_answer_that_was_cut_is_continued(page):
    box = page.box
    box.settings.max_new_tokens.value = 3
    say(box)
    short = box.conversation.messages[-1]
    assert [card.get("cut") for card in box.widget.messages] == [None, True]
    assert page.ask("resume")["ok"] and box.wait(20)
    assert box.conversation.messages[-1].tokens[:3] == short.tokens and len(box.conversation.messages[-1].tokens) == 6
    box.settings.max_new_tokens.value = 99
    box.resume()
    assert box.wait(20) and texts(box)[-1] == WORDS and not box.widget.messages[-1]["cut"]
    assert box.versions(1) == (1, 1), "a beginning is no version"
    assert not page.ask("resume")["ok"] and "The last answer is complete." in box.status


def test_a_box_exports_markdown_and_json(page, tmp_path):
    say(page.box)
    assert page.ask("export")["data"] == page.ask("export", format="md")["data"] == page.box.conversation.markdown()
    (tmp_path / "x.json").write_text(page.ask("export", format="json")["data"], encoding="utf-8")
    other = fake_conversation()
    other.load(tmp_path / "x.json")
    assert other.messages == page.box.conversation.messages
    assert not page.ask("export", format="exe")["ok"]


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """A model root with two models, and a load_fast that returns fakes for them."""
    for name in ("one", "owner--two"):
        for format in ("int4", "int8", "checkpoint"):
            (tmp_path / name / format).mkdir(parents=True)
            (tmp_path / name / format / "config.json").touch()
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path))
    monkeypatch.setattr(project, "check", lambda settings: settings)
    tok = copy.deepcopy(tokenizer())
    tok.add_tokens(["<|of the second model|>"])

    def load(settings):
        if settings.model == "one":
            raise TutorialError("There is no export.", "Run it.")
        model = fake_conversation("Second answer.").model
        model.settings, model.config.max_position_embeddings = settings, 4096
        return model, tok, None

    monkeypatch.setattr(box_module, "load_fast", load)


def test_a_different_model_continues_the_conversation(two_models):
    box = ChatBox(fake_conversation(WORDS))
    assert box.about == box.widget.about == ""
    say(box)
    box.settings.shown.value = True
    names = [("one", "int4"), ("one", "int8"), ("owner/two", "int4"), ("owner/two", "int8")]
    assert box.settings.model.options == tuple((" · ".join(name), name) for name in names)
    box.settings.model.value = ("owner/two", "int8")
    assert box.wait(20) and not box.error
    assert box.widget.about == "owner/two · int8 · CPU" and box.settings.model.value == ("owner/two", "int8")
    cost = len(box.conversation.prompt())
    assert (
        box.status.startswith("Loaded owner/two · int8 in ")
        and f"prefills the whole conversation: {cost} tok" in box.status
    )
    assert texts(box) == ["Hello", WORDS] and not box.conversation.messages[1].tokens, "of a different tokenizer"
    assert box.conversation.context_length == 4096
    say(box)
    assert texts(box)[-1] == "Second answer." and box.conversation.messages[-1].stats.cached_tokens == 0
    box.use("owner/two")
    assert box.wait(20) and box.widget.about == "owner/two · int8 · CPU", "the format stays where the model has it"
    assert box.conversation.messages[-1].tokens, "the same tokenizer"


def test_the_models_that_are_offered_are_names_that_the_settings_take(tmp_path, monkeypatch):
    for folder in ("owner--two-ov/checkpoint", "owner--three/checkpoint", "mine-0123abcd/int4", "owner--three/int8"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").touch()
    (tmp_path / "owner--two-ov" / "checkpoint" / "openvino_model.xml").touch()
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path))
    box = ChatBox(fake_conversation(WORDS))
    box.settings.shown.value = True
    assert [value for _, value in box.settings.model.options] == [("owner/three", "int8"), ("owner/two-ov", "int4")]


def test_a_model_that_cannot_be_loaded_changes_nothing(two_models):
    box = ChatBox(fake_conversation(WORDS))
    say(box)
    model = box.conversation.model
    box.settings.shown.value = True
    box.settings.model.value = ("one", "int4")
    assert box.wait(20) and box.conversation.model is model and "There is no export" in box.status
    assert box.settings.model.value is None
    say(box)
    assert texts(box)[-1] == WORDS


def test_a_model_that_thinks_brings_the_switch_and_its_default(two_models, monkeypatch):
    thinks = thinking_conversation("Hm")
    monkeypatch.setattr(box_module, "load_fast", lambda settings: (thinks.model, thinks.tok, None))
    box = ChatBox(fake_conversation(WORDS))
    box.use("owner/two")
    assert box.wait(20) and box.settings.thinking.layout.display is None and box.settings.thinking.value
    box.settings.thinking.value = False
    assert box.conversation.thinking is False
    box.use("owner/two")
    assert box.wait(20) and box.settings.thinking.value is box.conversation.thinking is True


def test_a_cell_that_is_run_again_while_its_box_loads_a_model(two_models, monkeypatch):
    """The closed box has no conversation any more; the conversation gets the model."""
    box, go, load = ChatBox(fake_conversation(WORDS)), threading.Event(), box_module.load_fast
    monkeypatch.setattr(box_module, "load_fast", lambda settings: go.wait(20) and load(settings))
    raised, conversation = [], box.conversation
    monkeypatch.setattr(threading, "excepthook", raised.append)
    box.use("owner/two")
    box.conversation = box.settings.conversation = None
    go.set()
    assert box.wait(20) and not raised and not box.error
    assert conversation.model.settings.model == "owner/two"


def test_nothing_is_sent_while_a_model_is_loaded(two_models, monkeypatch):
    box, go, load = ChatBox(fake_conversation(WORDS)), threading.Event(), box_module.load_fast
    monkeypatch.setattr(box_module, "load_fast", lambda settings: go.wait(20) and load(settings))
    box.use("owner/two")
    assert box.widget.busy and box.widget.loading
    for request in (lambda: box.submit("Hello"), box.clear, lambda: box.use("owner/two")):
        with pytest.raises(TutorialError, match="model is being loaded"):
            request()
    go.set()
    assert box.wait(20) and not box.widget.loading
    say(box)
    assert texts(box)[-1] == "Second answer."


def test_no_model_is_chosen_while_an_answer_is_generated(two_models):
    box = ChatBox(fake_conversation(WORDS))
    hold(box, 1)
    box.submit("Hello")
    with pytest.raises(TutorialError, match="being generated"):
        box.use("owner/two")
    go(box)
    assert box.wait(20)


def test_an_empty_box_offers_questions_of_the_catalog(box):
    assert box.widget.starters == list(catalog.STARTERS) and len(catalog.STARTERS) == 3


def test_a_box_with_messages_has_a_picture_for_stored_outputs(box):
    assert "text/html" not in box._repr_mimebundle_()
    say(box, "<b>Hello</b>")
    bundle = box._repr_mimebundle_()
    assert {"text/plain", "application/vnd.jupyter.widget-view+json", "text/html"} <= set(bundle)
    words = re.split("(?:<[^>]*>)+", bundle["text/html"])
    assert words[:7] == ["", "Chat", "You", "&lt;b&gt;Hello&lt;/b&gt;", "Answer", "One two ", "three"]
    assert "<strong>three</strong>" in bundle["text/html"]
    for payload in PAYLOADS:
        html = to_html(payload, [Message("user", payload), Message("assistant", payload)])
        assert [
            found for found in Found(html).forbidden if found[1] != "style" and found[0] not in ("b", "small", "div")
        ] == []

"""helpers.chat_box without a browser: requests come as a page sends them, and what it would get is looked at."""

import json
import re
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from fakes import WORDS, FakeConversation
from payloads import PAYLOADS

from helpers.chat import box, markdown, widget
from helpers.chat.box import SAME_ANSWER_HINT, ChatBox
from helpers.chat.conversation import Conversation
from helpers.chat.messages import GenerationStats, Message
from helpers.checkpoint.gguf import tokenizer_from_gguf
from helpers.errors import TutorialError
from helpers.generate import GeneratedToken
from helpers.generate.sampling import GREEDY, Sampling

FOLDER = Path(box.__file__).parent


class Page:
    """What a browser sees of a box, and does with it."""

    def __init__(self, box, monkeypatch):
        self.box, self.got, self.ids = box, [], count()
        monkeypatch.setattr(box.transcript, "send", self.got.append)

    def ask(self, kind, **request):
        """The reply to a request; what else is sent meanwhile is in `got`."""
        request = {"type": kind, "id": str(next(self.ids)), **request}
        self.box.transcript._handle_custom_msg(json.loads(json.dumps(request)), [])
        (reply,) = [sent for sent in self.got if sent.get("id") == request["id"]]
        return reply

    @property
    def drafts(self):
        return [sent["draft"] for sent in self.got if sent["type"] == "draft"]


@pytest.fixture
def box():
    box = ChatBox(FakeConversation())
    yield box
    box.stop()
    assert box.wait(20)


@pytest.fixture
def page(box, monkeypatch):
    return Page(box, monkeypatch)


def say(box, text="Hello"):
    box.submit(text)
    assert box.wait(20)


def texts(box) -> list[str]:
    """What the page shows, which is what the conversation has."""
    shown = [message["text"] for message in box.transcript.messages]
    assert shown == [message.content for message in box.conversation.messages]
    assert box.transcript.truncated_messages == box.conversation.truncated_messages
    return shown


def waiting_for(box, condition):
    """The answer is half-written: run the thread until `condition` holds."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("that never happened")


def test_an_answer_is_written_and_shown(box):
    say(box, "Hello <b>")
    assert texts(box) == ["Hello <b>", "One two **three** four five."]
    question, answer = box.transcript.messages
    assert "html" not in question, "the browser shows it as text"
    assert answer["html"] == markdown.render(answer["text"])
    assert answer["xray"] is True and "5 tokens" in answer["figures"]
    assert box.status == (
        "5 tokens in 0.4 s: first word after 0.3 s, then 50 tokens per second. "
        "15 of 20 prompt tokens were still in memory."
    )
    assert box.transcript.context == [25, 100] and not box.busy and box.error == ""


def test_what_a_page_gets_while_an_answer_is_written(box, page, monkeypatch):
    monkeypatch.setattr(box, "PAUSE", 0)
    monkeypatch.setattr(box, "LONGEST", 0)
    box.conversation.go, seen = threading.Semaphore(0), []
    box.transcript.observe(lambda change: seen.append((change.name, change.new)), ["status", "busy"])
    assert page.ask("say", text="Hello") == {"type": "reply", "id": "0", "ok": True, "data": None}
    assert box.busy and box.transcript.messages == [{"role": "user", "text": "Hello"}]
    for number in range(len(WORDS)):
        box.conversation.go.release()
        waiting_for(box, lambda number=number: len(page.drafts) > number or not box.busy)
    assert box.wait(20)
    assert len(page.drafts) == len(WORDS)
    for number, draft in enumerate(page.drafts, 1):
        assert draft == {"number": 1, "html": markdown.render("".join(WORDS[:number]))}, "each has the whole of it"
    assert [new for name, new in seen if name == "busy"] == [True, False]
    assert [new for name, new in seen if name == "status"] == ["Reading…", "Writing…", box.status]


def test_a_page_that_comes_late_gets_what_there_is(box, page):
    box.conversation.go = threading.Semaphore(2)
    box.submit("Hello")
    waiting_for(box, lambda: page.drafts)
    assert page.ask("draft")["data"]["html"].startswith("<p>One")
    box.stop()
    box.conversation.go.release()
    assert box.wait(20) and page.ask("draft")["data"] is None


def test_a_fast_model_does_not_flood_the_page(box, page):
    box.conversation.words = ["word "] * 9_000
    started = time.monotonic()
    say(box)
    assert len(page.drafts) <= 2 + (time.monotonic() - started) / box.PAUSE


def test_a_long_prompt_is_told_while_it_is_read(box):
    conversation, seen = box.conversation, []
    conversation.prefill_progress, conversation.words, conversation.go = (
        (512, 2048),
        ["", *WORDS],
        threading.Semaphore(1),
    )
    box.transcript.observe(lambda change: seen.append(change.new), "status")
    box.submit("Hello")
    waiting_for(box, lambda: "Reading 512 of 2,048 tokens…" in seen)
    conversation.go.release(10)
    assert box.wait(20) and seen[:3] == ["Reading…", "Reading 512 of 2,048 tokens…", "Writing…"]


def test_stop_keeps_what_there_is(box, page):
    box.conversation.go = threading.Semaphore(2)
    box.submit("Hello")
    waiting_for(box, lambda: page.drafts)
    assert page.ask("stop")["ok"]
    box.conversation.go.release()
    assert box.wait(20) and texts(box)[1].startswith("One ") and len(texts(box)[1]) < 20
    assert box.status.endswith("Stopped.") and box.error == ""
    box.conversation.go.release(10)
    say(box, "And now?")
    assert texts(box)[3] == "".join(WORDS)


def test_stop_right_after_submit_is_not_lost(box):
    box.submit("Hello")
    box.stop()
    assert box.wait(20) and box.conversation.messages[-1].figures.finish_reason in ("stopped", "end token")


@pytest.mark.parametrize("text", ["", "  \n", None, 7])
def test_a_text_that_cannot_be_said(box, page, text):
    with pytest.raises(TutorialError, match="empty"):
        box.submit(text)
    assert not page.ask("say", text=text)["ok"], "so that the page keeps what was typed"
    assert "The message is empty" in box.status and texts(box) == [] and not box.busy


@pytest.mark.parametrize("error", [RuntimeError("the model\nwent away"), TutorialError("No numbers.", "Use f32.")])
def test_an_error_ends_the_answer_and_not_the_chat(box, page, error, caplog):
    box.conversation.words = ["Half ", error]
    say(box)
    assert texts(box) == ["Hello", "Half "]
    assert str(error).replace("\n", " ") in box.status and "\n" not in box.status
    assert "Traceback" in box.error and type(error).__name__ in box.error
    assert "broken off" in box.transcript.messages[1]["figures"]
    box.conversation.words = WORDS
    say(box, "Again")
    assert texts(box)[2:] == ["Again", "".join(WORDS)] and box.error == "" and "went away" not in box.status


def test_two_at_once_are_refused(box, page):
    box.conversation.go = threading.Semaphore(0)
    box.submit("Hello")
    ways = [
        box.submit,
        lambda _: box.regenerate(),
        lambda _: box.clear(),
        lambda _: box.undo(),
        lambda _: box.refresh(),
    ]
    for way in ways:
        with pytest.raises(TutorialError, match="being written"):
            way("Hello")
    assert not page.ask("say", text="Me too")["ok"] and not box.wait(0.01)
    box.conversation.go.release(100)
    assert box.wait(20) and texts(box) == ["Hello", "".join(WORDS)]


def test_many_threads_that_say_something_get_one_answer(box):
    box.conversation.go, refused = threading.Semaphore(0), []

    def one():
        try:
            box.submit("Hello")
        except TutorialError as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    box.conversation.go.release(100)
    assert box.wait(20) and len(refused) == 19 and len(texts(box)) == 2


def test_edit_and_undo(box, page):
    say(box, "first")
    say(box, "second")
    before = box.conversation.messages
    assert page.ask("edit", number=0, text="other")["ok"] and box.wait(20)
    assert texts(box) == ["other", "".join(WORDS)] and box.transcript.can_undo
    assert page.ask("undo")["ok"]
    assert box.conversation.messages == before and texts(box)[2] == "second"
    assert not box.transcript.can_undo and not page.ask("undo")["ok"]
    assert not page.ask("edit", number=1, text="an answer")["ok"]
    assert not page.ask("edit", number=9, text="none")["ok"] and box.conversation.messages == before


def test_what_was_edited_is_shown_at_once(box, page):
    say(box)
    box.conversation.go = threading.Semaphore(0)
    assert page.ask("edit", number="0", text="other")["ok"]
    assert box.transcript.messages == [{"role": "user", "text": "other"}] and not box.transcript.can_undo
    box.conversation.go.release(100)
    assert box.wait(20) and texts(box) == ["other", "".join(WORDS)]


def test_a_page_can_have_the_last_message_answered_again(box, page):
    for text in ("first", "second"):
        say(box, text)
    box.conversation.words = ["Another."]
    assert page.ask("regenerate")["ok"] and box.wait(20)
    assert texts(box) == ["first", "".join(WORDS), "second", "Another."] and box.transcript.can_undo


def test_regenerate_says_when_it_must_be_the_same(box):
    with pytest.raises(TutorialError, match="nothing to answer"):
        box.regenerate()
    say(box)
    for sampling, same in [(GREEDY, True), (Sampling(1.0), False), (Sampling(1.0, seed=3), True)]:
        box.conversation.sampling = sampling
        box.regenerate()
        assert box.wait(20) and len(texts(box)) == 2
        assert (SAME_ANSWER_HINT in box.status) == same
    box.conversation.words = ["Different."]
    box.regenerate()
    assert box.wait(20) and SAME_ANSWER_HINT not in box.status
    box.undo()
    assert texts(box)[1] == "".join(WORDS)


def test_branch(box, page):
    say(box, "first")
    say(box, "second")
    assert not page.ask("branch", number=1, position=2, token=98)["ok"] and "not among the likeliest" in box.status
    assert page.ask("branch", number=1, position=2, token=99)["ok"] and box.wait(20)
    assert texts(box) == ["first", "kept kept kept " + "".join(WORDS)]
    assert box.status.startswith("5 new tokens in") and box.transcript.can_undo


def test_clear_and_undo(box, page):
    say(box)
    box.conversation.truncated_messages = 2
    assert page.ask("clear")["ok"]
    assert texts(box) == [] and box.transcript.context == [0, 100] and "Undo" in box.status
    assert page.ask("clear")["ok"], "of nothing"
    assert page.ask("undo")["ok"] and len(texts(box)) == 2 and box.conversation.truncated_messages == 2
    box.clear()
    say(box, "new")
    assert not box.transcript.can_undo


def test_the_end_of_the_context_is_told(box):
    say(box)
    box.conversation.forget, box.conversation.finish_reason = 2, "context"
    say(box, "More")
    assert len(texts(box)) == 4 and box.transcript.truncated_messages == 2
    assert box.status.endswith("The context is full: the model no longer sees the first 2 messages.")


def test_settings_reach_the_conversation(box):
    controls, conversation = box.settings, box.conversation
    controls.system.value, controls.temperature.value, controls.top_p.value = "Be brief.", 0.7, 0.9
    controls.repetition_penalty.value, controls.length.value, controls.seed.value = 1.1, 33, " 7 "
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
        ("length", 0),
        ("length", -1),
        ("seed", "x"),
        ("seed", "²"),
        ("seed", "-1"),
        ("seed", 19 * "9"),
    ],
)
def test_settings_without_a_meaning_change_nothing(box, name, value):
    before = vars(box.conversation).copy()
    getattr(box.settings, name).value = value
    assert box.status.startswith("Not taken over.") and vars(box.conversation) == before
    say(box)
    assert len(texts(box)) == 2


def test_settings_begin_as_the_conversation_has_them():
    sampling = Sampling(0.5, 40, 0.8, 1.2, 11)
    settings = ChatBox(FakeConversation(system="Hi", sampling=sampling, max_new_tokens=3)).settings
    assert settings._sampling() == sampling, "top_k, which has no control, stays"
    assert (settings.system.value, settings.length.value, settings.seed.value) == ("Hi", 3, "11")
    assert settings.controls.layout.display == "none"
    settings.shown.value = True
    assert settings.controls.layout.display is None
    settings.shown.value = False
    assert settings.controls.layout.display == "none"


def test_each_setting_has_a_name_and_a_tip_and_is_taken_when_it_is_whole(box):
    for name, control in controls(box).items():
        assert control.description.lower().startswith(name.split("_")[0]) and control.tooltip
        assert not control.continuous_update, "not half a number"
    assert box.settings.shown.description == "Settings" and box.settings.shown.tooltip


def controls(box) -> dict:
    names = ("system", "temperature", "top_p", "repetition_penalty", "length", "seed")
    return {name: getattr(box.settings, name) for name in names}


def test_no_setting_s_name_is_cut_off_and_no_box_is_wider_than_a_phone(box):
    for name, control in controls(box).items():
        for_name = em(control.style.description_width)
        assert for_name >= len(control.description) / 2, "an em is about two letters"
        assert control.layout.width == "auto" if name == "system" else for_name + 5 <= em(control.layout.width) <= 24
    assert box.layout.max_width.endswith("px")


def em(width: str) -> float:
    return float(width.removesuffix("em"))


def test_an_arrow_moves_a_number_a_little(box):
    for name in ("temperature", "top_p", "repetition_penalty"):
        assert 0.01 <= controls(box)[name].step <= 0.1
    assert box.settings.length.step == 1


def test_only_a_new_value_of_a_setting_is_told(box):
    before = box.status
    for control in controls(box).values():
        control.disabled = True
    box.settings.shown.disabled = True
    assert box.status == before and box.settings.controls.layout.display == "none"
    box.settings.system.value = "Be brief."
    assert "next answer" in box.status


def test_a_setting_that_changes_while_an_answer_is_written_holds_and_does_not_hide_how_far_it_is(box, page):
    box.conversation.go = threading.Semaphore(1)
    box.submit("Hello")
    waiting_for(box, lambda: box.status == "Writing…")
    box.settings.length.value = 99
    assert box.status == "Writing…" and box.conversation.max_new_tokens == 99
    box.conversation.go.release(10)


def test_one_token_is_an_answer(box):
    box.settings.length.value = 1
    assert box.conversation.max_new_tokens == 1


def test_a_conversation_that_is_there_is_drawn():
    conversation = FakeConversation(truncated_messages=2)
    conversation.messages = [
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
    ]
    box = ChatBox(conversation)
    assert texts(box) == ["a", "b", "c", "d"] and box.transcript.context == [0, 100]
    assert [message.get("xray") for message in box.transcript.messages] == [None, False, None, False]
    list(conversation.say("from code"))
    box.refresh()
    assert texts(box)[4] == "from code"


def test_nothing_that_varies_is_in_the_repr(box):
    before = repr(box), repr(box.transcript), repr(box.settings)
    say(box)
    assert (repr(box), repr(box.transcript), repr(box.settings)) == before
    assert before == ("ChatBox()", "Transcript()", "AnswerSettings()")


def test_export(box, page):
    say(box, "Hello")
    assert page.ask("export")["data"] == box.export() == box.conversation.markdown()


def test_a_half_of_a_pair_from_a_browser_harms_nothing(box, page):
    assert page.ask("say", text="x \ud83d y \ud83e\udd16")["ok"] and box.wait(20)
    assert texts(box)[0] == "x \ufffd y \U0001f916"


def test_interrupting_the_wait_stops_the_answer(box, monkeypatch):
    box.conversation.go = threading.Semaphore(0)
    box.submit("Hello")

    def interrupted(timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(box._thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            box.wait()
    box.conversation.go.release()
    assert box.wait(20) and box.conversation.messages[-1].figures.finish_reason == "stopped"


COST = GenerationStats(1234, 1000, 12, 250.0, 20.0, 4096, "end token")


@pytest.mark.parametrize(
    "change, kept, numbers, words",
    [
        ({}, 0, ["12", "0.5", "0.2", "50", "1,000", "1,234"], "12 tokens in"),
        ({}, 2, ["10", "0.4", "0.2", "50", "1,000", "1,234"], "10 new tokens in"),
        ({"cached_tokens": 0}, 0, ["12", "0.5", "0.2", "50"], "12 tokens in"),
        ({"cached_tokens": 1}, 0, ["12", "0.5", "0.2", "50", "1", "1,234"], "12 tokens in"),
        ({"answer_tokens": 1, "tpot_ms": None, "cached_tokens": 0}, 0, ["1", "0.2"], "1 token after"),
        ({"answer_tokens": 3, "tpot_ms": None, "cached_tokens": 0}, 2, ["1", "0.2"], "1 new token after"),
        ({"answer_tokens": 0, "ttft_ms": None, "tpot_ms": None, "cached_tokens": 0}, 0, [], "Nothing was written."),
        ({"answer_tokens": 2, "ttft_ms": None, "tpot_ms": None}, 2, ["1,000", "1,234"], "Nothing was written."),
        ({"end": "budget"}, 0, ["12", "0.5", "0.2", "50", "1,000", "1,234", "12"], "budget of 12 new tokens"),
        ({"end": "context"}, 0, ["12", "0.5", "0.2", "50", "1,000", "1,234"], "The context is full."),
        ({"end": "stopped"}, 0, ["12", "0.5", "0.2", "50", "1,000", "1,234"], "Stopped."),
        ({"ttft_ms": 0.0, "tpot_ms": 0.0}, 0, ["12", "0.00", "0.00", "1,000,000", "1,000", "1,234"], "12 tokens in"),
    ],
)
def test_figures_in_words(change, kept, numbers, words):
    said = widget.stats_sentence(replace(COST, **change), kept)
    assert re.findall(r"[0-9]+(?:[.,][0-9]+)*", said) == numbers and words in said
    assert said.endswith(".") and all(end in said for end in re.findall("Stopped|full|budget", words))
    assert ("Stopped" in said, "full" in said) == (words == "Stopped.", "full" in words)


@pytest.mark.parametrize(
    "change, parts",
    [
        ({}, ["12 tokens", "first word after 0.2 s", "50 tokens per second"]),
        ({"answer_tokens": 1, "tpot_ms": None}, ["1 token", "first word after 0.2 s"]),
        ({"answer_tokens": 0, "ttft_ms": None, "tpot_ms": None}, ["0 tokens"]),
        ({"answer_tokens": 1000, "ttft_ms": 0.0}, ["1,000 tokens", "first word after 0.00 s", "50 tokens per second"]),
        ({"end": "stopped"}, ["12 tokens", "first word after 0.2 s", "50 tokens per second", "stopped"]),
        ({"end": "error"}, ["12 tokens", "first word after 0.2 s", "50 tokens per second", "broken off by an error"]),
    ],
)
def test_figures_in_short(change, parts):
    assert widget.stats_line(replace(COST, **change)).split(" · ") == parts
    assert widget.stats_line(None) == ""


@pytest.mark.parametrize(
    "ttft, shown", [(4, "0.00 s"), (95.04, "0.10 s"), (99, "0.10 s"), (100, "0.1 s"), (3e6, "3000.0 s")]
)
def test_short_times_have_a_digit_more(ttft, shown):
    assert widget.stats_line(replace(COST, ttft_ms=ttft)).split(" · ")[1] == f"first word after {shown}"


@pytest.mark.parametrize("tpot, shown", [(20, "50"), (100, "10"), (101, "9.9"), (2000, "0.5"), (0.5, "2,000")])
def test_slow_rates_have_a_digit_more(tpot, shown):
    assert widget.stats_line(replace(COST, tpot_ms=tpot)).split(" · ")[2] == f"{shown} tokens per second"


def test_each_token_is_shown_with_its_share_and_what_else_was_likely(tiny, monkeypatch):
    tok = tokenizer_from_gguf(tiny.gguf)
    letter, space, half = (tok(text, add_special_tokens=False)["input_ids"][0] for text in ("a", " ", "語"))
    steps = [
        GeneratedToken(letter, 0.123456, ((letter, 0.123456), (half, 0.1)), 5.0),
        GeneratedToken(space, 1.0, (), 5.0),
        GeneratedToken(half, 0.00001, (), 5.0),
        GeneratedToken(tok.eos_token_id, 0.5, ((space, 0.6),), 5.0),
    ]
    conversation = FakeConversation(
        tok=tok, messages=[Message("user", "?"), Message("assistant", "a …", tuple(steps), COST)]
    )
    page = Page(ChatBox(conversation), monkeypatch)
    drawn = [
        {"id": letter, "text": "a", "kind": "text", "probability": 0.1235},
        {"id": space, "text": "␣", "kind": "text", "probability": 1.0},
        {"id": half, "text": "E8", "kind": "part", "probability": 0.0},
        {"id": tok.eos_token_id, "text": tok.eos_token, "kind": "control", "probability": 0.5},
    ]
    others = [[drawn[0], drawn[2] | {"probability": 0.1}], [], [], [drawn[1] | {"probability": 0.6}]]
    tokens = page.ask("xray", number="1")["data"]
    assert tokens == [token | {"options": options} for token, options in zip(drawn, others, strict=True)]
    for number in (0, 2, -1):
        assert not page.ask("xray", number=number)["ok"] and "no tokens" in page.box.status


def test_no_answer_that_does_not_end_keeps_the_program_alive(box):
    before = set(threading.enumerate())
    box.conversation.go = threading.Semaphore(0)
    box.submit("Hello")
    new = set(threading.enumerate()) - before
    assert new and all(thread.daemon for thread in new)
    box.conversation.go.release(10)


def test_a_button_is_obeyed_by_the_thread_that_it_reaches_first(monkeypatch):
    comm = ChatBox(FakeConversation()).transcript.comm
    monkeypatch.setattr(type(comm), "_reply_subshell_for", lambda *_: "a busy one", raising=False)
    comm = ChatBox(FakeConversation()).transcript.comm
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


def test_a_persons_text_never_becomes_html(box):
    for payload in PAYLOADS:
        box.conversation.words = [payload]
        say(box, payload)
    for message in box.transcript.messages:
        assert ("html" in message) == (message["role"] == "assistant")
        assert message.get("html") in (None, markdown.render(message["text"]))


@pytest.mark.model
@pytest.mark.parametrize("lm", ["embedded"], indirect=True)
def test_the_embedded_model_in_the_box(lm, monkeypatch):
    box = ChatBox(Conversation(lm.exact, lm.tok, max_new_tokens=40))
    page = Page(box, monkeypatch)
    assert page.ask("say", text="What is the capital of France?")["ok"] and box.wait(120)
    assert "Paris" in texts(box)[1] and box.transcript.context[0] == box.conversation.messages[1].figures.context_tokens
    tokens = page.ask("xray", number=1)["data"]
    assert "".join(token["text"] for token in tokens if token["kind"] == "text").replace("␣", " ") == texts(box)[1]
    assert tokens[-1]["kind"] == "control" and all(0 <= token["probability"] <= 1 for token in tokens)
    assert all(len(token["options"]) == box.conversation.alternatives for token in tokens)
    other = tokens[1]["options"][1]
    assert page.ask("branch", number=1, position=1, token=other["id"])["ok"] and box.wait(120)
    assert texts(box)[1].startswith(tokens[0]["text"] + other["text"].replace("␣", " "))
    box.undo()
    box.regenerate()
    assert box.wait(120) and box.status.endswith(SAME_ANSWER_HINT)
    assert not page.ask("xray", number=0)["ok"]

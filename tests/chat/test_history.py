"""helpers.chat.history: conversations are kept while they grow, under names that are data."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fakes import WORDS, fake_conversation, token_ids

from helpers.chat import history as history_module
from helpers.chat.box import ChatBox
from helpers.chat.history import History, safe_name
from helpers.chat.messages import load_conversation
from helpers.errors import TutorialError
from helpers.settings import ROOT


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "entretiens 会話"


def kept(folder, *parts, **settings):
    """Return a conversation that is kept in `folder`."""
    conversation = fake_conversation(*parts, **settings)
    conversation.history = History(folder)
    return conversation


def contents(folder, name):
    tok = fake_conversation().tok
    return [message.content for message in load_conversation(folder / f"{name}.json", tok)[2]]


def names(folder):
    return [entry.name for entry in History(folder).entries()]


def test_the_folder_may_be_in_the_home(monkeypatch):
    monkeypatch.setenv("TUTORIAL_CONVERSATIONS", "~/conversations")
    assert History().folder == Path.home() / "conversations"


def test_a_conversation_is_kept_as_it_grows(folder):
    conversation = kept(folder, WORDS)
    assert names(folder) == [] and not folder.exists(), "nothing is written before the first message"
    list(conversation.say("What is it?\nTell me."))
    list(conversation.say("And now?"))
    (name,) = names(folder)
    assert name == "What is it Tell me" == conversation.history.name
    assert contents(folder, name) == ["What is it?\nTell me.", WORDS, "And now?", WORDS]


def test_the_newest_conversation_is_the_first(folder):
    for number, text in enumerate(["One", "Two", "Three"]):
        conversation = kept(folder, WORDS)
        list(conversation.say(text))
        os.utime(folder / f"{conversation.history.name}.json", (number, number))
    assert names(folder) == ["Three", "Two", "One"]


def test_all_versions_are_kept(folder):
    conversation = kept(folder)
    list(conversation.say("Hello"))
    list(conversation.edit(0, "Other"))
    conversation.switch(0, 1)
    opened = kept(folder)
    opened.open("Hello")
    assert opened.versions(0) == (1, 2) and opened.messages == conversation.messages


def test_an_answer_in_progress_is_kept_as_stopped(folder, monkeypatch):
    monkeypatch.setattr(history_module, "INTERVAL", 0)
    conversation = kept(folder, WORDS)
    list(conversation.say("Hello"))
    answer = iter(conversation.say("More " * 20))
    assert next(answer) == "", "a long prompt is prefilled"
    last = load_conversation(folder / "Hello.json", conversation.tok)[2][-1]
    assert (last.content, last.stats.finish_reason) == ("", "stopped")
    assert next(answer) and next(answer)
    conversation.history.due = 0
    next(answer)
    last = load_conversation(folder / "Hello.json", conversation.tok)[2][-1]
    assert WORDS.startswith(last.content) and last.content and last.stats.finish_reason == "stopped"


def test_after_a_kill_the_finished_turns_and_the_half_answer_are_there(folder):
    program = """
        import os, signal, sys
        sys.path[:0] = sys.argv[2:]
        from fakes import WORDS, fake_conversation
        from helpers.chat import history
        history.INTERVAL = 0
        conversation = fake_conversation(WORDS)
        conversation.history = history.History(sys.argv[1])
        list(conversation.say("Hello"))
        conversation.model.reply = lambda text: ["One two ", lambda: os.kill(os.getpid(), 9), "three"]
        list(conversation.say("More"))
        """
    paths = [str(ROOT), str(ROOT / "tests")]
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder), *paths]
    assert subprocess.run(command, cwd=ROOT).returncode != 0
    conversation = kept(folder)
    conversation.open("Hello")
    assert [message.content for message in conversation.messages][:3] == ["Hello", WORDS, "More"]
    last = conversation.messages[3]
    assert "One two".startswith(last.content) and last.stats.finish_reason == "stopped"


def test_writes_take_a_small_part_of_the_time(folder, monkeypatch):
    writes, write = [], History.write
    monkeypatch.setattr(History, "write", lambda self, *rest: writes.append(rest) or write(self, *rest))
    list(kept(folder, "word " * 300, max_new_tokens=400).say("Hello"))
    assert len(writes) == 2, "at the start and at the end of a short answer"


DAMAGED = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"version": 2',
    b'{"version": 2, "tokenizer": "',
    b"\xff\xfe",
    b'{"version": 3, "x": 1}',
    b"[" * 1000,
    b'"\ud800"',
]


@pytest.mark.parametrize("content", DAMAGED, ids=str)
def test_a_damaged_file_is_named_and_does_not_end_the_list(folder, content):
    list(kept(folder, WORDS).say("Hello"))
    (folder / "broken.json").write_bytes(content)
    found = {entry.name: entry.damaged for entry in History(folder).entries()}
    assert found == {"Hello": False, "broken": True}
    with pytest.raises(TutorialError, match=r"broken\.json"):
        kept(folder).open("broken")


@pytest.mark.parametrize("table", [{"version": 2, "messages": 7}, {"version": 2, "tokenizer": [], "system": None}])
def test_a_file_whose_damage_lies_inside_is_refused_when_it_is_opened(folder, table):
    conversation = kept(folder, WORDS)
    list(conversation.say("Hello"))
    before = conversation.messages
    (folder / "broken.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(TutorialError, match=r"broken\.json"):
        conversation.open("broken")
    assert conversation.messages is before and conversation.history.name == "Hello"


@pytest.mark.parametrize(
    "text, name",
    [
        ("../../etc/passwd", "etc passwd"),
        ("C:\\temp\\x", "C temp x"),
        ("con", "con_"),
        ("NUL.txt", "NUL.txt_"),
        ("com1", "com1_"),
        ("\x1b[2J\x00\u202etxt", "[2J txt"),
        ("<img onerror>", "img onerror"),
        ("...", "conversation"),
        ("", "conversation"),
        ("a" * 5000, "a" * 50),
        ("日本語の質問 👩‍🚀", "日本語の質問 👩 🚀"),
    ],
)
def test_a_name_is_one_on_every_system(text, name):
    assert safe_name(text) == name


def test_two_conversations_that_begin_alike_have_two_files(folder):
    for _ in range(3):
        list(kept(folder, WORDS).say("Hello"))
    assert sorted(names(folder)) == ["Hello", "Hello 2", "Hello 3"]


def test_two_programs_with_the_same_conversation_overwrite_nothing(folder):
    first = kept(folder, WORDS)
    list(first.say("Hello"))
    second = kept(folder, WORDS)
    second.open("Hello")
    list(second.say("Second"))
    list(first.say("First"))
    assert contents(folder, "Hello")[2] == "Second" and contents(folder, "Hello 2")[2] == "First"


@pytest.mark.parametrize("name", ["../secret", "", None, 7, ["x"], "C:\\x", "\0", "nothing"])
@pytest.mark.parametrize("verb", ["path", "delete", "rename"])
def test_only_names_of_the_list_are_used(folder, name, verb):
    list(kept(folder, WORDS).say("Hello"))
    (folder.parent / "secret.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TutorialError, match="no kept conversation"):
        getattr(History(folder), verb)(name, *(["x"] if verb == "rename" else []))
    assert (folder.parent / "secret.json").exists()


def test_a_renamed_conversation_grows_under_its_new_name(folder):
    conversation = kept(folder, WORDS)
    list(conversation.say("Hello"))
    assert conversation.history.rename("Hello", "My/own") == "My own"
    list(conversation.say("More"))
    assert names(folder) == ["My own"] and len(contents(folder, "My own")) == 4


def test_a_name_that_exists_is_not_taken(folder):
    for text in ("One", "Two"):
        list(kept(folder, WORDS).say(text))
    assert History(folder).rename("One", "Two") == "Two 2"
    assert contents(folder, "Two")[0] == "Two" and contents(folder, "Two 2")[0] == "One"


def test_a_deleted_conversation_is_kept_again_when_it_grows(folder):
    conversation = kept(folder, WORDS)
    list(conversation.say("Hello"))
    conversation.history.delete("Hello")
    assert names(folder) == []
    list(conversation.say("More"))
    assert len(contents(folder, "Hello")) == 4


def test_clear_begins_a_new_conversation_and_undo_returns_to_the_old_one(folder):
    conversation = kept(folder, WORDS)
    list(conversation.say("One"))
    conversation.clear()
    conversation.undo()
    list(conversation.say("More"))
    assert names(folder) == ["One"]
    conversation.clear()
    list(conversation.say("Two"))
    assert sorted(names(folder)) == ["One", "Two"] and len(contents(folder, "One")) == 4


def test_a_folder_that_cannot_be_written_to_ends_no_answer(read_only):
    conversation = kept(read_only / "conversations", WORDS)
    answer = conversation.say("Hello")
    assert "".join(answer) == WORDS
    (sentence,) = answer.warnings()
    assert sentence.startswith("This conversation is not kept on disk.")


def test_a_file_in_place_of_the_folder_ends_no_answer(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    conversation = kept(tmp_path / "taken", WORDS)
    answer = conversation.say("Hello")
    assert "".join(answer) == WORDS and "not kept" in answer.warnings()[0]
    assert conversation.history.entries() == []


def test_a_new_box_offers_the_last_conversation(folder, monkeypatch):
    monkeypatch.setenv(history_module.VARIABLE, str(folder))
    first = ChatBox(fake_conversation(WORDS))
    assert first.widget.last == ""
    first.settings.system.value = "Answer in rhyme."
    first.submit("Hello")
    assert first.wait(20)
    (folder / "broken.json").write_text("", encoding="utf-8")
    second = ChatBox(fake_conversation(WORDS))
    assert second.widget.last == "Hello"
    second.open(second.widget.last)
    assert [card["text"] for card in second.widget.messages] == ["Hello", WORDS]
    assert second.widget.last == "", "it is open"
    assert second.settings.system.value == second.conversation.system == "Answer in rhyme."
    assert second.conversation.messages[1].tokens[0].id == token_ids(WORDS)[0]


def test_a_box_lists_renames_and_deletes(folder, monkeypatch):
    monkeypatch.setenv(history_module.VARIABLE, str(folder))
    box = ChatBox(fake_conversation(WORDS))
    box.submit("Hello")
    assert box.wait(20)
    (entry,) = box.conversations()
    assert (entry["name"], entry["current"], entry["damaged"]) == ("Hello", True, False)
    assert [each["name"] for each in box.rename("Hello", "Mine")] == ["Mine"]
    assert box.delete("Mine") == [] and box.widget.last == ""


def test_a_box_that_keeps_nothing_writes_nothing(folder, monkeypatch):
    monkeypatch.setenv(history_module.VARIABLE, str(folder))
    box = ChatBox(fake_conversation(WORDS), keep=False)
    box.submit("Hello")
    assert box.wait(20) and not folder.exists()


@pytest.mark.parametrize("fields", [{"name": None}, {}, {"name": "../secret"}, {"name": ["x"]}])
def test_a_page_opens_only_what_is_in_the_list(folder, monkeypatch, fields):
    monkeypatch.setenv(history_module.VARIABLE, str(folder))
    box, sent = ChatBox(fake_conversation(WORDS)), []
    monkeypatch.setattr(box.widget, "send", sent.append)
    box.widget._handle_custom_msg({"type": "open", "id": "1"} | fields, [])
    assert [reply["ok"] for reply in sent] == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="the name of a file is always text there")
def test_a_name_that_is_not_text_is_listed_as_damaged(folder):
    list(kept(folder, WORDS).say("Hello"))
    (folder / "Hello.json").rename(folder / "caf\udce9.json")
    (entry,) = History(folder).entries()
    assert entry.damaged and entry.name == "caf?"


def test_a_full_disk_ends_no_answer(folder, monkeypatch):
    def write_text(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_text)
    conversation = kept(folder, WORDS)
    answer = conversation.say("Hello")
    assert "".join(answer) == WORDS and "The disk filled up" in answer.warnings()[0]
    monkeypatch.undo()
    list(answer := conversation.say("More"))
    assert answer.warnings() == [] and len(contents(folder, "Hello")) == 4, (
        "all of it is kept when there is space again"
    )

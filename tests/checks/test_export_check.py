"""helpers.export_check: a sound export passes with distance, each damaged one fails by its name; circles are seen."""

import inspect
import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import EMBEDDED

from helpers import export, generate
from helpers.chat import terminal
from helpers.chat.box import ChatBox
from helpers.chat.degenerate import describe_degeneration
from helpers.checks import export_check
from helpers.checks.export_check import ANSWERS_FILE, check
from helpers.settings import Settings

pytestmark = pytest.mark.model
EVERY = ["tokenizer", "checkpoint", "cache", "device"]


def place(root: Path, *names: str, reference: Path | None = None) -> Settings:
    """Settings for a model root that has these folders of the embedded model, and a reference."""
    home = root / EMBEDDED.name
    home.mkdir()
    for name in names:
        shutil.copytree(EMBEDDED / name, home / name)
    if reference:
        shutil.copy(reference, home / ANSWERS_FILE)
    return Settings(model_root=str(root))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(settings, findings) of the embedded int4 beside its checkpoint."""
    settings = place(tmp_path_factory.mktemp("sound"), "checkpoint", "int4")
    return settings, check(settings)


@pytest.fixture
def lone(sound, tmp_path):
    """The same export without its checkpoint, but with what that said."""
    return place(tmp_path, "int4", reference=sound[0].checkpoint_dir.with_name(ANSWERS_FILE))


def states(findings) -> dict[str, str]:
    return {finding.topic: finding.state for finding in findings}


def kept(findings, topic) -> float:
    return next(finding.kept for finding in findings if finding.topic == topic)


def test_a_sound_export_passes_with_distance(sound):
    _, found = sound
    assert states(found) == dict.fromkeys(EVERY, "ok")
    assert kept(found, "checkpoint") > 0.75 and kept(found, "cache") > 0.85
    assert not any(finding.hint for finding in found)


@pytest.mark.slow
def test_int8_keeps_more_than_int4(sound):
    settings, found = sound
    eight = replace(settings, format="int8")
    export.run(export.command(eight), report=lambda _: None)
    assert kept(check(eight), "checkpoint") > max(0.9, kept(found, "checkpoint"))


def test_what_the_checkpoint_said_is_as_good_as_the_checkpoint(sound, lone):
    settings, found = sound
    again = check(lone)
    assert states(again) == states(found)
    assert kept(again, "checkpoint") == pytest.approx(kept(found, "checkpoint"), abs=1e-3)


@pytest.mark.parametrize("written", [None, "", "[]", "{}", '{"revision": "0.1.2"}', "old"])
def test_without_either_the_comparison_is_left_out_and_that_is_said(lone, written):
    file = lone.checkpoint_dir.with_name(ANSWERS_FILE)
    kept = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    if written is not None:
        file.write_text(json.dumps(kept | {"revision": "0.1"}) if written == "old" else written, encoding="utf-8")
    answers, why = export_check._reference(lone)
    assert (answers, why) == ([], "Left out: the checkpoint is not on this disk.")


def test_without_memory_the_checkpoint_is_not_read(sound, monkeypatch):
    settings, _ = sound
    little = psutil.virtual_memory()._replace(available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    monkeypatch.setattr(export_check, "checkpoint_answers", lambda folder: pytest.fail("it was read"))
    answers, why = export_check._reference(settings)
    assert len(answers) == len(export_check.QUESTIONS) and why == ""
    settings.checkpoint_dir.with_name(ANSWERS_FILE).rename(settings.checkpoint_dir.with_name("kept"))
    _, why = export_check._reference(settings)
    settings.checkpoint_dir.with_name("kept").rename(settings.checkpoint_dir.with_name(ANSWERS_FILE))
    assert why == "Left out: the checkpoint takes 1.3 GiB of memory, and 1.0 are free."


@pytest.mark.slow
def test_an_export_alone_is_compared_with_itself(lone):
    lone.checkpoint_dir.with_name(ANSWERS_FILE).unlink()
    assert states(check(replace(lone, device="AUTO"))) == dict.fromkeys(EVERY, "ok") | {"checkpoint": "note"}


def find_damaged(folder: Path, part: str, how: str) -> None:
    """Zero, shuffle or spoil the weights of `part` in an export."""
    data = np.fromfile(folder / "openvino_model.bin", dtype=np.uint8)
    touched = 0
    for constant in ET.parse(folder / "openvino_model.xml").iter("layer"):
        if constant.get("type") == "Const" and part in constant.get("name"):
            about = constant.find("data").attrib
            here = data[int(about["offset"]) :][: int(about["size"])]
            if about["element_type"] == "f16" and how in ("zero", "nan"):  # the scales
                here[:] = np.frombuffer(np.full(len(here) // 2, 0 if how == "zero" else np.nan, np.float16), np.uint8)
                touched += 1
            elif about["element_type"] in ("i4", "i8", "u4", "u8") and how == "shuffle":
                np.random.default_rng(0).shuffle(here)
                touched += 1
    assert touched
    data.tofile(folder / "openvino_model.bin")


@pytest.mark.parametrize(
    ("part", "how", "topic"),
    [
        ("layers.10.", "zero", "checkpoint"),  # one of 30 layers does nothing
        ("layers.10.mlp.down_proj", "shuffle", "checkpoint"),
        ("layers.25.self_attn", "shuffle", "checkpoint"),
        ("layers.10.mlp.down_proj", "nan", "scores"),
    ],
)
def test_damaged_weights_are_seen(lone, part, how, topic):
    find_damaged(lone.model_dir, part, how)
    found = check(lone)
    assert states(found)[topic] == "problem" and states(found)["tokenizer"] == "ok"
    (finding,) = [finding for finding in found if finding.topic == topic]
    assert finding.hint.startswith("Delete the folder") and str(lone.model_dir) in finding.hint


def test_a_tokenizer_that_splits_wrongly_is_seen(lone):
    """What AutoTokenizer(gguf_file=…) saves: every space is an unknown token, and no error is raised."""
    file = lone.model_dir / "tokenizer.json"
    recipe = json.loads(file.read_text(encoding="utf-8"))
    recipe["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    file.write_text(json.dumps(recipe), encoding="utf-8")
    found = check(lone)
    assert states(found) == dict.fromkeys(EVERY, "ok") | {"tokenizer": "problem"}
    assert found[0].message.startswith("It makes ")


@pytest.mark.slow
def test_a_tokenizer_that_splits_words_in_another_way_is_seen(lone):
    """It reads back what it wrote, but the model was taught other ids."""
    file = lone.model_dir / "tokenizer.json"
    recipe = json.loads(file.read_text(encoding="utf-8"))
    del recipe["model"]["merges"][1000:]
    file.write_text(json.dumps(recipe), encoding="utf-8")
    assert [finding.message for finding in check(lone) if finding.state == "problem"] == [
        "It makes other ids of a question than the checkpoint's."
    ]


@pytest.mark.slow
def test_a_cache_that_loses_a_token_is_seen(lone, monkeypatch):
    class Forgetful(generate.PromptCache):
        def logits(self, ids):
            return super().logits(ids[:-2] + ids[-1:])

    monkeypatch.setattr(export_check, "PromptCache", Forgetful)
    assert states(check(lone)) == dict.fromkeys(EVERY, "ok") | {"cache": "problem"}


@pytest.mark.slow
def test_the_command_says_it_with_code_1(lone, start):
    find_damaged(lone.model_dir, "layers.10.", "zero")
    process = start("-m", "helpers", "check", TUTORIAL_MODEL=EMBEDDED.name, TUTORIAL_MODEL_ROOT=lone.model_root)
    out, errors = process.communicate()
    assert process.returncode == 1 and "Traceback" not in errors
    assert "problem  checkpoint        It keeps " in out and "→ Delete the folder" in out


# The same on the tiny model of the tests, of which checkpoint and export are at hand.


@pytest.fixture
def small(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's checkpoint and export."""
    choice = replace(settings, model_root=str(tmp_path))
    for folder in (settings.checkpoint_dir, exported.folder):
        shutil.copytree(folder, choice.checkpoint_dir.with_name(folder.name))
    return choice


@pytest.fixture(scope="module")
def said(checkpoint):
    """What the tiny model's checkpoint answers."""
    return export_check.checkpoint_answers(checkpoint)


def note(choice: Settings, answers, /, **other) -> None:
    """Write what the checkpoint said, as check() does."""
    key = {"revision": choice.spec.revision, "questions": list(export_check.QUESTIONS), "tokens": export_check.TOKENS}
    table = {**key, "answers": [asdict(answer) for answer in answers], **other}
    choice.checkpoint_dir.with_name(ANSWERS_FILE).write_text(json.dumps(table), encoding="utf-8")


def test_a_sound_export_is_found_so_with_its_checkpoint_and_then_with_what_that_said(small, said, monkeypatch):
    first = check(small)
    assert states(first) == dict.fromkeys(EVERY, "ok") and not any(finding.hint for finding in first)
    assert 0.9 < kept(first, "checkpoint") <= 1 and 0.9 < kept(first, "cache") <= 1
    assert "first choice at 48 of 48 tokens" in first[1].message
    monkeypatch.setattr(export_check, "checkpoint_answers", lambda folder: pytest.fail("it was asked again"))
    shutil.rmtree(small.checkpoint_dir)
    again = check(replace(small, device="AUTO"))
    assert states(again) == states(first) and kept(again, "checkpoint") == kept(first, "checkpoint")
    assert kept(again, "device") == pytest.approx(1) and "AUTO" in again[-1].message
    small.checkpoint_dir.with_name(ANSWERS_FILE).unlink()
    alone = check(small)
    assert states(alone) == states(first) | {"checkpoint": "note"}
    assert next(finding.message for finding in alone if finding.state == "note").startswith("Left out")
    assert all(finding.hint for finding in alone if finding.state == "note")


@pytest.mark.parametrize("more, state, share", [(2, "problem", np.exp(-2)), (-2, "ok", 1)])
def test_what_a_token_loses_is_told_and_what_it_gains_is_no_fault(small, said, more, state, share):
    shutil.rmtree(small.checkpoint_dir)
    note(small, [replace(answer, logs=[log + more for log in answer.logs]) for answer in said])
    found = check(small)
    assert states(found) == dict.fromkeys(EVERY, "ok") | {"checkpoint": state}
    assert kept(found, "checkpoint") == pytest.approx(share, rel=0.02)
    if state == "problem":
        assert str(small.model_dir) in found[1].hint and "int8" in found[1].hint


def test_scores_that_are_not_numbers_end_the_check_with_a_problem(small, said):
    shutil.rmtree(small.checkpoint_dir)
    find_damaged(small.model_dir, "layers.1.mlp.down_proj", "nan")
    for reference in (True, False):  # then its own answers cannot be had either
        note(small, said, **({} if reference else {"revision": "another"}))
        found = check(small)
        assert states(found) == {"tokenizer": "ok", "scores": "problem"}
        assert str(small.model_dir) in found[-1].hint


@pytest.mark.parametrize("drift", [2, -2])
@pytest.mark.parametrize("topic", ["cache", "device"])
def test_what_differs_between_two_ways_of_use_is_a_problem_either_way(small, said, monkeypatch, topic, drift):
    shutil.rmtree(small.checkpoint_dir)
    note(small, said)
    logs = np.concatenate([answer.logs for answer in said])
    on_cpu = logs + drift * (topic == "device")
    monkeypatch.setattr(
        export_check, "_through", lambda _, device, __: (on_cpu if device == "CPU" else logs, np.ones(len(logs), bool))
    )
    read = iter(answer.logs for answer in said)
    monkeypatch.setattr(
        export_check, "incremental_logprobs", lambda *_: np.array(next(read)) + drift * (topic == "cache")
    )
    found = check(replace(small, device="AUTO"))
    (finding,) = [finding for finding in found if finding.topic == topic]
    assert states(found) == dict.fromkeys(EVERY, "ok") | {topic: "problem"}
    assert finding.kept == pytest.approx(np.exp(-2)) and finding.hint


def test_the_checkpoint_s_answers_are_transformers_greedy_ones_and_their_logs_its_loss(checkpoint):
    import torch
    from loaded import theirs
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tok = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    said = export_check.checkpoint_answers(checkpoint)
    assert len(said) == len(export_check.QUESTIONS)
    for question, answer in zip(export_check.QUESTIONS, said, strict=True):
        messages = [{"role": "user", "content": question}]
        assert answer.prompt == tok.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert answer.ids == theirs(model, answer.prompt, export_check.TOKENS, do_sample=False)
        ids = torch.tensor([answer.prompt + answer.ids])
        labels = torch.tensor([[-100] * len(answer.prompt) + answer.ids])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=labels).loss)
        assert np.mean(answer.logs) == pytest.approx(-loss, rel=1e-3)
        logs, same = export_check.teacher_forced_logprobs(model, answer)
        assert np.allclose(logs, answer.logs) and same.all()
        other = replace(answer, ids=[*answer.ids[:3], 5, *answer.ids[4:]])
        assert export_check.teacher_forced_logprobs(model, other)[1][:5].tolist()[:4] == [True, True, True, False]


def test_token_by_token_the_logs_are_those_of_one_reading(exported, said):
    from loaded import load

    from helpers.metrics.quality import ANSWERS_FILE

    model = load(exported.folder, **ANSWERS_FILE)
    for answer in said:
        teacher_forced_logprobs, _ = export_check.teacher_forced_logprobs(model, answer)
        assert (
            teacher_forced_logprobs.shape == (export_check.TOKENS,) and len(set(teacher_forced_logprobs.tolist())) > 1
        )
        assert np.allclose(export_check.incremental_logprobs(model, answer), teacher_forced_logprobs, atol=1e-3)


@pytest.mark.parametrize(
    "lost, least, state, share",
    [
        (0, 1, "ok", "100%"),
        (np.log(2), 0.5, "ok", "50%"),
        (np.log(2), 0.51, "problem", "50%"),
        (10, 0.7, "problem", "0%"),
        (np.nan, 0.7, "problem", "nan%"),
    ],
)
def test_what_is_kept_is_judged_by_the_least_that_is_sound(lost, least, state, share):
    found = export_check._judge("it", lost, least, "words", "Do that.")
    assert (found.topic, found.state, found.hint) == ("it", state, "Do that." if state == "problem" else "")
    assert f"keeps {share} of" in found.message and f"{least:.0%} is sound" in found.message
    assert found.kept == pytest.approx(np.exp(-lost), nan_ok=True)


@pytest.mark.parametrize(
    "other",
    [{"revision": "0.1"}, {"questions": []}, {"tokens": 17}, {"answers": None}, {"answers": [{"ids": [1]}]}],
    ids=str,
)
def test_what_another_checkpoint_said_or_to_other_questions_is_not_taken(small, said, other):
    shutil.rmtree(small.checkpoint_dir)
    note(small, said)
    assert export_check._reference(small) == (said, "")
    note(small, said, **other)
    assert export_check._reference(small) == ([], "Left out: the checkpoint is not on this disk.")


def test_the_checkpoint_is_asked_where_there_is_memory_and_its_words_are_noted_where_they_can_be(
    small, said, monkeypatch
):
    reference = small.checkpoint_dir.with_name(ANSWERS_FILE)
    monkeypatch.setattr(
        export_check, "checkpoint_answers", lambda folder: said if folder == small.checkpoint_dir else None
    )
    free = psutil.virtual_memory()
    need = 1 + small.spec.checkpoint_gib
    for spare, asked in ((1, True), (-1, False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda s=spare: free._replace(available=need * 2**30 + s * 2**20))
        answers, why = export_check._reference(small)
        assert (answers == said, why == "", reference.exists()) == (asked, asked, asked)
        assert why == "" or "takes 1.3 GiB of memory, and 1.3 are free" in why
        reference.unlink(missing_ok=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=2**40))
    reference.mkdir()  # nothing can be written there
    assert export_check._reference(small) == (said, "")


def test_a_tokenizer_that_loses_spaces_or_gives_other_ids_is_told(exported, said):
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(exported.folder)
    prompts = [answer.prompt for answer in said]
    assert export_check._tokenizer(tok, prompts, said, "again").state == "ok"
    assert export_check._tokenizer(tok, prompts, [], "again").state == "ok", "nothing to compare its ids with"
    other = export_check._tokenizer(tok, [prompt[:-1] for prompt in prompts], said, "again")
    assert (other.topic, other.state, other.hint) == ("tokenizer", "problem", "again") and "other ids" in other.message
    recipe = json.loads(tok.backend_tokenizer.to_str())
    recipe["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    tok._tokenizer = type(tok._tokenizer).from_str(json.dumps(recipe))
    lost = export_check._tokenizer(tok, prompts, said, "again")
    assert (lost.topic, lost.state, lost.hint) == ("tokenizer", "problem", "again") and lost.message.startswith(
        "It makes"
    )


# Circles


@pytest.fixture(scope="module")
def tok():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EMBEDDED / "int4")


def judged(tok, text: str) -> str | None:
    return describe_degeneration(text, tok(text, add_special_tokens=False)["input_ids"])


REFRAIN = "\nRow, row, row your boat,\nmerrily, merrily, merrily, merrily,\nlife is but a dream, a dream, a dream.\n"
POEM = REFRAIN.join(
    ["The sea, the sea, the open sea,", "It sings, it sings, it sings to me,", "and night by night"] * 2
)
TABLE = "| city | people |\n|------|--------|\n" + "".join(f"| no. {n} | {n * 977 % 1000},000 |\n" for n in range(40))
LISTS = "\n".join(f"{n}. Item {n} of the list" for n in range(1, 60)) + "\n- [ ] to do" * 8
MATRIX = "[\n" + "    [0, 0, 0, 0, 0, 0, 0, 0],\n" * 3 + "]\n" + "=" * 79 + "\n" + "ha " * 12
"""Texts that repeat much, as people do."""


@pytest.mark.parametrize(
    "text", [POEM, TABLE, LISTS, MATRIX, "", "Yes.", "日本" * 20, "Ġ is how GPT-2 writes a space."]
)
def test_what_people_write_is_not_called_circles(tok, text):
    assert judged(tok, text) is None


def test_nothing_in_python_s_own_files_is(tok):
    import argparse
    import decimal
    import this
    import turtle
    from pydoc_data import topics

    for module in (this, argparse, decimal, turtle, topics):
        source = inspect.getsource(module)[:40_000]
        for start in range(0, len(source), 3000):  # about a thousand tokens
            assert judged(tok, source[start : start + 3000]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I am happy to help you.\n" * 12, "the same 8 tokens 12 times in a row"),
        ("A story. " + "no " * 80, "the same token 80 times"),
        ("\n" * 400, "in circles"),
        ("Ġhello Ġhow Ġare Ġyou Ġtoday Ġmy Ġfriend Ġand Ġso Ġon", "the tokenizer fails"),
        ("\ufffd" * 9, "no text (9 marks such as \ufffd)"),
        ("a <unk> <unk> <unk> b <unk> <unk> <unk> <unk> <unk>", "the tokenizer fails"),
    ],
)
def test_circles_and_broken_text_are_named(tok, text, words):
    assert words in judged(tok, text)
    assert "python -m helpers check" in judged(tok, text)


@given(
    length=st.integers(1, 205),
    more=st.integers(-2, 2),
    before=st.integers(0, 50),
    after=st.integers(0, 50),
)
def test_a_circle_is_what_goes_on_for_64_tokens_and_twice_its_length(length, more, before, after):
    """Whatever stands before and behind it; longer circles than 200 are not looked for."""
    again = max(64, 2 * length) + more  # how many tokens are those of one turn before
    once, others = list(range(length)), list(range(1000, 2000))
    ids = others[:before] + (once * (2 + again))[: length + again] + others[before : before + after]
    words = describe_degeneration("", ids)
    assert (words is not None) == (more >= 0 and length <= 200)
    if words:
        assert f"{1 + again // length} times in a row" in words
        assert ("the same token" if length == 1 else f"the same {length} tokens") in words


def test_two_short_circles_are_not_a_long_one():
    assert describe_degeneration("", [1] * 60 + [2] * 60) is None
    assert describe_degeneration("", [1] * 60 + [2] * 65) is not None


@pytest.mark.parametrize(
    "marks, others, broken", [(8, 231, True), (8, 232, False), (7, 0, False), (9, 260, True), (9, 261, False)]
)
def test_text_is_broken_by_eight_marks_that_are_more_than_a_thirtieth_of_it(marks, others, broken):
    words = describe_degeneration("\ufffd" * marks + "a" * others, [])
    assert (words is not None) == broken
    assert words is None or f"{marks} marks such as \ufffd" in words


def test_the_box_and_the_terminal_say_it_below_the_answer(capsys):
    from fakes import FakeConversation

    box = ChatBox(FakeConversation(words=["\ufffd"] * 9))
    box.submit("Hello")
    assert box.wait(20) and "the tokenizer fails" in box.status
    conversation = FakeConversation(words=["\ufffd"] * 9)
    terminal._answer(conversation, conversation.say("Hello"))
    out, errors = capsys.readouterr()
    assert out == "\ufffd" * 9 + "\n" and errors.rstrip().splitlines()[-1].startswith("[Much of this is no text")
    box = ChatBox(FakeConversation())
    box.submit("Hello")
    assert box.wait(20) and "check" not in box.status


@pytest.mark.slow
def test_real_circles_are_said_below_the_answer_and_a_penalty_ends_them(start):
    argv, environ = ["ask", "can you introduce yourself?", "--format", "int4"], {"TUTORIAL_MODEL": EMBEDDED.name}
    for more, circles in ([], True), (["--repetition-penalty", "1.1"], False):
        process = start("-m", "helpers", *argv, "--max-new-tokens", "400", *more, **environ)
        out, errors = process.communicate()
        assert process.returncode == 0 and len(out) > 200
        assert ("[This goes in circles: the same " in errors) == circles, errors

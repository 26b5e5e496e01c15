"""helpers.checks.export_check: a sound export passes with a margin, and each damage has its own finding."""

import json
import re
import shutil
import weakref
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import example, given
from strategies import reshaped
from tiny import EMBEDDED

from helpers import export, generate
from helpers.checks import export_check
from helpers.checks.export_check import ANSWERS_FILE, check
from helpers.errors import TutorialError
from helpers.settings import Settings

TOPICS = ["tokenizer", "checkpoint", "cache", "device"]
ALL_OK = dict.fromkeys(TOPICS, "ok")
FETCH_IT = "To fetch it: python -m helpers fetch --model smollm2-instruct"
NO_CHECKPOINT = ([], ("Skipped: the checkpoint is not on this disk.", FETCH_IT))


def states(findings) -> dict[str, str]:
    return {finding.topic: finding.state for finding in findings}


def kept(findings, topic) -> float:
    """Return the share of its probability that a token keeps, from the message."""
    (message,) = [finding.message for finding in findings if finding.topic == topic]
    return int(re.search(r"keep (\d+)%", message)[1]) / 100


def damage(folder: Path, part: str, how: str) -> None:
    """Zero, shuffle or spoil (NaN) the weights of `part` in an export."""
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


# The thresholds need weights that have learned something.


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(settings, findings) of a copy of the embedded int4 export and its checkpoint."""
    settings = Settings(model_root=str(tmp_path_factory.mktemp("sound")))
    for name in ("checkpoint", "int4"):
        shutil.copytree(EMBEDDED / name, settings.model_dir.with_name(name))
    return settings, check(settings)


@pytest.fixture
def lone(sound, tmp_path):
    """Settings of the same export with the checkpoint's answers, but without the checkpoint."""
    settings = Settings(model_root=str(tmp_path))
    shutil.copytree(sound[0].model_dir, settings.model_dir)
    shutil.copy(sound[0].model_dir.with_name(ANSWERS_FILE), settings.model_dir.parent)
    return settings


@pytest.mark.model
@pytest.mark.weekly
def test_a_sound_export_passes_with_a_margin(sound):
    _, findings = sound
    assert states(findings) == ALL_OK and not any(finding.hint for finding in findings)
    assert kept(findings, "checkpoint") > 0.9 and kept(findings, "cache") > 0.9


@pytest.mark.model
@pytest.mark.weekly
def test_int8_keeps_more_than_int4(sound):
    settings, findings = sound
    int8 = replace(settings, format="int8")
    export.run(export.command(int8), report=lambda _: None)
    assert kept(check(int8), "checkpoint") > max(0.9, kept(findings, "checkpoint"))


@pytest.mark.model
@pytest.mark.weekly
@pytest.mark.parametrize(("part", "how"), [("layers.20.", "zero"), ("layers.25.self_attn", "shuffle")])
def test_damaged_weights_are_found(lone, part, how):
    damage(lone.model_dir, part, how)
    findings = check(lone)
    assert states(findings)["checkpoint"] == "problem" and states(findings)["tokenizer"] == "ok"
    (finding,) = [finding for finding in findings if finding.topic == "checkpoint"]
    assert finding.hint.startswith("Delete the folder") and str(lone.model_dir) in finding.hint


@pytest.mark.model
@pytest.mark.weekly
def test_a_cache_that_loses_a_token_is_found(lone, monkeypatch):
    class ForgetfulCache(generate.PromptCache):
        def logits(self, ids):
            return super().logits(ids[:-2] + ids[-1:])

    monkeypatch.setattr(export_check, "PromptCache", ForgetfulCache)
    assert states(check(lone)) == ALL_OK | {"cache": "problem"}


# Everything else shows on a tiny model with random weights.


@pytest.fixture
def small(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's checkpoint and export."""
    choice = replace(settings, model_root=str(tmp_path))
    for folder in (settings.checkpoint_dir, exported.folder):
        shutil.copytree(folder, choice.checkpoint_dir.with_name(folder.name))
    return choice


@pytest.fixture(scope="module")
def answers(checkpoint):
    """The answers of the tiny model's checkpoint."""
    return export_check.checkpoint_answers(checkpoint)


@pytest.fixture
def alone(small, answers):
    """alone(answers, …) are settings of the export without its checkpoint, but with these answers of it."""

    def write(kept=answers, **other):
        shutil.rmtree(small.checkpoint_dir, ignore_errors=True)
        table = {"revision": small.spec.revision, "questions": list(export_check.QUESTIONS)}
        table |= {"tokens": export_check.TOKENS, "answers": [asdict(answer) for answer in kept], **other}
        small.model_dir.with_name(ANSWERS_FILE).write_text(json.dumps(table), encoding="utf-8")
        return small

    return write


def test_only_one_model_is_in_memory_at_a_time(small, monkeypatch):
    """Two of Phi-3's size take 11 GB, and an 8 GB laptop is to run the check of a ready-made IR."""
    loaded, load, score = [], export_check.load_model, export_check._export_logprobs

    def load_watched(settings):
        model, *rest = load(settings)
        loaded.append(weakref.ref(model))
        return model, *rest

    def score_watched(*given):
        assert [model() for model in loaded] == [None]
        return score(*given)

    monkeypatch.setattr(export_check, "load_model", load_watched)
    monkeypatch.setattr(export_check, "_export_logprobs", score_watched)
    check(small)
    assert loaded


@pytest.mark.weekly
def test_a_sound_export_passes_with_its_checkpoint_then_with_its_answers_then_alone(small, monkeypatch):
    first = check(small)
    assert states(first) == ALL_OK and not any(finding.hint for finding in first)
    assert kept(first, "checkpoint") > 0.9 and kept(first, "cache") > 0.9
    monkeypatch.setattr(export_check, "checkpoint_answers", lambda folder: pytest.fail("it was run again"))
    shutil.rmtree(small.checkpoint_dir)
    again = check(replace(small, device="AUTO"))
    assert states(again) == ALL_OK and kept(again, "checkpoint") == kept(first, "checkpoint")
    assert kept(again, "device") == 1 and "AUTO" in again[-1].message
    small.checkpoint_dir.with_name(ANSWERS_FILE).unlink()
    findings = check(small)
    assert states(findings) == ALL_OK | {"checkpoint": "note"}
    assert "helpers fetch" in findings[1].hint


@pytest.mark.parametrize("more, state, share", [(2, "problem", np.exp(-2)), (-2, "ok", 1)])
def test_a_lower_probability_is_a_loss_and_a_higher_one_is_not(alone, answers, more, state, share):
    changed = [replace(answer, logprobs=[value + more for value in answer.logprobs]) for answer in answers]
    findings = check(alone(changed))
    assert states(findings) == ALL_OK | {"checkpoint": state}
    assert kept(findings, "checkpoint") == pytest.approx(share, abs=0.01)
    assert ("int8" in findings[1].hint) == (state == "problem")


@pytest.mark.parametrize("other", [{}, {"revision": "a different one"}])  # without answers it makes its own
def test_logits_that_are_not_numbers_end_the_check_with_a_problem(alone, other):
    choice = alone(**other)
    damage(choice.model_dir, "layers.1.mlp.down_proj", "nan")
    findings = check(choice)
    assert states(findings) == {"tokenizer": "ok", "logits": "problem"}
    assert str(choice.model_dir) in findings[-1].hint


def test_an_ir_of_the_readers_own_is_neither_to_be_deleted_nor_to_be_exported(alone, tmp_path):
    mine = tmp_path / "my own model"
    shutil.copytree(alone().model_dir, mine)
    damage(mine, "layers.1.mlp.down_proj", "nan")
    choice = replace(alone(), model=str(mine))
    hints = [check(choice)[-1].hint, export_check._reference_answers(choice)[1][1]]
    assert all(hint and not re.search("elete|helpers (fetch|export)", hint) for hint in hints), hints


@pytest.mark.parametrize("drift", [2, -2])
@pytest.mark.parametrize("topic", ["cache", "device"])
def test_a_difference_in_either_direction_is_a_problem(alone, answers, monkeypatch, topic, drift):
    logprobs = np.concatenate([answer.logprobs for answer in answers])
    on_cpu, rows = logprobs + drift * (topic == "device"), iter(answers)
    monkeypatch.setattr(export_check, "_export_logprobs", lambda _, device, __: on_cpu if device == "CPU" else logprobs)
    cached = lambda *_: np.array(next(rows).logprobs) + drift * (topic == "cache")  # noqa: E731
    monkeypatch.setattr(export_check, "incremental_logprobs", cached)
    findings = check(replace(alone(), device="AUTO"))
    (finding,) = [finding for finding in findings if finding.topic == topic]
    assert states(findings) == ALL_OK | {topic: "problem"}
    assert kept(findings, topic) == pytest.approx(np.exp(-2), abs=0.01) and finding.hint


def test_the_checkpoint_s_answers_are_transformers_greedy_ones_and_their_logprobs_its_loss(checkpoint, answers):
    import torch
    from loaded import theirs
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tok = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    for question, answer in zip(export_check.QUESTIONS, answers, strict=True):
        messages = [{"role": "user", "content": question}]
        assert answer.prompt_ids == tok.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert answer.ids == theirs(model, answer.prompt_ids, export_check.TOKENS, do_sample=False)
        ids = torch.tensor([answer.prompt_ids + answer.ids])
        labels = torch.tensor([[-100] * len(answer.prompt_ids) + answer.ids])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=labels).loss)
        assert np.mean(answer.logprobs) == pytest.approx(-loss, rel=1e-3)


def test_with_the_kv_cache_the_logprobs_are_those_of_one_run(exported, answers):
    from loaded import load

    from helpers.metrics.quality import REFERENCE

    model = load(exported.folder, **REFERENCE)
    for answer in answers:
        at_once = export_check.teacher_forced_logprobs(model, answer)
        assert at_once.shape == (export_check.TOKENS,) and len(set(at_once.tolist())) > 1
        assert np.allclose(export_check.incremental_logprobs(model, answer), at_once, atol=1e-3)


@pytest.mark.parametrize(
    "lost, state, share",
    [
        (0, "ok", "100%"),
        (0.223, "ok", "80%"),
        (0.224, "problem", "80%"),
        (10, "problem", "0%"),
        (np.nan, "problem", "nan%"),
    ],
)
def test_less_than_80_percent_or_no_number_is_a_problem(lost, state, share):
    finding = export_check._judge("it", lost, "The tokens", "Do that.")
    assert (finding.topic, finding.state, finding.hint) == ("it", state, "Do that." if state == "problem" else "")
    assert finding.message == f"The tokens keep {share} of their probability; at least 80% is expected."


def test_answers_that_an_earlier_version_wrote_are_used(alone, answers):
    """It called their values prompt, ids and logs."""
    old = [dict(zip(("prompt", "ids", "logs"), asdict(answer).values(), strict=True)) for answer in answers]
    assert export_check._reference_answers(alone(answers=old)) == (answers, ())


@pytest.mark.parametrize(
    "other",
    [{"revision": "0.1"}, {"questions": []}, {"tokens": 17}, {"answers": None}, {"answers": [{"ids": [1]}]}],
    ids=str,
)
def test_answers_of_a_different_checkpoint_or_to_different_questions_are_not_used(alone, other):
    assert export_check._reference_answers(alone(**other)) == NO_CHECKPOINT


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON"])
def test_a_file_that_is_not_one_of_ours_is_not_used(alone, text):
    choice = alone()
    choice.model_dir.with_name(ANSWERS_FILE).write_text(text, encoding="utf-8")
    assert export_check._reference_answers(choice) == NO_CHECKPOINT


def test_the_checkpoint_is_run_if_there_is_memory_and_its_answers_are_kept_where_they_can_be(
    small, answers, monkeypatch
):
    file = small.model_dir.with_name(ANSWERS_FILE)
    memory, need = psutil.virtual_memory(), (1 + small.spec.checkpoint_gib) * 2**30
    monkeypatch.setattr(export_check, "checkpoint_answers", {small.checkpoint_dir: answers}.get)
    for spare, was_run in ((2**20, True), (-(2**20), False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda s=spare: memory._replace(available=need + s))
        found, skipped = export_check._reference_answers(small)
        assert (found == answers, skipped == (), file.exists()) == (was_run, was_run, was_run)
        file.unlink(missing_ok=True)
    why, hint = skipped
    assert why == "Skipped: the checkpoint needs 1.3 GiB of memory; 1.3 is free." and "Close" in hint
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=2**40))
    file.mkdir()  # nothing can be written there
    assert export_check._reference_answers(small) == (answers, ())


def test_a_tokenizer_that_loses_spaces_or_gives_different_ids_is_a_problem(exported, answers):
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(exported.folder)
    prompts = [answer.prompt_ids for answer in answers]
    assert export_check._check_tokenizer(tok, prompts, answers, "again").state == "ok"
    assert export_check._check_tokenizer(tok, prompts, [], "again").state == "ok", "nothing to compare its ids with"
    different = export_check._check_tokenizer(tok, [ids[:-1] for ids in prompts], answers, "again")
    assert (different.state, different.hint) == ("problem", "again") and "differ" in different.message
    # What AutoTokenizer(gguf_file=…) saves: every space is an unknown token, and no error is raised.
    recipe = json.loads(tok.backend_tokenizer.to_str())
    recipe["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    tok._tokenizer = type(tok._tokenizer).from_str(json.dumps(recipe))
    lossy = export_check._check_tokenizer(tok, prompts, answers, "again")
    assert (lossy.state, lossy.hint) == ("problem", "again") and lossy.message.startswith("The text ")


SAVED = {"revision": Settings().spec.revision, "questions": list(export_check.QUESTIONS), "tokens": export_check.TOKENS}
SAVED |= {"answers": [{"prompt_ids": [1, 2], "ids": [3], "logprobs": [-0.5]}]}


@given(saved=reshaped(SAVED))
@example(saved=SAVED)
def test_saved_answers_of_an_unexpected_shape_are_not_used(tmp_path_factory, saved):
    choice = Settings(model_root=str(tmp_path_factory.getbasetemp() / "saved"))
    choice.model_dir.parent.mkdir(parents=True, exist_ok=True)
    choice.model_dir.with_name(ANSWERS_FILE).write_text(json.dumps(saved), encoding="utf-8")
    answers, skipped = export_check._reference_answers(choice)
    assert bool(answers) != bool(skipped)
    for answer in answers:
        assert all(type(index) is int for index in answer.prompt_ids + answer.ids)
        assert all(type(value) is float for value in answer.logprobs)


@pytest.mark.parametrize(
    "error, words",
    [
        (KeyError("layers"), "cannot be loaded. KeyError: 'layers'\\nTo see"),
        (MemoryError(), "too little free memory"),
        (TutorialError("No chat template.", "Choose a different one."), "^No chat template.\\nChoose"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_is_named(tmp_path, monkeypatch, error, words):
    def fail(folder):
        raise error

    choice = Settings(model_root=str(tmp_path))
    choice.checkpoint_dir.mkdir(parents=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    monkeypatch.setattr(export_check, "checkpoint_answers", fail)
    with pytest.raises(TutorialError, match=words):
        export_check._reference_answers(choice)

"""Perplexity and divergence: PyTorch's on the checkpoint, and the laws that they obey."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub import tiny_phi3
from hypothesis import given
from hypothesis import strategies as st
from loaded import load
from tiny import EMBEDDED
from transformers import AutoTokenizer

from helpers.errors import TutorialError
from helpers.load.graph import slice_last_logits
from helpers.metrics import quality
from helpers.show.quality import frontier

IDS = [(7 * n * n + 3 * n) % 600 for n in range(40)]


@pytest.fixture(scope="module", params=["llama", "phi3"])
def pair(request, tmp_path_factory):
    """(what OpenVINO makes of a checkpoint, the same in PyTorch), both in float32."""
    from optimum.intel.openvino import OVModelForCausalLM
    from transformers import AutoModelForCausalLM

    llama = request.param == "llama"
    folder = request.getfixturevalue("checkpoint") if llama else tiny_phi3(tmp_path_factory.getbasetemp())
    options = {"export": True, "load_in_8bit": False, "device": "CPU", "ov_config": quality.REFERENCE}
    ours = OVModelForCausalLM.from_pretrained(folder, **options)
    return ours, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def expected(model, ids) -> torch.Tensor:
    """[n, vocabulary]: PyTorch's log-probabilities after each id."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def test_log_probabilities_are_those_of_pytorch(pair):
    ours, theirs = pair
    assert np.allclose(quality.log_probabilities(ours, IDS), expected(theirs, IDS)[:-1], atol=1e-4)


def test_perplexity_is_exp_of_the_loss_that_transformers_computes(pair):
    ours, theirs = pair
    text = torch.tensor([IDS])
    with torch.no_grad():
        loss = theirs(text, labels=text).loss
    assert quality.perplexity(ours, IDS) == pytest.approx(float(loss.exp()), rel=1e-5)


@pytest.mark.parametrize("window", [1, 7, 13, 39, 40])
def test_windows_begin_anew_and_leave_no_token_out(pair, window):
    ours, theirs = pair
    rows = torch.cat([expected(theirs, IDS[start : start + window]) for start in range(0, len(IDS), window)])[:-1]
    found = quality.log_probabilities(ours, IDS, window)
    assert np.allclose(found, rows, atol=1e-4)
    loss = torch.nn.functional.nll_loss(rows, torch.tensor(IDS[1:]))
    assert quality.perplexity(ours, IDS, window) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_a_window_is_no_longer_than_the_context():
    seen = []
    model = fake(lambda ids: seen.append(len(ids)) or np.zeros((len(ids), 50)), context=8)
    quality.perplexity(model, list(range(20)), window=512)
    assert seen == [8, 8, 3]


def test_one_reading_gives_what_three_give(pair):
    ours, theirs = pair
    reference = np.roll(expected(theirs, IDS)[:-1].numpy(), 1, axis=0)  # what is expected at another place
    found = quality.log_probabilities(ours, IDS, 16)
    teacher_forced_logprobs = quality.compare(ours, IDS, reference, 16)
    assert teacher_forced_logprobs.perplexity == pytest.approx(quality.perplexity(ours, IDS, 16))
    assert teacher_forced_logprobs.kl == pytest.approx(quality.kl(reference, found))
    assert teacher_forced_logprobs.top1_agreement == quality.top1_agreement(reference, found)


def test_a_model_beside_itself(pair):
    ours, _ = pair
    itself = quality.compare(ours, IDS, quality.log_probabilities(ours, IDS))
    assert (itself.kl, itself.top1_agreement) == (0, 1)


@pytest.mark.model
def test_the_embedded_model_foresees_our_text_better_than_the_same_tokens_sorted():
    model, tok = load(EMBEDDED / "int4", **quality.REFERENCE), AutoTokenizer.from_pretrained(EMBEDDED / "int4")
    ids = tok(quality.evaluation_text(), add_special_tokens=False)["input_ids"][:128]
    assert quality.perplexity(model, ids) < quality.perplexity(model, sorted(ids)) / 3


# The laws, on any distributions.
scores = st.lists(st.floats(-80, 80, width=32), min_size=6, max_size=6)


def rows(*lists) -> np.ndarray:
    return torch.tensor(lists, dtype=torch.float32).log_softmax(-1).numpy()


@given(scores, scores)
def test_divergence_is_torchs_and_never_negative(one, two):
    reference, other = rows(one, two), rows(two, one)
    divergence = torch.nn.functional.kl_div(
        torch.tensor(other).double(), torch.tensor(reference).double(), reduction="batchmean", log_target=True
    )
    assert quality.kl(reference, other) == pytest.approx(float(divergence), rel=1e-4, abs=1e-4)
    assert quality.kl(reference, other) > -1e-5  # Gibbs' inequality, but for the rounding of float32
    assert quality.kl(reference, reference) == 0


def test_divergence_asks_what_the_reference_writes():
    sure, open_to_both = rows([0, -30]), rows([0, 0])
    assert quality.kl(sure, open_to_both) == pytest.approx(np.log(2), rel=1e-5)
    assert quality.kl(open_to_both, sure) == pytest.approx(15 - np.log(2), rel=1e-5)


def test_same_top_is_a_share():
    one, two = rows([3, 1, 2], [1, 2, 3], [2, 3, 1], [1, 1, 5]), rows([9, 1, 2], [1, 5, 3], [2, 3, 1], [5, 1, 1])
    assert quality.top1_agreement(one, two) == quality.top1_agreement(two, one) == 0.5
    assert quality.top1_agreement(one, one) == 1


def test_what_has_other_rows_is_not_compared():
    with pytest.raises(TutorialError, match="cannot be compared"):
        quality.kl(rows([1, 2], [3, 4]), rows([1, 2]))


def fake(score, context=1000):
    """A model that gives what `score` makes of the ids."""

    def model(input_ids, attention_mask):
        assert attention_mask.shape == input_ids.shape and attention_mask.all()
        return SimpleNamespace(logits=torch.tensor(score(input_ids[0].tolist()), dtype=torch.float32)[None])

    model.config = SimpleNamespace(max_position_embeddings=context)
    return model


def test_the_ends_of_the_scale():
    knows_nothing = fake(lambda ids: np.full((len(ids), 50), 3.0))
    knows_by_heart = fake(lambda ids: 200.0 * np.eye(50)[[i + 1 for i in ids]])
    assert quality.perplexity(knows_nothing, list(range(30)), 8) == pytest.approx(50)
    assert quality.perplexity(knows_by_heart, list(range(30)), 8) == 1


def test_scores_that_are_large_do_not_overflow():
    large = fake(lambda ids: 1e4 * np.eye(50)[ids])
    assert np.isfinite(quality.log_probabilities(large, [1, 2, 3])).all()


@pytest.mark.parametrize("ids", [[], [5]])
def test_too_short_a_text_is_refused(ids):
    for measure in (quality.perplexity, quality.log_probabilities):
        with pytest.raises(TutorialError, match="fewer than two"):
            measure(fake(lambda ids: np.zeros((len(ids), 50))), ids)


def test_a_model_that_scores_only_the_last_position_is_refused(phi3_folder):
    from optimum.intel.openvino import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(phi3_folder, export=False, compile=False)
    slice_last_logits(model.model)
    with pytest.raises(TutorialError, match="only the last position"):
        quality.perplexity(model, IDS)


def test_the_texts_are_plain_and_apart():
    text, calibration_chats = quality.evaluation_text(), quality.calibration_chats()
    assert text.isascii() and text.startswith("The harbour") and text.endswith("always has.\n")
    assert len(calibration_chats) == 24 and all(question and answer for question, answer in calibration_chats)
    for question, answer in calibration_chats:
        assert question not in text and answer not in text
    for name in ("text.txt", "chats.txt"):
        head = (quality.DATA / name).read_text(encoding="utf-8").split("\n\n")[0]
        assert re.search("written for this project.*Apache-2.0", head, re.DOTALL)


numbers = st.floats(0, 9).map(lambda value: round(value, 1))


@given(st.sets(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_the_frontier_is_what_nothing_beats(places):
    points = {f"{place}": place for place in places}
    unbeaten = {
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b <= y for a, b in points.values() if (a, b) != (x, y))
    }
    assert set(frontier(points)) == unbeaten


@pytest.mark.parametrize("window", [4, 13, 30])
def test_one_reading_gives_what_three_give_and_torch(window):
    """Of made-up scores, which depend on the place in the window as a model's do."""
    random = np.random.default_rng(window)
    table, reference = random.normal(size=(50, 50)), rows(*random.normal(size=(29, 50)).tolist())
    ids = random.integers(0, 50, 30).tolist()
    model = fake(lambda ids: table[ids] * (1 + np.arange(len(ids)))[:, None])
    found = quality.log_probabilities(model, ids, window)
    teacher_forced_logprobs = quality.compare(model, ids, reference, window)
    known, read = torch.tensor(reference).double(), torch.tensor(found).double()
    loss = torch.nn.functional.nll_loss(read, torch.tensor(ids[1:]))
    kl = torch.nn.functional.kl_div(read, known, reduction="batchmean", log_target=True)
    assert teacher_forced_logprobs.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert teacher_forced_logprobs.perplexity == pytest.approx(quality.perplexity(model, ids, window))
    assert (
        teacher_forced_logprobs.kl
        == pytest.approx(float(kl), rel=1e-4)
        == pytest.approx(quality.kl(reference, found), rel=1e-5)
    )
    same = known.argmax(-1) == read.argmax(-1)
    assert (
        teacher_forced_logprobs.top1_agreement
        == quality.top1_agreement(reference, found)
        == pytest.approx(float(same.double().mean()))
    )
    itself = quality.compare(model, ids, found, window)
    assert (itself.kl, itself.top1_agreement) == (0, 1)


def test_an_export_reads_as_pytorch_reads_its_checkpoint(exported, checkpoint):
    """But for what 4 bits cost, which is little in a model whose weights are small."""
    from transformers import AutoModelForCausalLM

    model = load(exported.folder, **quality.REFERENCE)
    rows = expected(AutoModelForCausalLM.from_pretrained(checkpoint), IDS)[:-1].numpy()
    compared = quality.compare(model, IDS, rows)
    assert 0 < compared.kl < 0.1 and compared.top1_agreement > 0.5
    loss = torch.nn.functional.nll_loss(torch.tensor(rows), torch.tensor(IDS[1:]))
    assert compared.perplexity == pytest.approx(float(loss.exp()), rel=0.1)
    assert quality.kl(rows, quality.log_probabilities(model, IDS)) == pytest.approx(compared.kl)


@pytest.mark.parametrize("window", [0, -1, 2.5])
def test_a_window_is_a_whole_number(window):
    with pytest.raises(TutorialError, match="window"):
        quality.perplexity(fake(lambda ids: np.zeros((len(ids), 50))), [1, 2, 3], window)


def test_nncf_is_quiet_for_a_while_also_in_a_notebook(capsys, monkeypatch):
    import logging

    from rich.console import Console

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with quality.silence_nncf():
        print("a bar")
        assert not Console().is_jupyter
        told = logging.getLogger("nncf")
        assert not told.isEnabledFor(logging.WARNING) and told.isEnabledFor(logging.ERROR)
        assert not logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING)
    print("an answer")
    assert Console().is_jupyter and capsys.readouterr().out == "an answer\n"

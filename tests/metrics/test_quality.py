"""Perplexity and KL divergence are PyTorch's on the checkpoint, and have their mathematical properties."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub import tiny_phi3
from hypothesis import given
from hypothesis import strategies as st
from loaded import load

from helpers.errors import TutorialError
from helpers.load.graph import slice_last_logits
from helpers.metrics import quality

IDS = [(7 * n * n + 3 * n) % 600 for n in range(40)]


@pytest.fixture(scope="module", params=["llama", "phi3"])
def pair(request, tmp_path_factory):
    """(a checkpoint in OpenVINO, the same in PyTorch), both in float32."""
    from optimum.intel.openvino import OVModelForCausalLM
    from transformers import AutoModelForCausalLM

    llama = request.param == "llama"
    folder = request.getfixturevalue("checkpoint") if llama else tiny_phi3(tmp_path_factory.getbasetemp())
    options = {"export": True, "load_in_8bit": False, "device": "CPU", "ov_config": quality.REFERENCE}
    ours = OVModelForCausalLM.from_pretrained(folder, **options)
    return ours, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def expected(model, ids) -> torch.Tensor:
    """Return PyTorch's log-probabilities [n, vocabulary] after each id."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


@pytest.mark.weekly
def test_perplexity_is_exp_of_the_loss_that_transformers_computes(pair):
    ours, theirs = pair
    text = torch.tensor([IDS])
    with torch.no_grad():
        loss = theirs(text, labels=text).loss
    assert quality.perplexity(ours, IDS) == pytest.approx(float(loss.exp()), rel=1e-5)


@pytest.mark.parametrize("window", [1, 7, 13, 39, 40])
def test_log_probabilities_are_those_of_pytorch_in_each_window(pair, window):
    ours, theirs = pair
    rows = torch.cat([expected(theirs, IDS[start : start + window]) for start in range(0, len(IDS), window)])[:-1]
    found = quality.log_probabilities(ours, IDS, window)
    assert found.dtype == np.float32 and np.allclose(found, rows, atol=1e-4)
    loss = torch.nn.functional.nll_loss(rows, torch.tensor(IDS[1:]))
    assert quality.perplexity(ours, IDS, window) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_a_window_is_no_longer_than_the_context():
    seen = []
    model = fake(lambda ids: seen.append(len(ids)) or np.zeros((len(ids), 50)), context=8)
    quality.perplexity(model, list(range(20)), window=512)
    assert seen == [8, 8, 3]


@pytest.mark.weekly
def test_the_embedded_model_predicts_our_text_better_than_the_same_tokens_sorted(embedded_lm):
    ids = embedded_lm.tok(quality.evaluation_text(), add_special_tokens=False)["input_ids"][:128]
    model = load(embedded_lm.folder, **quality.REFERENCE)
    assert quality.perplexity(model, ids) < quality.perplexity(model, sorted(ids)) / 3


scores = st.lists(st.floats(-80, 80, width=32), min_size=6, max_size=6)


def rows(*lists) -> np.ndarray:
    return torch.tensor(lists, dtype=torch.float32).log_softmax(-1).numpy()


@given(scores, scores)
def test_kl_is_that_of_pytorch_and_never_negative(one, two):
    reference, other = rows(one, two), rows(two, one)
    divergence = torch.nn.functional.kl_div(
        torch.tensor(other).double(), torch.tensor(reference).double(), reduction="batchmean", log_target=True
    )
    assert quality.kl(reference, other) == pytest.approx(float(divergence), rel=1e-4, abs=1e-4)
    assert quality.kl(reference, other) > -1e-5  # Gibbs' inequality, up to the rounding of float32
    assert quality.kl(reference, reference) == 0


def test_kl_weights_by_the_reference():
    sure, undecided = rows([0, -30]), rows([0, 0])
    assert quality.kl(sure, undecided) == pytest.approx(np.log(2), rel=1e-5)
    assert quality.kl(undecided, sure) == pytest.approx(15 - np.log(2), rel=1e-5)


def test_different_numbers_of_rows_are_not_compared():
    with pytest.raises(TutorialError, match="cannot be compared"):
        quality.kl(rows([1, 2], [3, 4]), rows([1, 2]))


def fake(score, context=1000):
    """Return a model whose logits are score(ids)."""

    def model(input_ids, attention_mask):
        assert attention_mask.shape == input_ids.shape and attention_mask.all()
        return SimpleNamespace(logits=torch.tensor(score(input_ids[0].tolist()), dtype=torch.float32)[None])

    model.config = SimpleNamespace(max_position_embeddings=context)
    return model


def test_perplexity_is_between_1_and_the_size_of_the_vocabulary():
    undecided = fake(lambda ids: np.full((len(ids), 50), 3.0))
    perfect = fake(lambda ids: 200.0 * np.eye(50)[[i + 1 for i in ids]])
    assert quality.perplexity(undecided, list(range(30)), 8) == pytest.approx(50)
    assert quality.perplexity(perfect, list(range(30)), 8) == 1


@pytest.mark.parametrize("ids", [[], [5]])
def test_too_short_a_text_is_refused(ids):
    for measure in (quality.perplexity, quality.log_probabilities):
        with pytest.raises(TutorialError, match="fewer than two"):
            measure(fake(lambda ids: np.zeros((len(ids), 50))), ids)


@pytest.mark.weekly
def test_a_model_that_returns_the_last_logits_only_is_refused(phi3_folder):
    from optimum.intel.openvino import OVModelForCausalLM

    model = OVModelForCausalLM.from_pretrained(phi3_folder, export=False, compile=False)
    slice_last_logits(model.model)
    with pytest.raises(TutorialError, match="the last position only"):
        quality.perplexity(model, IDS)


def test_the_calibration_chats_are_not_in_the_evaluation_text():
    text, chats = quality.evaluation_text(), quality.calibration_chats()
    assert text.isascii() and text.startswith("The harbour") and text.endswith("always has.\n")
    assert len(chats) == 24 and all(question and answer for question, answer in chats)
    for question, answer in chats:
        assert question not in text and answer not in text
    for name in ("text.txt", "chats.txt"):
        head = (quality.DATA / name).read_text(encoding="utf-8").split("\n\n")[0]
        assert re.search("written for this project.*Apache-2.0", head, re.DOTALL)


@pytest.mark.parametrize("window", [4, 13, 30])
def test_one_pass_returns_what_pytorch_and_the_three_functions_do(window):
    """With random logits that depend on the position in the window, as a model's do."""
    random = np.random.default_rng(window)
    table, reference = random.normal(size=(50, 50)), rows(*random.normal(size=(29, 50)).tolist())
    ids = random.integers(0, 50, 30).tolist()
    model = fake(lambda ids: table[ids] * (1 + np.arange(len(ids)))[:, None])
    log_p, compared = quality.log_probabilities(model, ids, window), quality.per_token(model, ids, reference, window)
    perplexity = np.exp(compared.nll.mean())
    ours, theirs = torch.tensor(log_p).double(), torch.tensor(reference).double()
    loss = torch.nn.functional.nll_loss(ours, torch.tensor(ids[1:]))
    divergence = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    assert perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert perplexity == pytest.approx(quality.perplexity(model, ids, window))
    assert compared.kl.mean() == pytest.approx(float(divergence), rel=1e-4)
    assert compared.kl.mean() == pytest.approx(quality.kl(reference, log_p), rel=1e-5)
    same = (theirs.argmax(-1) == ours.argmax(-1)).double().mean()
    assert compared.same_top1.mean() == pytest.approx(float(same))
    itself = quality.per_token(model, ids, log_p, window)
    assert (itself.kl.mean(), itself.same_top1.mean()) == (0, 1)


@pytest.mark.weekly
def test_an_int4_export_is_close_to_its_checkpoint_in_pytorch(exported, checkpoint):
    """The weights of this model are small, and so is their quantization error."""
    from transformers import AutoModelForCausalLM

    reference = expected(AutoModelForCausalLM.from_pretrained(checkpoint), IDS)[:-1]
    compared = quality.per_token(load(exported.folder, **quality.REFERENCE), IDS, reference.numpy())
    assert 0 < compared.kl.mean() < 0.1 and compared.same_top1.mean() > 0.5
    loss = torch.nn.functional.nll_loss(reference, torch.tensor(IDS[1:]))
    assert np.exp(compared.nll.mean()) == pytest.approx(float(loss.exp()), rel=0.1)


@pytest.mark.parametrize("window", [0, -1, 2.5])
def test_a_window_is_a_positive_integer(window):
    with pytest.raises(TutorialError, match="window"):
        quality.perplexity(fake(lambda ids: np.zeros((len(ids), 50))), [1, 2, 3], window)


def test_nncf_is_silent_in_the_block_also_in_a_notebook(capsys, monkeypatch):
    import logging

    from rich.console import Console

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with quality.silence_nncf():
        print("a bar")
        assert not Console().is_jupyter
        nncf = logging.getLogger("nncf")
        assert not nncf.isEnabledFor(logging.WARNING) and nncf.isEnabledFor(logging.ERROR)
        assert not logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING)
    print("an answer")
    assert Console().is_jupyter and capsys.readouterr().out == "an answer\n"

"""How well a model foresees a text, and how far another one's expectations lie from its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np

from helpers.errors import TutorialError, check_int

DATA = Path(__file__).parent
WINDOW = 512  # tokens that are read together; each window begins anew, so a text may be longer than the context
# What a weight format costs shows only where nothing else is rounded.  By default the CPU plugin may calculate in bf16,
# keeps keys and values in 8 bits, and rounds to 8 bits what flows into a compressed matrix, and only there.
REFERENCE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@dataclass(frozen=True)
class Quality:
    """Of a model on a text, beside a reference: `kl` in nats per token, `same_top` a share from 0 to 1."""

    perplexity: float
    kl: float
    top1_agreement: float


def evaluation_text() -> str:
    """The fixed text on which formats are compared.  The head of data/text.txt says who wrote it, and the licence."""
    return (DATA / "text.txt").read_text(encoding="utf-8").split("\n\n", 1)[1]


def calibration_chats() -> list[tuple[str, str]]:
    """(question, answer) pairs on which a recipe may try a model; none of them is in text()."""
    blocks = (DATA / "chats.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]
    return [(question, answer) for question, answer in (block.split("\n", 1) for block in blocks)]


def perplexity(model, ids: Sequence[int], window: int = WINDOW) -> float:
    """exp of the mean surprise, −log of the probability of what really comes next, over the ids after the first.

    1 for a model that knows the text by heart; the size of the vocabulary for one that finds everything equally likely.
    """
    return float(np.exp(np.mean([value for rows in _read(model, ids, window) for value in _nll(*rows)])))


def log_probabilities(model, ids: Sequence[int], window: int = WINDOW) -> np.ndarray:
    """[n − 1, vocabulary], float32: row i is what the model expects after ids[i].

    `model` is an OVModelForCausalLM that scores every position, as its from_pretrained gives it.  The ids are read in
    windows, and what comes before its window a token does not see.  2,000 tokens of a vocabulary of 50,000 take 400 MB.
    Raises TutorialError for fewer than two ids, and for a model that scores only the last position.
    """
    return np.concatenate([log_p for log_p, _ in _read(model, ids, window)])


def kl(reference: np.ndarray, other: np.ndarray) -> float:
    """KL(reference || other) in nats, the mean over rows of log-probabilities [n, vocabulary]; 0 for the same.

    How much more than `reference` itself `other` is surprised, per token, by a text that `reference` writes.
    """
    if reference.shape != other.shape:
        raise TutorialError(f"{reference.shape} and {other.shape} cannot be compared.", "Read the same ids with both.")
    return float(np.mean([_kl(*rows) for rows in zip(reference, other, strict=True)]))


def top1_agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """The share of the rows in which both find the same token the likeliest."""
    return float(np.mean(reference.argmax(1) == other.argmax(1)))


def compare(model, ids: Sequence[int], reference: np.ndarray, window: int = WINDOW) -> Quality:
    """All three in one reading that keeps one window's scores; `reference` is another's log_probabilities of `ids`."""
    surprise, divergence, same = [], [], []
    for log_p, following in _read(model, ids, window):
        known = reference[len(surprise) :][: len(log_p)]
        surprise.extend(_nll(log_p, following))
        divergence.extend(_kl(*rows) for rows in zip(known, log_p, strict=True))
        same.extend(known.argmax(1) == log_p.argmax(1))
    return Quality(float(np.exp(np.mean(surprise))), float(np.mean(divergence)), float(np.mean(same)))


@contextmanager
def silence_nncf() -> Iterator[None]:
    """What NNCF tells while it compresses, bars and tables for each step, is not shown; its errors are."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    # Where CUDA's compiler is and no CUDA, PyTorch remarks on it when NNCF loads what extends it.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # In a notebook rich draws its bars as widgets, which no redirection catches.  Told that it is in none, it prints.
    with mock.patch("rich.console._is_jupyter", return_value=False), redirect_stdout(StringIO()):
        yield


def _nll(log_p: np.ndarray, following: np.ndarray) -> np.ndarray:
    return -log_p[np.arange(len(following)), following]


def _kl(reference: np.ndarray, other: np.ndarray) -> float:
    # In float64, because the terms have both signs and nearly cancel.
    return float((np.exp(reference) * (reference - other)).sum(dtype=np.float64))


def _read(model, ids: Sequence[int], window: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Window by window the log-probabilities [k, vocabulary] after each of its tokens, and the k ids that follow."""
    import torch

    if len(ids) < 2:
        raise TutorialError("A text of fewer than two tokens has nothing to foresee.", "Give a longer one.")
    window = min(check_int(window, "A window"), model.config.max_position_embeddings)
    for start in range(0, len(ids) - 1, window):
        inputs, following = ids[start : start + window][: len(ids) - 1 - start], ids[start + 1 : start + 1 + window]
        read = torch.tensor([inputs])  # [1, k]
        scores = model(input_ids=read, attention_mask=torch.ones_like(read)).logits[0].numpy()  # [k, vocabulary]
        if len(scores) != len(inputs):
            raise TutorialError(
                "This model scores only the last position of what it is given.",
                "Load it with OVModelForCausalLM.from_pretrained, which scores all of them.",
            )
        scores = scores - scores.max(-1, keepdims=True)  # at most 0, so that exp cannot overflow
        yield scores - np.log(np.exp(scores).sum(-1, keepdims=True)), np.array(following)

"""Perplexity of a model on a text, and how far its predictions are from those of a reference."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np

from helpers.errors import TutorialError, check_int
from helpers.generate.sampling import log_softmax

DATA = Path(__file__).parent
WINDOW = 512  # tokens per run of the model; each starts without context, so a text may exceed the model's context
# Reference settings: only with them can the error of a weight format be measured.  By default the CPU plugin may
# compute in bf16, stores keys and values in 8 bits, and quantizes the inputs of compressed matrices to 8 bits.
REFERENCE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def evaluation_text() -> str:
    """Return the text on which formats are compared.  The first lines of text.txt have its author and licence."""
    return (DATA / "text.txt").read_text(encoding="utf-8").split("\n\n", 1)[1]


def calibration_chats() -> list[tuple[str, str]]:
    """Return (question, answer) pairs for calibration; none is in evaluation_text()."""
    blocks = (DATA / "chats.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]
    return [tuple(block.split("\n", 1)) for block in blocks]


def perplexity(model, ids: Sequence[int], window: int = WINDOW) -> float:
    """Return exp of the mean negative log-likelihood of the ids after the first; see log_probabilities."""
    return float(np.exp(np.mean([nll for rows in _windows(model, ids, window) for nll in _nll(*rows)])))


def log_probabilities(model, ids: Sequence[int], window: int = WINDOW) -> np.ndarray:
    """Return the log-probabilities [n − 1, vocabulary] in float32; row i is the prediction after ids[i].

    `model` is an OVModelForCausalLM that returns the logits of all positions, as from_pretrained loads it.  It runs on
    one window at a time, and a token does not see what precedes its window.  2,000 tokens of a vocabulary of 50,000
    take 400 MB.  Raises TutorialError for fewer than two ids, and for a model that returns the last logits only.
    """
    return np.concatenate([log_p for log_p, _ in _windows(model, ids, window)])


def kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Return KL(reference || other) in nats, the mean over the rows of log-probabilities [n, vocabulary]."""
    if reference.shape != other.shape:
        raise TutorialError(f"{reference.shape} and {other.shape} cannot be compared.", "Use the same ids for both.")
    return float(np.mean([_kl(*rows) for rows in zip(reference, other, strict=True)]))


@dataclass(frozen=True)
class PerToken:
    """A model's quality at each predicted token, arrays of [n]: `nll` and `kl` in nats, `same_top1` as 0 or 1."""

    nll: np.ndarray
    kl: np.ndarray
    same_top1: np.ndarray


def per_token(model, ids: Sequence[int], reference: np.ndarray, window: int = WINDOW, chunk: int | None = None):
    """Return the PerToken of `ids`, window by window; `reference` has the log_probabilities of the reference model.

    With `chunk`, each window runs in calls of `chunk` tokens, which attend to the KV cache of the earlier calls, as in
    decode.
    """
    nll, divergence, same = [], [], []
    for log_p, next_ids in _windows(model, ids, window, chunk):
        expected = reference[len(nll) :][: len(log_p)]
        nll.extend(_nll(log_p, next_ids))
        divergence.extend(_kl(*rows) for rows in zip(expected, log_p, strict=True))
        same.extend(expected.argmax(1) == log_p.argmax(1))
    return PerToken(np.array(nll), np.array(divergence), np.array(same, dtype=float))


@contextmanager
def silence_nncf() -> Iterator[None]:
    """Hide NNCF's progress bars, tables and warnings during compression; errors are still shown."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    # PyTorch warns when NNCF loads its extensions on a machine that has CUDA's compiler but no CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # In a notebook rich draws its bars as widgets, which cannot be redirected.
    with mock.patch("rich.console._is_jupyter", return_value=False), redirect_stdout(StringIO()):
        yield


def _nll(log_p: np.ndarray, next_ids: np.ndarray) -> np.ndarray:
    return -log_p[np.arange(len(next_ids)), next_ids]


def _kl(reference: np.ndarray, other: np.ndarray) -> float:
    # In float64, because the terms have both signs and nearly cancel.
    return float((np.exp(reference) * (reference - other)).sum(dtype=np.float64))


def _windows(
    model, ids: Sequence[int], window: int, chunk: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each window the log-probabilities [k, vocabulary] after its k tokens, and the k ids that follow."""
    if len(ids) < 2:
        raise TutorialError("A text of fewer than two tokens has nothing to predict.", "Use a longer text.")
    window = min(check_int(window, "window"), model.config.max_position_embeddings)
    for start in range(0, len(ids) - 1, window):
        next_ids = ids[start + 1 : start + 1 + window]
        logits = _logits(model, ids[start : start + len(next_ids)], chunk or window)  # [k, vocabulary]
        if len(logits) != len(next_ids):
            hint = "Load it with OVModelForCausalLM.from_pretrained, which returns those of all positions."
            raise TutorialError("This model returns the logits of the last position only.", hint)
        yield log_softmax(logits), np.array(next_ids)


def _logits(model, ids: Sequence[int], chunk: int) -> np.ndarray:
    """Return the logits [n, vocabulary] of all positions, from calls of at most `chunk` tokens."""
    import torch

    parts, more = [], {}
    for start in range(0, len(ids), chunk):
        end = min(start + chunk, len(ids))
        mask = torch.ones((1, end), dtype=torch.int64)
        outputs = model(input_ids=torch.tensor([ids[start:end]]), attention_mask=mask, **more)
        more = {"past_key_values": outputs.past_key_values} if end < len(ids) else {}
        parts.append(outputs.logits[0].numpy().copy() if more or parts else outputs.logits[0].numpy())
    return np.concatenate(parts) if len(parts) > 1 else parts[0]

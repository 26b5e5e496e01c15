"""Logits → the next id: greedy or sampled, with the logits processors of transformers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from helpers.errors import TutorialError

RANGES = (
    "temperature is 0 or at least 0.000001, top_k is 0 or more, 0 < top_p ≤ 1, repetition_penalty is 0.000001 to "
    "1,000,000 (1 has no effect), and seed is None or has at most 19 digits.  top_k and seed are integers."
)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most likely one at temperature 0, otherwise by sampling.

    Names and meanings are those of transformers; top_k 0, top_p 1 and repetition_penalty 1 have no effect.  Without a
    `seed`, each generation draws different tokens.  Raises TutorialError for values that cannot be used.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        integers = (self.top_k, 0 if self.seed is None else self.seed)
        numbers = (self.temperature, self.top_p, self.repetition_penalty)
        valid = all(isinstance(n, Integral) for n in integers) and all(isinstance(n, Real) for n in numbers)
        valid = valid and (self.temperature == 0 or 1e-6 <= self.temperature < np.inf)  # less: infinite logits
        valid = valid and self.top_k >= 0 and 0 < self.top_p <= 1 and 1e-6 <= self.repetition_penalty <= 1e6
        if not (valid and -(2**63) <= integers[1] < 2**64):  # the seeds that PyTorch takes
            raise TutorialError(f"{self} cannot be used.", RANGES)

    def processors(self):
        """Return a LogitsProcessorList with the processors in the order of transformers' `generate`."""
        from transformers.generation import logits_process as change

        chosen = change.LogitsProcessorList()
        if self.repetition_penalty != 1:
            chosen.append(change.RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.temperature not in (0, 1):
            chosen.append(change.TemperatureLogitsWarper(float(self.temperature)))
        if self.temperature and self.top_k:
            chosen.append(change.TopKLogitsWarper(self.top_k))
        if self.temperature and self.top_p < 1:
            chosen.append(change.TopPLogitsWarper(float(self.top_p)))
        return chosen

    def make_sampler(self) -> Callable[[list[int], np.ndarray], tuple[int, np.ndarray]]:
        """Return a function (ids so far, logits [vocabulary]) → (next id, processed logits [vocabulary])."""
        penalty = float(self.repetition_penalty)

        def choose_most_likely(ids, logits):
            logits = penalize(logits, ids, penalty) if penalty != 1 else logits
            return int(logits.argmax()), logits

        if self.temperature == 0:
            return choose_most_likely
        import torch

        processors, generator = self.processors(), torch.Generator()
        generator.seed() if self.seed is None else generator.manual_seed(self.seed)

        def choose(ids, logits):
            with single_thread():
                if processors:
                    logits = processors(torch.tensor([ids]), torch.tensor(logits)[None])[0].numpy()
                probabilities = torch.softmax(torch.from_numpy(logits), dim=-1)
                return int(torch.multinomial(probabilities, 1, generator=generator)), logits

        return choose


GREEDY = Sampling()
# The default for conversations; greedy, so answers are repeatable.  docs/defaults.md compares it with alternatives: how
# many answers repeat themselves, and how many state the right fact.
CHAT = Sampling(repetition_penalty=1.1)


def penalize(logits: np.ndarray, ids: list[int], penalty: float) -> np.ndarray:
    """Return what transformers' RepetitionPenaltyLogitsProcessor returns, in a fifth of its time per token."""
    changed, seen = logits.copy(), np.asarray(ids)
    values = changed[seen]
    changed[seen] = np.where(values < 0, values * penalty, values / penalty)
    return changed


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log(softmax(logits)) over the last axis, [..., vocabulary], in the type of `logits`."""
    shifted = logits - logits.max(-1, keepdims=True)  # at most 0, so that exp cannot overflow
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


@contextmanager
def single_thread() -> Iterator[None]:
    """Let PyTorch use one thread in the block: its other threads would keep spinning on cores that OpenVINO needs."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

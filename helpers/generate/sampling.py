"""scores → the next id: greedy or by lot, through transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from helpers.errors import TutorialError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else by lot; seed None draws anew each time.

    Names and meanings are transformers'; top_k 0, top_p 1 and repetition_penalty 1 change nothing.
    Raises TutorialError for values that have no meaning.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        whole = (self.top_k, 0 if self.seed is None else self.seed)
        numbers = (self.temperature, self.top_p, self.repetition_penalty)
        if not (all(isinstance(n, Integral) for n in whole) and all(isinstance(n, Real) for n in numbers)):
            raise TutorialError(f"{self} cannot be used.", "All are numbers; top_k and seed are whole ones.")
        hot = self.temperature == 0 or 1e-6 <= self.temperature < np.inf  # scores divided by less are no numbers
        if not (hot and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise TutorialError(f"{self} cannot be used.", "temperature and top_k are 0 or more, 0 < top_p ≤ 1.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:  # what PyTorch takes
            raise TutorialError(f"{self} cannot be used.", "A seed has at most 19 digits.")
        if not 0 < self.repetition_penalty < np.inf:
            raise TutorialError(f"{self} cannot be used.", "repetition_penalty is above 0; 1 is none.")

    def processors(self):
        """transformers' LogitsProcessorList, in the order in which its `generate` puts it together."""
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
        """A function (ids so far, logits [vocabulary]) → the next id and the scores [vocabulary] it was chosen by."""
        import torch

        processors, generator = self.processors(), torch.Generator()
        generator.seed() if self.seed is None else generator.manual_seed(self.seed)

        def choose(ids, scores):
            if processors:
                with single_thread():
                    scores = processors(torch.tensor([ids]), torch.tensor(scores)[None])[0].numpy()
            if self.temperature == 0:
                return int(scores.argmax()), scores
            with single_thread():
                shares = torch.softmax(torch.from_numpy(scores), dim=-1)
                return int(torch.multinomial(shares, 1, generator=generator)), scores

        return choose


GREEDY = Sampling()


@contextmanager
def single_thread() -> Iterator[None]:
    """PyTorch with one thread for a while: its others would go on in a busy loop, on cores that OpenVINO needs next."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

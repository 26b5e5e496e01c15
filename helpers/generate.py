"""prompt ids → a stream of steps: the one generation loop of the project, on the OpenVINO model itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.plumbing import TutorialError


@dataclass(frozen=True)
class Step:
    """One new token.

    `probability` is that of `id` in the distribution it was chosen from: the softmax of the scores after all that
    Sampling does to the logits; greedy without a penalty does nothing to them, so there it is the model's own.
    `alternatives` are the likeliest (id, probability) of the same distribution, likeliest first, whether chosen or
    not; of equals the lower id comes first.  `milliseconds` is what this step took, for the first one the prompt too.
    """

    id: int
    probability: float
    alternatives: tuple[tuple[int, float], ...]
    milliseconds: float


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedy at temperature 0, else drawn; `seed` None draws differently each time.

    The names and their meaning are transformers'; top_k 0, top_p 1 and repetition_penalty 1 do nothing.
    Raises TutorialError for a value that has no meaning.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < np.inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise TutorialError(f"{self} cannot be used.", "temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1 can.")
        if not 0 < self.repetition_penalty < np.inf:
            raise TutorialError(f"{self} cannot be used.", "A repetition_penalty above 0 can; 1 is none.")

    def processors(self):
        """transformers' own changes to the scores, in the order in which its `generate` makes them."""
        from transformers.generation import logits_process as change

        chosen = change.LogitsProcessorList()
        if self.repetition_penalty != 1:
            chosen.append(change.RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature not in (0, 1):
            chosen.append(change.TemperatureLogitsWarper(self.temperature))
        if self.temperature and self.top_k:
            chosen.append(change.TopKLogitsWarper(self.top_k))
        if self.temperature and self.top_p < 1:
            chosen.append(change.TopPLogitsWarper(self.top_p))
        return chosen

    def chooser(self) -> Callable[[list[int], np.ndarray], tuple[int, np.ndarray]]:
        """A function from the ids so far and the logits [vocabulary] to the next id and the scores it came from."""
        import torch

        processors, generator = self.processors(), torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)

        def choose(ids, scores):
            if processors:  # greedy has none, and then no tensor of torch's is made
                scores = processors(torch.tensor([ids]), torch.tensor(scores)[None])[0].numpy()
            if self.temperature == 0:
                return int(scores.argmax()), scores
            shares = torch.softmax(torch.from_numpy(scores), dim=-1)
            return int(torch.multinomial(shares, 1, generator=generator)), scores

        return choose


GREEDY = Sampling()


class Cache:
    """The model's state after a text: `ids` are the tokens that it holds.

    Each Cache has an infer request, and so a state, of its own; the weights are shared.  Texts that continue by
    turns, or model.generate in between, do not disturb each other.  Raises TutorialError for an export without state.
    """

    def __init__(self, model) -> None:
        import openvino

        if not model.stateful:
            raise TutorialError(
                "This export keeps no state between two tokens.", "Export with --task text-generation-with-past."
            )
        model.compile()  # does nothing if it is
        compiled, context = model.request.get_compiled_model(), model.config.max_position_embeddings
        self.ids: list[int] = []
        self.request = compiled.create_infer_request()
        # The inputs are made once, as long as the context; a run only sets their shapes, which moves no memory.
        # Handing over new arrays each time takes longer than all else that Python does for a token.
        self.mask = openvino.Tensor(np.ones((1, context), dtype=np.int64))
        self.new, self.positions = (openvino.Tensor(np.zeros((1, context), dtype=np.int64)) for _ in range(2))
        beam = openvino.Tensor(np.zeros(1, dtype=np.int32))  # no beams: the one text goes on from the one state
        inputs = {"input_ids": self.new, "position_ids": self.positions, "attention_mask": self.mask, "beam_idx": beam}
        for port in compiled.inputs:  # a model may do without positions
            self.request.set_tensor(port.any_name, inputs[port.any_name])

    def logits(self, ids: list[int]) -> np.ndarray:
        """The scores [vocabulary] of what follows `ids`; runs the model on those only that the state does not hold.

        The array is the request's own memory, good until the next call.  Raises TutorialError if it has no numbers.
        """
        # While the model runs nobody knows what the state holds.  If something interrupts, it stays "nothing".
        held, self.ids = self.ids, []
        self.request.wait()  # it still runs if the interrupt came between the two lines that start it and wait
        if not held or held != ids[: len(held)] or len(held) == len(ids):
            held = held[: self._keep(held, ids)]
        logits = self._run(ids[len(held) :], len(held))
        if not np.isfinite(logits.max()):  # a NaN anywhere is the maximum
            raise TutorialError(
                f"The model's scores after {len(ids)} tokens are not numbers.",
                'Try INFERENCE_PRECISION_HINT = "f32" in ov_config; if that does not help, export again.',
            )
        held.extend(ids[len(held) :])
        self.ids = held
        return logits

    def _run(self, new_ids: list[int], past: int) -> np.ndarray:
        self.mask.shape = [1, past + len(new_ids)]
        self.new.shape = self.positions.shape = [1, len(new_ids)]
        self.new.data[0], self.positions.data[0] = new_ids, range(past, past + len(new_ids))
        self.request.start_async()
        self.request.wait()
        return self.request.get_tensor("logits").data[0, -1]

    def _keep(self, held: list[int], ids: list[int]) -> int:
        """Cut the state, which holds `held`, back to what it shares with `ids`; returns how many tokens that is.

        One token of `ids` at least is left to run.  Slicing is what OpenVINO GenAI's trim_kv_cache does.  Keys and
        values are read as f32; a cache in f16, bf16 or f32 comes back bit for bit, one in u8 is rounded once more.
        """
        import openvino

        pairs = zip(held, ids[:-1], strict=False)
        shared = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(held), len(ids) - 1))
        for state in self.request.query_state() if shared else []:
            values = state.state.data  # [1, heads, tokens, width]
            if values.ndim != 4 or values.shape[2] != len(held):  # another kind of memory
                shared = 0
                break
            state.state = openvino.Tensor(np.ascontiguousarray(values[:, :, :shared]))
        if not shared:
            self.request.reset_state()
        return shared


def generate(
    model,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Iterable[int] | None = None,
    alternatives: int = 0,
    cache: Cache | None = None,
) -> Iterator[Step]:
    """The steps that continue `prompt_ids`, each computed when it is asked for; the token that stops is the last one.

    It ends at one of `stop_ids` (None: the model's own end tokens), after `max_new_tokens`, or where the context
    ends.  To stop earlier, ask no more; `cache`, which continues what it holds, then knows what it holds.
    Raises TutorialError at once for an empty prompt, one that fills the context, and a budget below 1.
    """
    ids, context = [int(index) for index in prompt_ids], model.config.max_position_embeddings
    if not ids:
        raise TutorialError("The prompt is empty: there is nothing to continue.", "Give at least one id.")
    if len(ids) >= context:
        raise TutorialError(
            f"The prompt has {len(ids)} tokens; with at least one of an answer that is more than the {context} "
            "that this model can look at.",
            "Shorten the prompt, or drop the oldest turns.",
        )
    if max_new_tokens < 1:
        raise TutorialError(f"A budget of {max_new_tokens} new tokens leaves nothing to do.", "Ask for 1 or more.")
    if stop_ids is None:
        end = model.generation_config.eos_token_id
        stop_ids = end if isinstance(end, list) else [end]
    cache = Cache(model) if cache is None else cache
    budget = min(max_new_tokens, context - len(ids))
    return _steps(cache, ids, budget, sampling.chooser(), frozenset(stop_ids), alternatives)


def _steps(cache, ids, budget, choose, stop_ids, alternatives) -> Iterator[Step]:
    for _ in range(budget):
        start = time.perf_counter()
        chosen, scores = choose(ids, cache.logits(ids))
        probability, likeliest = probabilities(scores, chosen, alternatives)
        ids.append(chosen)
        yield Step(chosen, probability, likeliest, 1000 * (time.perf_counter() - start))
        if chosen in stop_ids:
            return


def probabilities(scores: np.ndarray, chosen: int, n: int = 0) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The probability of the id `chosen` under softmax(scores [vocabulary]), and the `n` likeliest (id, probability).

    Those of probability 0, which top-k or top-p removed, are left out.
    """
    weights = np.exp(scores - scores.max())  # [vocabulary]; the largest is 1, so nothing overflows
    total = weights.sum()
    probability = float(weights[chosen] / total)
    if n < 1:
        return probability, ()
    # Everything as good as the n-th, so that of equals the lower id wins, as it does for argmax.
    floor = np.partition(scores, -n)[-n]
    near = np.flatnonzero((scores >= floor) & (weights > 0))
    near = near[np.argsort(-scores[near], kind="stable")][:n]
    return probability, tuple((int(index), float(weights[index] / total)) for index in near)

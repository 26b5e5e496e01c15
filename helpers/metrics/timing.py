"""What speed is made of: times that can be compared, the bytes of a token, the bandwidth of the memory.

It returns numbers and draws nothing.  The protocol: sides take turns, round by round; the first round is a warm-up
and left out; a side's figure is the median, and a ratio is the median of the ratios within a round, which a neighbour
on the machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TypeVar

import numpy as np

from helpers.errors import TutorialError, check_int
from helpers.generate import GeneratedToken
from helpers.settings import display_path

T = TypeVar("T")
BYTES = {"u4": 0.5, "i8": 1, "u8": 1, "f16": 2, "bf16": 2, "f32": 4}  # of one number, by OpenVINO's names
ROUND_BYTES = 1_000_000_000  # what a round of read_bandwidth reads at least: starting threads takes no share of it


@dataclass(frozen=True)
class Spread:
    """The same thing measured again and again, in the caller's unit.  Raises TutorialError for no values."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise TutorialError("Nothing was measured.", "Measure at least once.")

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def p90(self) -> float:
        """Nine of ten values are not above it; between two values it is interpolated, as numpy.quantile does it."""
        several = len(self.values) > 1
        return quantiles(self.values, n=10, method="inclusive")[-1] if several else self.values[0]


@dataclass(frozen=True)
class Timing:
    """The times of one answer: to its first token, and per token after that, in milliseconds."""

    ttft_ms: float
    tpot_ms: Spread
    new_tokens: int

    @classmethod
    def of(cls, steps: Sequence[GeneratedToken], before_ms: float = 0.0) -> Timing:
        """From the steps of `generate`; `before_ms` is what was done before it, tokenization above all.

        Raises TutorialError for fewer than two steps: the first token's time is no time per token.
        """
        if len(steps) < 2:
            raise TutorialError(f"{len(steps)} steps have no time per token.", "Generate at least two tokens.")
        first, *others = (step.milliseconds for step in steps)
        return cls(before_ms + first, Spread.of(others), len(steps))

    @property
    def decode_per_second(self) -> float:
        """Tokens after the first per second of the time that they took together; the prompt is not in it."""
        return 1000 * len(self.tpot_ms.values) / sum(self.tpot_ms.values)


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int, warm_up: int = 1) -> dict[str, list[T]]:
    """What each side returned in each round, A-B-A-B; the first `warm_up` rounds are played and left out."""
    check_int(rounds, "A number of rounds")
    played = [{name: side() for name, side in sides.items()} for _ in range(warm_up + rounds)]
    return {name: [results[name] for results in played[warm_up:]] for name in sides}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ours ÷ theirs, round by round.  Raises TutorialError where the rounds do not match."""
    if not ours or len(ours) != len(theirs):
        raise TutorialError(f"{len(ours)} and {len(theirs)} rounds cannot be compared.", "Measure both in turns.")
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def read_bandwidth(size_bytes: int, threads: int = 2, rounds: int = 7) -> float:
    """GB/s (10^9 bytes) at which `threads` together read a buffer of `size_bytes`, of `rounds` the best.

    The best and not the median, as STREAM has it: the question is what the machine can do when nobody disturbs it.
    The size matters: what fits into the processor's caches is read from there.
    """
    threads, size_bytes = check_int(threads, "A number of threads"), check_int(size_bytes, "A size in bytes")
    buffer = np.ones(size_bytes, dtype=np.uint8)  # ones: memory that was never written to is not there yet
    parts, passes = np.array_split(buffer, threads), -(-ROUND_BYTES // size_bytes)

    def read(part: np.ndarray) -> None:
        # The maximum of bytes is NumPy's fastest reduction: in the cache it goes twice as fast as memory delivers, so
        # it is the memory that we measure.  NumPy lets go of the GIL while it reads.
        for _ in range(passes):
            part.max()

    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):  # the first starts the threads
            start = time.perf_counter()
            list(pool.map(read, parts))
            seconds.append(time.perf_counter() - start)
    return passes * size_bytes / min(seconds[1:]) / 1e9


def weight_bytes_per_token(model_dir: Path | str) -> int:
    """The bytes of weights that one decode step reads, as they are stored in the IR in `model_dir`.

    Every constant, scales and zero points included, that something else than a Gather uses.  A Gather takes one row of
    the embedding; where the scores of the vocabulary use that matrix too (tied embeddings), all of it counts.
    Raises TutorialError where no export is.
    """
    import openvino

    file = Path(model_dir) / "openvino_model.xml"
    if not file.exists():
        raise TutorialError(
            f"There is no export in {display_path(file.parent)}.", "Give the folder of one: settings.model_dir."
        )
    graph = openvino.Core().read_model(file)
    behind: dict[str, dict[str, int]] = {}  # a constant, or what is computed from constants only -> constants, bytes
    read: dict[str, int] = {}
    for node in graph.get_ordered_ops():
        name, sources = node.get_friendly_name(), [value.get_node() for value in node.input_values()]
        names = [source.get_friendly_name() for source in sources]
        if node.get_type_name() == "Constant":
            behind[name] = {name: node.get_byte_size()}
        elif names and all(source in behind for source in names):
            behind[name] = {constant: size for source in names for constant, size in behind[source].items()}
        elif node.get_type_name() != "Gather":
            for source in names:
                read |= behind.get(source, {})
    return sum(read.values())


def kv_bytes_per_token(config, precision: str = "u8") -> int:
    """The bytes that each token of the context adds to what a decode step reads: its key and value in each layer.

    `config` is the model's, or the model; `precision` is that of KV_CACHE_PRECISION.  The scales of u8 and u4 are not
    counted.  Raises TutorialError for a precision without a size.
    """
    if precision not in BYTES:
        raise TutorialError(f"There is no precision {precision!r} here.", f"Choose one of: {', '.join(BYTES)}.")
    config = getattr(config, "config", config)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return int(numbers * BYTES[precision])

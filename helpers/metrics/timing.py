"""Measure speed: times that can be compared, the bytes that a token reads, and the memory bandwidth.

The protocol: the sides take turns, round by round, and the first round is a warm-up.  A side's result is its median.  A
ratio is the median of the ratios within each round, which other load on the machine disturbs least.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import comb, log
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from helpers.errors import TutorialError, check_int
from helpers.settings import display_path

T = TypeVar("T")
BYTES = {"u4": 0.5, "i8": 1, "u8": 1, "f16": 2, "bf16": 2, "f32": 4}  # per number, by OpenVINO's names
ROUND_BYTES = 1_000_000_000  # the least that a round of read_bandwidth reads, so that waking the threads is negligible


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Return what each side returned in each round (A, B, A, B, …), without the first `warm_up` rounds."""
    check_int(rounds, "rounds")
    results = [{name: side() for name, side in sides.items()} for _ in range(warm_up + rounds)]
    return {name: [each[name] for each in results[warm_up:]] for name in sides}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ours / theirs over the rounds.  Raises TutorialError as ratios() does."""
    return median(ratios(ours, theirs))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours / theirs, round by round.  Raises TutorialError when their numbers of rounds differ, or are 0."""
    if not ours or len(ours) != len(theirs):
        raise TutorialError(f"{len(ours)} and {len(theirs)} rounds cannot be compared.", "Measure both in turns.")
    return [a / b for a, b in zip(ours, theirs, strict=True)]


class Comparison(NamedTuple):
    """The median ratio of a setting's times to the baseline's, its 95 % interval, and the verdict on a prediction."""

    ratio: float
    low: float
    high: float
    verdict: Literal["confirmed", "refuted", "within noise"]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that contains the true median with a probability of at least 95 %, whatever the distribution.

    Its ends are order statistics: for 6 to 8 values the smallest and the largest, for 9 to 11 the second and the second
    largest, and so on, as in a sign test.  Raises TutorialError for fewer than 6 values, which have no such interval.
    """
    n, cut = len(values), 0
    # Each further end that we drop adds the probability that this many of n values lie on one side of the median.
    while 2 * sum(comb(n, k) for k in range(cut + 1)) <= 0.05 * 2**n:
        cut += 1
    if not cut:
        raise TutorialError(f"{n} rounds are too few for an interval.", "Measure 6 or more.")
    ordered = sorted(values)
    return ordered[cut - 1], ordered[n - cut]


def verdict(rounds: Sequence[float], baseline_rounds, control_rounds, predicted: str) -> Comparison:
    """Compare the times of a setting with those of the baseline from the same interleaved rounds.

    The control is the baseline measured a second time in each round, so it shows the noise.  A difference counts only
    if it shows against both, that is, both intervals of the per-round ratios exclude 1 on the same side, and if the
    median ratio is further from 1 than the control's is in a typical round.  Otherwise the verdict is "within noise",
    even if "same" was predicted, because noise cannot show that there is no difference.
    Raises TutorialError for an unknown prediction, for fewer than 6 rounds, and when the numbers of rounds differ.
    """
    if predicted not in ("slower", "faster", "same"):
        raise TutorialError(f"Unknown prediction {predicted!r}.", "Choose one of: slower, faster, same.")
    ours = ratios(rounds, baseline_rounds)
    middle, (low, high) = median(ours), median_interval(ours)
    low_2, high_2 = median_interval(ratios(rounds, control_rounds))
    noise = median(abs(log(one)) for one in ratios(control_rounds, baseline_rounds))
    if min(low, low_2) <= 1 <= max(high, high_2) or abs(log(middle)) <= noise:
        return Comparison(middle, low, high, "within noise")
    found = "slower" if middle > 1 else "faster"
    return Comparison(middle, low, high, "confirmed" if found == predicted else "refuted")


def read_bandwidth(size_bytes: int, threads: int = 2, rounds: int = 7) -> float:
    """Return the rate in GB/s (10^9 bytes) at which `threads` read a buffer of `size_bytes`: the best of `rounds`.

    The best rather than the median, as in STREAM, because it estimates the machine's limit.  A buffer that fits into
    the processor's caches is read from there.
    """
    threads, size_bytes = check_int(threads, "threads"), check_int(size_bytes, "size_bytes")
    buffer = np.ones(size_bytes, dtype=np.uint8)  # ones, because memory that was never written to is not allocated
    parts, passes = np.array_split(buffer, threads), -(-ROUND_BYTES // size_bytes)

    def read(part: np.ndarray) -> None:
        # The maximum of bytes is NumPy's fastest reduction.  On data in a cache it runs twice as fast as memory can be
        # read, so memory is the limit here.  NumPy releases the GIL meanwhile.
        for _ in range(passes):
            part.max()

    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):  # the first starts the threads
            start = time.perf_counter()
            list(pool.map(read, parts))
            seconds.append(time.perf_counter() - start)
    return passes * size_bytes / min(seconds[1:]) / 1e9


def compute_throughput(ov_config: Mapping[str, str], width: int = 2048, rows: int = 256, rounds: int = 3) -> float:
    """Return the rate of one large matrix multiplication on the CPU in 10^9 operations/s, the best of `rounds`.

    A multiplication and its addition are two operations.  The weights [width, width] are compressed to 8 bits as by
    NNCF, and the model is compiled with `ov_config`, so that OpenVINO uses the kernel of a large layer of an export.
    """
    import openvino
    from openvino import opset15 as ops

    width, rows = check_int(width, "width"), check_int(rows, "rows")
    quantized = np.random.default_rng(0).integers(0, 256, (width, width), dtype=np.uint8)
    zero, scale = np.full((width, 1), 128, np.uint8), np.full((width, 1), 0.01, np.float16)
    weights = ops.subtract(ops.convert(ops.constant(quantized), "f16"), ops.convert(ops.constant(zero), "f16"))
    weights = ops.convert(ops.multiply(weights, ops.constant(scale)), "f32")
    inputs = ops.parameter([-1, width], openvino.Type.f32)
    graph = openvino.Model([ops.matmul(inputs, weights, False, True)], [inputs])
    request = openvino.Core().compile_model(graph, "CPU", dict(ov_config)).create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ones((rows, width), np.float32)))
    seconds = []
    for _ in range(rounds + 1):  # the first prepares the kernel
        start = time.perf_counter()
        request.infer()
        seconds.append(time.perf_counter() - start)
    return 2 * rows * width**2 / min(seconds[1:]) / 1e9


def matmul_weights(config) -> tuple[int, int]:
    """Return how many weights a token is multiplied with: in all layers, and in the LM head.

    `config` is that of a Llama or Phi-3 model: attention with q, k, v and o, an MLP with gate, up and down.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or hidden // heads
    attention = 2 * hidden * head_size * (heads + config.num_key_value_heads)  # q and o, k and v
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp), hidden * config.vocab_size


def operation_ms(request) -> dict[str, list[float]]:
    """Return {type: milliseconds of each operation of that type}, averaged over all runs of the compiled model.

    The model needs the property PERF_COUNT = "YES".  The type that took longest comes first.
    """
    kinds: dict[str, list[float]] = {}
    for one in request.get_profiling_info():
        if one.status == one.status.EXECUTED:
            kinds.setdefault(one.node_type, []).append(1000 * one.real_time.total_seconds())
    return dict(sorted(kinds.items(), key=lambda kind: -sum(kind[1])))


def weight_bytes_per_token(model_dir: Path | str) -> int:
    """Return the bytes of weights that a decode step reads, as they are stored in the IR in `model_dir`.

    These are all constants, scales and zero points included, that an operation other than Gather uses.  Gather takes
    one row of the embedding; with tied embeddings the LM head uses all of that matrix, so all of it counts.
    Raises TutorialError when there is no export.
    """
    import openvino

    file = Path(model_dir) / "openvino_model.xml"
    if not file.exists():
        raise TutorialError(f"There is no export in {display_path(file.parent)}.", "Pass settings.model_dir.")
    sizes: dict[str, dict[str, int]] = {}  # a constant, or what is computed from constants only → constants, bytes
    read: dict[str, int] = {}
    for node in openvino.Core().read_model(file).get_ordered_ops():
        name = node.get_friendly_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        if node.get_type_name() == "Constant":
            sizes[name] = {name: node.get_byte_size()}
        elif sources and all(source in sizes for source in sources):
            sizes[name] = {constant: size for source in sources for constant, size in sizes[source].items()}
        elif node.get_type_name() != "Gather":
            for source in sources:
                read |= sizes.get(source, {})
    return sum(read.values())


def kv_bytes_per_token(config, precision: str = "u8") -> int:
    """Return the bytes of keys and values of one token in all layers: what a decode step reads per context token.

    `config` is the model's config, or the model itself; `precision` is the value of KV_CACHE_PRECISION.  The scales of
    u8 and u4 are not counted.  Raises TutorialError for an unknown precision.
    """
    if precision not in BYTES:
        raise TutorialError(f"Unknown precision {precision!r}.", f"Choose one of: {', '.join(BYTES)}.")
    config = getattr(config, "config", config)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    return int(numbers * BYTES[precision])

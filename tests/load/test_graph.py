"""The changed graph against the exported one: the same logits in f32."""

import numpy as np
import psutil
import pytest
from loaded import load, theirs
from openvino import Core, Model, Type
from openvino import opset13 as ops
from optimum.intel.openvino import OVModelForCausalLM

from helpers.generate import PromptCache
from helpers.load.graph import SLICED_ABOVE, fuse_parallel_matmuls, kernel_limit, prepare, slice_last_logits
from helpers.metrics.quality import REFERENCE


def matmuls(graph) -> int:
    return sum(node.get_type_name() == "MatMul" for node in graph.get_ops())


def changed(folder, change) -> OVModelForCausalLM:
    model = OVModelForCausalLM.from_pretrained(folder, export=False, compile=False, device="CPU", ov_config=REFERENCE)
    change(model.model)
    model.compile()
    return model


def test_the_logits_of_the_last_position_are_those_of_the_whole_graph(lm):
    sliced = changed(lm.folder, slice_last_logits)
    ours, whole = PromptCache(sliced), PromptCache(lm.state)
    for prompt in (2 * prompt for prompt in lm.prompts):  # longer than SLICED_ABOVE
        assert np.allclose(ours.logits(prompt), whole.logits(prompt), rtol=1e-4, atol=1e-3)
        assert ours.request.get_tensor("logits").shape == [1, 1, sliced.config.vocab_size]
        assert whole.request.get_tensor("logits").shape[1] == len(prompt) - whole.cached_tokens > 1
        assert theirs(sliced, prompt, 8, do_sample=False) == theirs(lm.state, prompt, 8, do_sample=False)


SCALE = np.float32(8)
HEADS = {  # what follows the head's product → whether it can be sliced
    "nothing": (lambda scores: scores, True),
    "divided (Granite)": (lambda scores: ops.divide(scores, SCALE), True),
    "multiplied (Cohere)": (lambda scores: ops.multiply(SCALE, scores), True),
    "multiplied by a converted f16": (lambda scores: ops.multiply(scores, ops.convert(np.float16(8), "f32")), True),
    "capped (Gemma 2)": (lambda scores: ops.multiply(ops.tanh(ops.divide(scores, SCALE)), SCALE), True),
    "a bias (Phi)": (lambda scores: ops.add(scores, np.arange(8, dtype=np.float32)), True),
    "multiplied by itself": (lambda scores: ops.multiply(scores, scores), False),
    "another operation": (ops.relu, False),
    "summed over the positions": (lambda scores: ops.cum_sum(scores, np.int64(1)), False),
}


@pytest.mark.parametrize("length", [1, SLICED_ABOVE, SLICED_ABOVE + 1, 2 * SLICED_ABOVE])
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_cannot_be_sliced_and_a_short_run_keep_all_positions(kind, length):
    after, can_be_sliced = HEADS[kind]
    hidden = ops.parameter([1, -1, 4], name="hidden")
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    scores = after(ops.matmul(hidden, weights, False, True))
    scores.output(0).set_names({"logits"})
    graph = Model([scores], [hidden], "head")
    values = np.random.default_rng(1).normal(size=(1, length, 4)).astype(np.float32)
    (before,) = Core().compile_model(graph.clone(), "CPU")(values).values()
    assert slice_last_logits(graph) is can_be_sliced
    (now,) = Core().compile_model(graph, "CPU")(values).values()
    assert now.shape == (1, 1 if can_be_sliced and length > SLICED_ABOVE else length, 8)
    np.testing.assert_allclose(now[0], before[0, -len(now[0]) :], rtol=1e-5)


def test_openvino_still_has_the_property_that_limits_kernels():
    assert kernel_limit() == {"CPU_RUNTIME_CACHE_CAPACITY": "64"}
    given = {"CPU_RUNTIME_CACHE_CAPACITY": "7"}
    hidden = ops.parameter([1, -1, 4], name="hidden")
    logits = ops.relu(hidden)
    logits.output(0).set_names({"logits"})
    prepare(Model([logits], [hidden], "no model"), "CPU", given, 0)
    assert given == {"CPU_RUNTIME_CACHE_CAPACITY": "7"}, "the reader's own"


@pytest.mark.weekly
def test_prompts_of_many_lengths_do_not_fill_memory(embedded_lm):
    """With OpenVINO's own limits 120 lengths take about 300 MiB."""
    cache = PromptCache(embedded_lm.exact)
    for length in (9, 257):
        cache.logits([1] * length)
    before = psutil.Process().memory_full_info().uss
    for length in range(10, 250, 2):
        cache.logits([length] * length)
    assert psutil.Process().memory_full_info().uss - before < 150 * 2**20


def test_a_product_whose_positions_lie_on_another_axis_is_left():
    hidden = ops.parameter([-1, 1, 4], name="hidden")
    scores = ops.matmul(hidden, np.ones((8, 4), np.float32), False, True)
    scores.output(0).set_names({"logits"})
    graph = Model([scores], [hidden], "head")
    assert slice_last_logits(graph, axis=2) is False
    assert graph.output("logits").partial_shape.to_string() == "[?,1,8]"


def test_matrices_of_experts_are_not_fused():
    hidden = ops.parameter([4, -1, 6], name="hidden")
    products = [ops.matmul(hidden, np.ones((4, 8, 6), np.float32), False, True) for _ in range(2)]
    graph = Model(products, [hidden], "experts")
    assert fuse_parallel_matmuls(graph) == 0 and matmuls(graph) == 2


def test_fused_matmuls_give_the_same_logits(exported):
    fused, original = changed(exported.folder, fuse_parallel_matmuls), load(exported.folder, **REFERENCE)
    assert matmuls(fused.model) < matmuls(original.model)
    ours, expected = PromptCache(fused), PromptCache(original)
    ids = [(7 * n * n + 3 * n) % 600 for n in range(40)]
    for length in (37, 38, 40):  # a prefill, a token, two tokens
        assert np.allclose(ours.logits(ids[:length]), expected.logits(ids[:length]), rtol=1e-5, atol=1e-4)


def test_layers_of_smollm2_have_fewer_matmuls_and_phi3_comes_fused(exported, phi3_folder):
    for folder, fewer in (exported.folder, range(2, 7)), (phi3_folder, [0]):  # of 2 layers, at least gate and up
        graph = Core().read_model(folder / "openvino_model.xml")
        before, fused = matmuls(graph), fuse_parallel_matmuls(graph)
        assert fused in fewer and matmuls(graph) == before - fused


def test_on_a_device_other_than_the_cpu_the_matmuls_and_the_state_stay(exported):
    for device, fewer in (("CPU", True), ("GPU", False), ("GPU.1", False), ("NPU", False)):
        graph = Core().read_model(exported.folder / "openvino_model.xml")
        before = matmuls(graph)
        paged = prepare(graph, device, REFERENCE)
        assert (matmuls(graph) < before) == bool(paged) == fewer


def compressed(rows: int, columns: int, seed: int, scales: int | None = None, kind=Type.i4):
    """A matrix as NNCF stores it: quantized values times a scale per half row; `scales` 1 has one for all rows."""
    random = np.random.default_rng(seed)
    values = ops.constant(random.integers(-8, 8, (rows, 2, columns // 2)).astype(np.int8), kind)
    scale = ops.constant(random.normal(size=(scales or rows, 2, 1)).astype(np.float16))
    weights = ops.multiply(ops.convert(values, "f16"), scale)
    return ops.convert(ops.reshape(weights, [rows, columns], False), "f32")


def uncompressed(rows: int, columns: int, seed: int):
    return ops.constant(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


@pytest.mark.parametrize(
    "weights, fewer",
    [
        (lambda: [compressed(8, 16, 1), compressed(4, 16, 2), compressed(4, 16, 3)], 2),
        (lambda: [uncompressed(8, 16, 1), uncompressed(4, 16, 2)], 1),
        (lambda: [compressed(8, 16, 1), compressed(4, 16, 2, kind=Type.i8)], 0),
        (lambda: [compressed(8, 16, 1), uncompressed(4, 16, 2)], 0),
        (lambda: [compressed(8, 16, 1, scales=1), compressed(8, 16, 2, scales=1)], 0),
        (lambda: [shared := compressed(8, 16, 1), shared], 0),
    ],
    ids=["int4", "plain", "int4 and int8", "int4 and plain", "one scale for all rows", "the same matrix twice"],
)
def test_only_matrices_of_the_same_format_are_fused(weights, fewer):
    x = ops.parameter([-1, 16], name="x")
    results = [ops.matmul(x, weight, False, True) for weight in weights()]
    graph, inputs = Model(results, [x], "matmuls"), np.random.default_rng(9).normal(size=(3, 16)).astype(np.float32)
    core = Core()
    before = core.compile_model(graph, "CPU", REFERENCE)(inputs)
    expected = [before[n].copy() for n in range(len(results))]
    assert fuse_parallel_matmuls(graph) == fewer
    after = core.compile_model(graph, "CPU", REFERENCE)(inputs)
    for n, values in enumerate(expected):
        assert np.allclose(after[n], values, rtol=1e-6, atol=1e-6)


def test_matmuls_of_different_inputs_or_not_transposed_are_not_fused():
    x, y = ops.parameter([-1, 16], name="x"), ops.parameter([-1, 16], name="y")
    results = [ops.matmul(x, uncompressed(8, 16, 1), False, True), ops.matmul(y, uncompressed(8, 16, 2), False, True)]
    results += [ops.matmul(x, uncompressed(16, 8, 3), False, False)]
    graph = Model(results, [x, y])
    assert fuse_parallel_matmuls(graph) == 0 and matmuls(graph) == 3

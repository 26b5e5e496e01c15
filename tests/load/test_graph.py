"""The changed graph against the one from the file: the same scores, at a precision where that can hold."""

import numpy as np
import pytest
from loaded import theirs
from openvino import Core, Model, Type
from openvino import opset13 as ops
from optimum.intel.openvino import OVModelForCausalLM

from helpers.generate import PromptCache
from helpers.load.graph import fuse_parallel_matmuls, prepare, slice_last_logits
from helpers.metrics.quality import REFERENCE


def products(graph) -> int:
    return sum(node.get_type_name() == "MatMul" for node in graph.get_ops())


def changed(folder, change) -> OVModelForCausalLM:
    model = OVModelForCausalLM.from_pretrained(folder, export=False, compile=False, device="CPU", ov_config=REFERENCE)
    change(model.model)
    model.compile()
    return model


def test_the_scores_of_the_last_position_are_those_of_the_whole_graph(lm):
    last = changed(lm.folder, slice_last_logits)
    some, all_of_them = PromptCache(last), PromptCache(lm.state)
    for prompt in lm.prompts:
        assert np.allclose(some.logits(prompt), all_of_them.logits(prompt), rtol=1e-4, atol=1e-3)
        assert some.request.get_tensor("logits").shape == [1, 1, last.config.vocab_size]
        assert all_of_them.request.get_tensor("logits").shape[1] == len(prompt) or all_of_them.cached_tokens
        assert theirs(last, prompt, 8, do_sample=False) == theirs(lm.state, prompt, 8, do_sample=False)


def test_a_graph_that_does_not_end_in_a_product_keeps_all_positions():
    hidden = ops.parameter([1, -1, 4], name="hidden")
    scores = ops.relu(hidden)
    scores.output(0).set_names({"logits"})
    graph = Model([scores], [hidden], "no product")
    slice_last_logits(graph)
    assert graph.output("logits").partial_shape.to_string() == "[1,?,4]"


def test_joined_products_give_the_same_scores(lm):
    joined = changed(lm.folder, fuse_parallel_matmuls)
    ours, plain = PromptCache(joined), PromptCache(lm.state)
    for prompt in lm.prompts:  # read at once, then token by token
        for length in (len(prompt), len(prompt) + 1, len(prompt) + 2):
            ids = [*prompt, *prompt][:length]
            assert np.allclose(ours.logits(ids), plain.logits(ids), rtol=1e-5, atol=1e-4)


def test_layers_of_smollm2_have_fewer_products_and_those_of_phi3_as_many(exported, phi3_folder, settings):
    for folder, layers, fewer in ((settings.model_dir, 2, range(2, 7)), (phi3_folder, 1, [0])):
        graph = Core().read_model(folder / "openvino_model.xml")
        before = products(graph)
        joined = fuse_parallel_matmuls(graph)
        assert joined in fewer, "at least gate and up, of each layer" if layers > 1 else "they come joined"
        assert products(graph) == before - joined


def test_on_another_device_than_the_cpu_they_stay_as_they_are(exported, settings):
    for device, fewer in (("CPU", True), ("GPU", False), ("GPU.1", False), ("NPU", False)):
        graph = Core().read_model(settings.model_dir / "openvino_model.xml")
        before = products(graph)
        paged = prepare(graph, device, REFERENCE)
        assert (products(graph) < before) == bool(paged) == fewer


def compressed(rows: int, columns: int, seed: int, scales: int | None = None, kind=Type.i4):
    """A matrix as NNCF keeps it, (codes · scale) in groups of half a row; `scales` 1 has one for all rows."""
    random = np.random.default_rng(seed)
    codes = ops.constant(random.integers(-8, 8, (rows, 2, columns // 2)).astype(np.int8), kind)
    scale = ops.constant(random.normal(size=(scales or rows, 2, 1)).astype(np.float16))
    product = ops.multiply(ops.convert(codes, "f16"), scale)
    return ops.convert(ops.reshape(product, [rows, columns], False), "f32")


def without_special_tokens(rows: int, columns: int, seed: int):
    return ops.constant(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


@pytest.mark.parametrize(
    "weights, fewer",
    [
        (lambda: [compressed(8, 16, 1), compressed(4, 16, 2), compressed(4, 16, 3)], 2),
        (lambda: [without_special_tokens(8, 16, 1), without_special_tokens(4, 16, 2)], 1),
        (lambda: [compressed(8, 16, 1), compressed(4, 16, 2, kind=Type.i8)], 0),
        (lambda: [compressed(8, 16, 1), without_special_tokens(4, 16, 2)], 0),
        (lambda: [compressed(8, 16, 1, scales=1), compressed(8, 16, 2, scales=1)], 0),
        (lambda: [shared := compressed(8, 16, 1), shared], 0),
    ],
    ids=["int4", "plain", "int4 and int8", "int4 and plain", "one scale for all rows", "the same matrix twice"],
)
def test_only_matrices_of_one_form_are_joined(weights, fewer):
    x = ops.parameter([-1, 16], name="x")
    results = [ops.matmul(x, weight, False, True) for weight in weights()]
    graph, values = Model(results, [x], "products"), np.random.default_rng(9).normal(size=(3, 16)).astype(np.float32)
    core = Core()
    before = core.compile_model(graph, "CPU", REFERENCE)(values)
    expected = [before[n].copy() for n in range(len(results))]
    assert fuse_parallel_matmuls(graph) == fewer
    after = core.compile_model(graph, "CPU", REFERENCE)(values)
    for n, scores in enumerate(expected):
        assert np.allclose(after[n], scores, rtol=1e-6, atol=1e-6)


def test_products_of_different_inputs_or_the_other_way_round_are_not_joined():
    x, y = ops.parameter([-1, 16], name="x"), ops.parameter([-1, 16], name="y")
    turned = ops.matmul(x, without_special_tokens(16, 8, 3), False, False)
    graph = Model(
        [
            ops.matmul(x, without_special_tokens(8, 16, 1), False, True),
            ops.matmul(y, without_special_tokens(8, 16, 2), False, True),
            turned,
        ],
        [x, y],
    )
    assert fuse_parallel_matmuls(graph) == 0 and products(graph) == 3

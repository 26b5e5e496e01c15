"""Three changes to a model's graph before it is compiled, after which it says the same in less time."""

from __future__ import annotations

from collections import defaultdict

import numpy as np


def prepare(graph, device: str, ov_config: dict[str, str], paged: bool = True):
    """Change an openvino.Model in place, before it is compiled for `device`, to what a chat on it needs.

    Returns its paged form, compiled; None where that is not wanted or not to be had: then compile the graph itself.
    """
    on_cpu = device.startswith("CPU")
    if on_cpu:  # the GPU's plugin has a pass for it, FullyConnectedHorizontalFusion
        fuse_parallel_matmuls(graph)
    compiled = compile_paged(graph, ov_config) if on_cpu and paged else None
    slice_last_logits(graph)
    return compiled


def compile_paged(graph, ov_config: dict[str, str]):
    """Return a copy of the graph with paged attention instead of a state, compiled for the CPU, or None.

    None is for an OpenVINO, a processor or a graph with which that does not go.  OpenVINO GenAI makes the same change.
    CACHE_DIR has no part in it: what 2026.4 writes there of such a graph it cannot load, and so would write each time.
    """
    from openvino import Core

    paged = graph.clone()  # the weights are not copied
    try:
        from openvino._offline_transformations import paged_attention_transformation

        paged_attention_transformation(paged)
        slice_last_logits(paged, axis=0)  # the tokens are the first axis now
        return Core().compile_model(paged, "CPU", {**ov_config, "CACHE_DIR": ""})
    except (ImportError, RuntimeError):
        return None


def slice_last_logits(graph, axis: int = 1) -> None:
    """Let `logits` be those of the last position only; `axis` is that of the positions.

    While a prompt is read nobody looks at the other positions, and each costs a row of the vocabulary's length.
    OpenVINO GenAI does the same (slice_before_matmul).  A graph that does not end in a product is left as it is.
    """
    from openvino import opset13 as ops

    node = graph.output("logits").get_node()
    while node.get_type_name() in ("Result", "Convert"):
        node = node.input_value(0).get_node()
    if node.get_type_name() == "MatMul":
        hidden, last = node.input(0), ([-1], [2**31 - 1], [1], [axis])  # begin, end, step, axis
        hidden.replace_source_output(ops.slice(hidden.get_source_output(), *last).output(0))
        graph.validate_nodes_and_infer_types()


def fuse_parallel_matmuls(graph) -> int:
    """Put products of the same input into one; return how many fewer there are.

    A layer takes its query, key and value by three products of one input, its MLP's gate and up by two.  Each costs the
    CPU's plugin some time besides its work, at every token.  Matrices that are compressed in the same way can be put
    one below the other, with their scales and zero points, and the result be split: the same sums of the same numbers.
    Some models, Phi-3 among them, come like that.
    """
    alike = defaultdict(list)
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "MatMul" and (form := _fusion_key(node)):
            source = node.input_value(0)
            alike[source.get_node().get_friendly_name(), source.get_index(), form].append(node)
    groups = [nodes for nodes in alike.values() if len(nodes) > 1]
    for nodes in groups:
        _fuse(nodes)
    graph.validate_nodes_and_infer_types()
    return sum(len(nodes) - 1 for nodes in groups)


def _fusion_key(product) -> tuple | None:
    """How the matrix [rows, columns] of a product is kept: products of the same form can be joined.  None: not this."""
    plain = product.get_attributes() == {"transpose_a": False, "transpose_b": True}
    if not plain or not product.input_value(1).get_partial_shape().is_static:
        return None
    rows, form = product.input_value(1).get_shape()[0], []
    for port in _weights(product.input(1)):
        node, shape = port.get_source_output().get_node(), list(port.get_shape())
        constant, target = node.get_type_name() == "Constant", _is_shape(port)
        if not target and (shape[:1] != [rows] or not constant and len(node.output(0).get_target_inputs()) > 1):
            return None  # one scale for all rows, or a matrix that something else uses too
        form.append((node.get_type_name(), str(port.get_element_type()), tuple(shape[1:])))
    return tuple(form)


def _weights(port) -> list:
    """The inputs from `port` up to the constants behind it, depth first."""
    return [port, *(each for above in port.get_source_output().get_node().inputs() for each in _weights(above))]


def _is_shape(port) -> bool:
    """Whether this is where a Reshape is told the new shape."""
    return port.get_node().get_type_name() == "Reshape" and port.get_index() == 1


def _fuse(products: list) -> None:
    from openvino import opset13 as ops

    first, *_ = products
    lengths = [product.input_value(1).get_shape()[0] for product in products]
    users = [list(product.output(0).get_target_inputs()) for product in products]
    for same in zip(*(_weights(product.input(1)) for product in products), strict=True):
        constants = [port.get_source_output().get_node() for port in same]
        if constants[0].get_type_name() == "Constant":
            joined = _shape(constants, lengths) if _is_shape(same[0]) else _concat_rows(constants)
            same[0].replace_source_output(joined.output(0))
    behind = [port.get_source_output().get_node() for port in _weights(first.input(1))]
    for node in (*reversed(behind), first):
        node.constructor_validate_and_infer_types()  # the new shape, from the constants on
    split = ops.variadic_split(first.output(0), -1, np.array(lengths))
    for part, inputs in zip(split.outputs(), users, strict=True):
        for port in inputs:
            port.replace_source_output(part)


def _shape(constants: list, lengths: list[int]):
    from openvino import op

    return op.Constant(np.array([sum(lengths), *constants[0].data[1:]]))


def _concat_rows(constants: list):
    """A constant with the rows of all; a row of int4 is whole bytes, as its length is even."""
    from openvino import Shape, Tensor, op

    first = constants[0]
    rows = sum(constant.get_output_shape(0)[0] for constant in constants)
    joined = Tensor(first.get_output_element_type(0), Shape([rows, *list(first.get_output_shape(0))[1:]]))
    parts = [np.ascontiguousarray(constant.data).reshape(-1).view(np.uint8) for constant in constants]
    joined.data.reshape(-1).view(np.uint8)[:] = np.concatenate(parts)
    return op.Constant(joined, shared_memory=True)

"""Change a model's graph before it is compiled, so that it computes the same logits in less time."""

from collections import defaultdict
from contextlib import suppress

import numpy as np

SLICED_ABOVE = 16  # tokens; up to this length, a run returns all logits, to verify a draft and the token before it
# Operations that may stand between the LM head and the output, and that treat each position alike.
ELEMENTWISE = ("Result", "Convert", "Multiply", "Divide", "Tanh", "Add")


def prepare(graph, device: str, ov_config: dict[str, str], copies: int = 1) -> list:
    """Change an openvino.Model and its `ov_config` in place for generation on `device`, before it is compiled.

    Returns the version with a paged KV cache, compiled `copies` times, or [] if it is not wanted or not possible; in
    that case, the caller compiles the graph itself.
    """
    on_cpu = device.startswith("CPU")
    if on_cpu:
        ov_config.update(kernel_limit() | ov_config)
        fuse_parallel_matmuls(graph)  # the GPU plugin does this itself (FullyConnectedHorizontalFusion)
    compiled = compile_paged(graph, ov_config, copies) if on_cpu and copies else []
    slice_last_logits(graph)
    return compiled


def kernel_limit() -> dict[str, str]:
    """Return the property that limits the CPU plugin's kernel cache, or {} if the plugin no longer has it.

    The plugin caches kernels for every sequence length that it has run: 3 MB per length for SmolLM2, up to 5,000
    kernels.  oneDNN, which it uses, also caches them (ONEDNN_PRIMITIVE_CACHE_CAPACITY in helpers/__init__.py).
    """
    from openvino import Core

    limit = {"CPU_RUNTIME_CACHE_CAPACITY": "64"}  # not documented: github.com/openvinotoolkit/openvino/issues/23316
    with suppress(RuntimeError):
        Core().set_property("CPU", limit)
        return limit
    return {}


def compile_paged(graph, ov_config: dict[str, str], copies: int) -> list:
    """Return the graph with a paged KV cache instead of the stateful one, compiled for the CPU `copies` times.

    Returns [] where OpenVINO, the processor or the graph does not support it.  CACHE_DIR is not used, because
    OpenVINO 2026.4 cannot load such a graph from it, and would write it again each time.
    """
    from openvino import Core

    if has_attention_bias(graph):
        return []
    paged = graph.clone()  # shares the weights
    try:
        from openvino._offline_transformations import paged_attention_transformation

        paged_attention_transformation(paged)
        slice_last_logits(paged, axis=0)  # its tokens are on the first axis
        return [Core().compile_model(paged, "CPU", {**ov_config, "CACHE_DIR": ""}) for _ in range(copies)]
    except (ImportError, RuntimeError):
        return []


def has_attention_bias(graph) -> bool:
    """Return whether more than a mask is added to the attention's scores, as MPT does (ALiBi, arXiv:2108.12409).

    OpenVINO 2026.4's paged_attention_transformation drops MPT's bias without an error.  A bias is computed from a
    floating-point constant with a value per head or position, a mask only from lengths and scalars.
    """
    attention = [node for node in graph.get_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    above, seen = [node.input_value(3).get_node() for node in attention if node.get_input_size() > 3], set()
    while above:
        node = above.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in seen or kind == "ShapeOf":  # the lengths of the text
            continue
        seen.add(name)
        if kind == "Constant" and node.get_element_type().is_real() and np.prod(node.get_output_shape(0)) > 1:
            return True
        above += [port.get_source_output().get_node() for port in node.inputs()]
    return False


def slice_last_logits(graph, axis: int = 1) -> bool:
    """Make the graph return `logits` of the last position only; `axis` is that of positions.  Return whether it worked.

    Prefill needs no other logits, and each position would add a row as long as the vocabulary.  OpenVINO GenAI does the
    same (slice_before_matmul).  A run of at most SLICED_ABOVE tokens keeps all of them, so that a draft can be
    verified.  The LM head may be followed by a scale or a cap (Granite, Cohere, Gemma).  Any other graph is left
    unchanged.
    """
    from openvino import opset13 as ops

    node = graph.output("logits").get_node()
    while node.get_type_name() in ELEMENTWISE:
        above = [port.get_source_output().get_node() for port in node.inputs()]
        computed = [each for each in above if not _is_constant(each)]
        if len(computed) != 1:
            return False
        (node,) = computed
    if node.get_type_name() != "MatMul":
        return False
    hidden, last = node.input(0), ([-1], [2**63 - 1], [1], [axis])  # start, stop, step, axis
    source = hidden.get_source_output()
    with suppress(RuntimeError):  # the shapes do not fit
        sliced = ops.slice(source, *last)
        hidden.replace_source_output(sliced.output(0))
        graph.validate_nodes_and_infer_types()
        if graph.output("logits").get_partial_shape()[axis].get_max_length() == 1:
            length = ops.gather(ops.shape_of(source), [axis], 0)
            start = ops.select(ops.less_equal(length, [SLICED_ABOVE]), [-SLICED_ABOVE], [-1])
            sliced.input(1).replace_source_output(start.output(0))
            graph.validate_nodes_and_infer_types()
            return True
    hidden.replace_source_output(source)
    graph.validate_nodes_and_infer_types()
    return False


def _is_constant(node) -> bool:
    """Return whether the node's value is a constant, possibly converted to a different type."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


def fuse_parallel_matmuls(graph) -> int:
    """Fuse matrix multiplications that have the same input; return how many fewer there are.

    In a layer the query, key and value projections have the same input, and so have the MLP's gate and up projections.
    Each multiplication costs the CPU plugin some overhead per token.  Matrices that are compressed in the same way can
    be concatenated, with their scales and zero points, and the output can be split again: each value remains the same
    sum.  Some models, such as Phi-3, come with fused matrices.
    """
    parallel = defaultdict(list)
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "MatMul" and (key := _fusion_key(node)):
            source = node.input_value(0)
            parallel[source.get_node().get_friendly_name(), source.get_index(), key].append(node)
    groups = [matmuls for matmuls in parallel.values() if len(matmuls) > 1]
    for matmuls in groups:
        _fuse(matmuls)
    graph.validate_nodes_and_infer_types()
    return sum(len(matmuls) - 1 for matmuls in groups)


def _fusion_key(matmul) -> tuple | None:
    """Return how the matrix [rows, columns] is stored, None if it cannot be fused; equal keys can be fused."""
    transposed = matmul.get_attributes() == {"transpose_a": False, "transpose_b": True}
    matrix = matmul.input_value(1).get_partial_shape()
    if not transposed or not matrix.is_static or len(matrix) != 2:  # three axes: the experts of a mixture
        return None
    rows, key = matmul.input_value(1).get_shape()[0], []
    for port in _weight_inputs(matmul.input(1)):
        node, shape = port.get_source_output().get_node(), list(port.get_shape())
        shared = node.get_type_name() != "Constant" and len(node.output(0).get_target_inputs()) > 1
        if not _is_reshape_target(port) and (shape[:1] != [rows] or shared):
            return None  # one scale for all rows, or a matrix that is used elsewhere too
        key.append((node.get_type_name(), str(port.get_element_type()), tuple(shape[1:])))
    return tuple(key)


def _weight_inputs(port) -> list:
    """Return all inputs from `port` up to the constants from which it is computed, depth first."""
    return [port, *(each for above in port.get_source_output().get_node().inputs() for each in _weight_inputs(above))]


def _is_reshape_target(port) -> bool:
    """Return whether this input is the new shape of a Reshape."""
    return port.get_node().get_type_name() == "Reshape" and port.get_index() == 1


def _fuse(matmuls: list) -> None:
    from openvino import op
    from openvino import opset13 as ops

    first, *_ = matmuls
    rows = [matmul.input_value(1).get_shape()[0] for matmul in matmuls]
    users = [list(matmul.output(0).get_target_inputs()) for matmul in matmuls]
    for ports in zip(*(_weight_inputs(matmul.input(1)) for matmul in matmuls), strict=True):
        constants = [port.get_source_output().get_node() for port in ports]
        if constants[0].get_type_name() == "Constant":
            if _is_reshape_target(ports[0]):
                fused = op.Constant(np.array([sum(rows), *constants[0].data[1:]]))
            else:
                fused = _concat_rows(constants)
            ports[0].replace_source_output(fused.output(0))
    computed = [port.get_source_output().get_node() for port in _weight_inputs(first.input(1))]
    for node in (*reversed(computed), first):
        node.constructor_validate_and_infer_types()  # propagates the new shape from the constants on
    split = ops.variadic_split(first.output(0), -1, np.array(rows))
    for part, inputs in zip(split.outputs(), users, strict=True):
        for port in inputs:
            port.replace_source_output(part)


def _concat_rows(constants: list):
    """Return a constant with the rows of all `constants`; an int4 row fills whole bytes, because its length is even."""
    from openvino import Shape, Tensor, op

    first = constants[0]
    rows = sum(constant.get_output_shape(0)[0] for constant in constants)
    fused = Tensor(first.get_output_element_type(0), Shape([rows, *list(first.get_output_shape(0))[1:]]))
    parts = [np.ascontiguousarray(constant.data).reshape(-1).view(np.uint8) for constant in constants]
    fused.data.reshape(-1).view(np.uint8)[:] = np.concatenate(parts)
    return op.Constant(fused, shared_memory=True)

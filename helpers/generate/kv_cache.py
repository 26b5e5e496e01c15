"""The KV cache: OpenVINO's stateful cache, or a paged cache in tensors of our own."""

import numpy as np

PREFILL_CHUNK_SIZE = 256  # tokens: as fast as a single pass, from SmolLM2's shape to Phi-3's, and shows progress
INITIAL_CAPACITY = 512  # tokens


class StatefulKVCache:
    """Keys and values in the state of the infer request, [1, KV heads, tokens, head size] each, as exported.

    Every device supports it.  If tokens are cached, the CPU plugin computes attention for each new token separately.
    """

    prefill_chunk_size: int | None = None  # no limit
    survives_cancel = False  # its content is undefined while the request runs

    def __init__(self, compiled, context_length: int) -> None:
        from openvino import Tensor

        self.request = compiled.create_infer_request()
        # The inputs are allocated once, at the length of the context window; a run only sets their shapes, which copies
        # nothing.  Passing new arrays would take longer than everything else that Python does for a token.
        self.inputs = {
            "input_ids": Tensor(np.zeros((1, context_length), np.int64)),
            "position_ids": Tensor(np.zeros((1, context_length), np.int64)),
            "attention_mask": Tensor(np.ones((1, context_length), np.int64)),
            "beam_idx": Tensor(np.zeros(1, np.int32)),  # no beam search: there is only one sequence to continue
        }
        for port in self.request.model_inputs:
            self.request.set_tensor(port, self.inputs[port.any_name])

    def set_inputs(self, new_ids: list[int], n_cached: int) -> None:
        """Set the inputs for a run on `new_ids` after `n_cached` cached tokens, which are all that is cached."""
        self.inputs["attention_mask"].shape = [1, n_cached + len(new_ids)]
        for name, values in ("input_ids", new_ids), ("position_ids", range(n_cached, n_cached + len(new_ids))):
            self.inputs[name].shape = [1, len(new_ids)]
            self.inputs[name].data[0] = values

    def trim(self, n_cached: int, n_kept: int) -> int:
        """Remove all but the first `n_kept` of the `n_cached` tokens; return how many remain, `n_kept` or 0.

        Slices the tensors as OpenVINO GenAI does (trim_kv_cache).  They are read as f32: an f16, bf16 or f32 cache
        gets the same bits back, a u8 cache is quantized again.
        """
        from openvino import Tensor

        for state in self.request.query_state() if n_kept else ():
            values = state.state.data  # [1, heads, tokens, head size]
            if values.ndim != 4 or values.shape[2] != n_cached:
                n_kept = 0  # a state of a different kind: start from an empty one
                break
            state.state = Tensor(np.ascontiguousarray(values[:, :, :n_kept]))
        if not n_kept:
            self.request.reset_state()
        return n_kept


class PagedKVCache:
    """Keys and values in tensors of our own, [blocks, heads, tokens per block, head size]: PagedAttention, as in vLLM.

    Each run gets the number of cached tokens and writes the new ones after them.  Passing a smaller number trims the
    cache, because anything in the blocks after the cached tokens is ignored.  u8 blocks also store their scales and
    zero points, and are requantized as they fill.  If the graph was compiled twice, one copy runs single tokens, the
    other all longer runs; both write to the same blocks.
    """

    prefill_chunk_size: int | None = PREFILL_CHUNK_SIZE
    survives_cancel = True  # a run appends after the cached tokens, which stay valid

    def __init__(self, compiled: list, context_length: int) -> None:
        from openvino import Tensor

        self.requests = [each.create_infer_request() for each in compiled]
        self.request = self.requests[0]
        self.memory = {port: None for port in self.request.model_inputs if "_cache." in port.any_name}
        value = next(port for port in self.memory if port.any_name.startswith("value"))
        self.block = value.get_partial_shape()[2].get_length()  # tokens; a key block may also have rows of scales
        self.capacity = 0  # blocks
        max_blocks = -(-context_length // self.block)
        sizes = {"past_lens": 1, "subsequence_begins": 2, "block_indices_begins": 2, "block_indices": max_blocks}
        self.inputs = {name: Tensor(np.zeros(context_length, np.int64)) for name in ("input_ids", "position_ids")}
        self.inputs |= {name: Tensor(np.zeros(size, np.int32)) for name, size in sizes.items()}
        self.inputs["max_context_len"] = Tensor(np.array(0, np.int32))
        self.inputs["block_indices"].data[:] = range(max_blocks)  # a single sequence, so its blocks are in order
        for name, tensor in self.inputs.items():
            self._set_tensor(name, tensor)

    def set_inputs(self, new_ids: list[int], n_cached: int) -> None:
        """Set the inputs for a run on `new_ids` after `n_cached` cached tokens, which are all that is cached."""
        self.request = self.requests[0 if len(new_ids) == 1 else -1]  # the same, unless the graph was compiled twice
        end = n_cached + len(new_ids)
        blocks = -(-end // self.block)
        if blocks > self.capacity:
            self._grow(blocks)
        for name, values in ("input_ids", new_ids), ("position_ids", range(n_cached, end)):
            self.inputs[name].shape = [len(new_ids)]
            self.inputs[name].data[:] = values
        self.inputs["past_lens"].data[0] = n_cached
        self.inputs["subsequence_begins"].data[1] = len(new_ids)
        self.inputs["block_indices"].shape = [blocks]
        self.inputs["block_indices_begins"].data[1] = blocks
        self.inputs["max_context_len"].data[...] = end

    def trim(self, n_cached: int, n_kept: int) -> int:
        """Remove all but the first `n_kept` of the `n_cached` tokens; return how many remain: `n_kept`."""
        return n_kept

    def _grow(self, blocks: int) -> None:
        from openvino import Tensor

        capacity = max(blocks, 2 * self.capacity, INITIAL_CAPACITY // self.block)
        for port, old in self.memory.items():
            shape = port.get_partial_shape().get_min_shape()
            shape[0] = capacity
            # Allocated by OpenVINO, so it outlives a cancelled run that still writes to it; a NumPy array might not.
            new = Tensor(port.get_element_type(), shape)
            if old:
                _bytes(new)[: old.byte_size] = _bytes(old)
            self.memory[port] = new
            self._set_tensor(port.any_name, new)
        self.capacity = capacity

    def _set_tensor(self, name: str, tensor) -> None:
        for request in self.requests:
            request.set_tensor(name, tensor)


def _bytes(tensor) -> np.ndarray:
    return tensor.data.reshape(-1).view(np.uint8)

"""The KV cache, what a model remembers of the tokens it has read: as OpenVINO's hidden state, or in blocks of ours."""

from __future__ import annotations

import numpy as np

PREFILL_CHUNK_SIZE = 256  # tokens: as fast as all at once, from SmolLM2's shape to Phi-3's, and shows progress
INITIAL_CAPACITY = 512  # tokens


class StatefulKVCache:
    """Keys and values inside the infer request, [1, heads, tokens, width] each: the graph as it was exported.

    Every device runs it.  The CPU's plugin lets each token that is read look back alone, at all before it.
    """

    prefill_chunk_size: int | None = None  # how many tokens to read at once: all of them
    survives_cancel = False  # nobody knows what it is while the request runs

    def __init__(self, compiled, longest: int) -> None:
        from openvino import Tensor

        self.request = compiled.create_infer_request()
        # The inputs are made once, as long as the context; a run only sets their shapes, which moves no memory.
        # Handing over new arrays takes longer than all the rest that Python does for a token.
        self.inputs = {
            "input_ids": Tensor(np.zeros((1, longest), np.int64)),
            "position_ids": Tensor(np.zeros((1, longest), np.int64)),
            "attention_mask": Tensor(np.ones((1, longest), np.int64)),
            "beam_idx": Tensor(np.zeros(1, np.int32)),  # no beams: the text goes on from the one state
        }
        for port in self.request.model_inputs:
            self.request.set_tensor(port, self.inputs[port.any_name])

    def set_inputs(self, new: list[int], past: int) -> None:
        """Make ready to read `new` behind the first `past` tokens, which are all that is kept."""
        self.inputs["attention_mask"].shape = [1, past + len(new)]
        for name, values in ("input_ids", new), ("position_ids", range(past, past + len(new))):
            self.inputs[name].shape = [1, len(new)]
            self.inputs[name].data[0] = values

    def trim(self, read: int, shared: int) -> int:
        """Forget all but the first `shared` of the `read` tokens, and return how many are kept: those, or none.

        Slicing the state's tensors is what OpenVINO GenAI does (trim_kv_cache).  They are read as f32: a KV cache of
        f16, bf16 or f32 is the same bits again, one of u8 is rounded once more.
        """
        from openvino import Tensor

        for state in self.request.query_state() if shared else ():
            values = state.state.data  # [1, heads, tokens, width]
            if values.ndim != 4 or values.shape[2] != read:
                shared = 0  # a memory of another kind; begin anew
                break
            state.state = Tensor(np.ascontiguousarray(values[:, :, :shared]))
        if not shared:
            self.request.reset_state()
        return shared


class PagedKVCache:
    """Keys and values in tensors of ours, [blocks, heads, tokens of a block, width]: paged attention, as in vLLM.

    Each run is told how many tokens are in them; what it reads goes behind those.  To forget is to tell it fewer: what
    stands behind the past does not matter.
    Blocks of u8 have their scales and zero points in them, and are rounded anew while they fill.
    """

    prefill_chunk_size: int | None = PREFILL_CHUNK_SIZE
    survives_cancel = True  # a run only writes behind what is kept

    def __init__(self, compiled, longest: int) -> None:
        from openvino import Tensor

        self.request = compiled.create_infer_request()
        self.memory = {port: None for port in self.request.model_inputs if "_cache." in port.any_name}
        value = next(port for port in self.memory if port.any_name.startswith("value"))
        self.block = value.get_partial_shape()[2].get_length()  # a block of keys may have rows of scales besides
        self.capacity = 0  # blocks
        most = -(-longest // self.block)
        sizes = {"past_lens": 1, "subsequence_begins": 2, "block_indices_begins": 2, "block_indices": most}
        self.inputs = {name: Tensor(np.zeros(longest, np.int64)) for name in ("input_ids", "position_ids")}
        self.inputs |= {name: Tensor(np.zeros(size, np.int32)) for name, size in sizes.items()}
        self.inputs["max_context_len"] = Tensor(np.array(0, np.int32))
        self.inputs["block_indices"].data[:] = range(most)  # one text only: its blocks lie in their order
        for name, tensor in self.inputs.items():
            self.request.set_tensor(name, tensor)

    def set_inputs(self, new: list[int], past: int) -> None:
        """Make ready to read `new` behind the first `past` tokens, which are all that is kept."""
        end = past + len(new)
        blocks = -(-end // self.block)
        if blocks > self.capacity:
            self._grow(blocks)
        for name, values in ("input_ids", new), ("position_ids", range(past, end)):
            self.inputs[name].shape = [len(new)]
            self.inputs[name].data[:] = values
        self.inputs["past_lens"].data[0] = past
        self.inputs["subsequence_begins"].data[1] = len(new)
        self.inputs["block_indices"].shape = [blocks]
        self.inputs["block_indices_begins"].data[1] = blocks
        self.inputs["max_context_len"].data[...] = end

    def trim(self, read: int, shared: int) -> int:
        """Forget all but the first `shared` of the `read` tokens, and return how many are kept: those."""
        return shared

    def _grow(self, blocks: int) -> None:
        from openvino import Tensor

        room = max(blocks, 2 * self.capacity, INITIAL_CAPACITY // self.block)
        for port, old in self.memory.items():
            shape = port.get_partial_shape().get_min_shape()
            shape[0] = room
            # OpenVINO's memory, which lives as long as a run that was interrupted writes into it; NumPy's would not.
            new = Tensor(port.get_element_type(), shape)
            if old:
                _bytes(new)[: old.byte_size] = _bytes(old)
            self.memory[port] = new
            self.request.set_tensor(port, new)
        self.capacity = room


def _bytes(tensor) -> np.ndarray:
    return tensor.data.reshape(-1).view(np.uint8)

"""Compress a 16-bit export with the flags of optimum-cli, without tracing the model again."""

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.metrics.quality import silence_nncf


def weight_config(flags: Sequence[str], **changes):
    """Return the OVWeightQuantizationConfig that optimum-cli makes of its compression `flags`, with `changes`."""
    from optimum.commands.export import openvino as command
    from optimum.intel.openvino import OVWeightQuantizationConfig

    parser = ArgumentParser()
    command.parse_args_openvino(parser)
    args = parser.parse_args(["--model", "unused", *flags, "unused"])
    return OVWeightQuantizationConfig(**command.prepare_wc_config(args, {"ratio": 1.0}) | changes)


def compress(fp16_dir: Path, config, folder: Path) -> float:
    """Compress the export in `fp16_dir` into `folder` and return how many seconds that took.

    `optimum-cli export openvino` with the same flags gives the same weights: it traces the checkpoint, saves it in 16
    bits and then does the same.
    """
    from optimum.intel.openvino import OVModelForCausalLM

    def make() -> None:
        options = {"export": False, "compile": False, "quantization_config": config}
        OVModelForCausalLM.from_pretrained(fp16_dir, **options).save_pretrained(folder)

    start = time.perf_counter()
    # In a thread, because the kernel dies if a cell is interrupted inside NNCF.
    with silence_nncf(), ThreadPoolExecutor(1) as pool:
        pool.submit(make).result()
    return time.perf_counter() - start

"""Compressing the 16-bit graph gives the weights of optimum-cli's command, byte for byte."""

from dataclasses import replace

import openvino
import pytest

from helpers import export, settings
from helpers.metrics import recipes


def test_the_configuration_is_what_optimum_cli_makes_of_the_flags():
    flags = ("--weight-format", "int4", "--group-size", "64", "--ratio", "0.3", "--sym", "--awq")
    config = recipes.weight_config(flags)
    assert (config.bits, config.sym, config.group_size, config.ratio) == (4, True, 64, 0.3)
    assert config.quant_method == "awq"
    assert recipes.weight_config(("--weight-format", "int8")).bits == 8


def test_changes_are_added():
    config = recipes.weight_config(("--weight-format", "int4", "--scale-estimation"), dataset=["a text"], tokenizer="x")
    assert config.scale_estimation and config.dataset == ["a text"]


def constants(folder) -> dict[str, bytes]:
    """Return {name: bytes} of every quantized value, scale and zero point."""
    graph = openvino.Core().read_model(folder / "openvino_model.xml")
    return {
        node.get_friendly_name(): node.data.tobytes()
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Constant" and "_openvino_orig_weight" in node.get_friendly_name()
    }


@pytest.mark.model
@pytest.mark.weekly
def test_the_weights_are_those_of_the_command(tmp_path):
    setup = settings.Settings()
    fp16_dir = export.run(export.command(replace(setup, format="fp16")))
    seconds = recipes.compress(fp16_dir, recipes.weight_config(setup.spec.flags[setup.format]), tmp_path / "made")
    ours, command = constants(tmp_path / "made"), constants(setup.model_dir)
    assert seconds > 0 and command
    assert ours == command

"""helpers.shapes: export flags that fit a checkpoint, and what a model's files say of it, whatever they contain."""

import json
import shutil
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import TERMINAL

from helpers import catalog, export, files, shapes
from helpers.catalog import HUB_MODELS, MODELS, find, recommend
from helpers.errors import printable
from helpers.settings import Settings
from helpers.shapes import int4_flags, optimum_recipe


def value(flags, name):
    return flags[flags.index(name) + 1]


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 9000)), min_size=1, max_size=9))
def test_the_group_size_divides_every_width_that_a_group_of_32_divides(matrices):
    group = int(value(int4_flags(matrices, 10**9)[0], "--group-size"))
    widths = [columns for rows, columns in matrices if min(rows, columns) >= 32 and columns % 32 == 0]
    assert group in (32, 64, 128) and all(width % group == 0 for width in widths)
    assert group == 128 or any(width % (2 * group) for width in widths), "a larger one fits"


def test_the_embedded_models_flags_follow_from_its_shape():
    widths = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49_152, 576)]
    flags, reason = int4_flags(widths, MODELS["smollm2-instruct"].parameters)
    chosen = MODELS["smollm2-instruct"].flags["int4"]
    assert [value(flags, name) for name in ("--group-size", "--ratio")] == [chosen[3], chosen[5]]
    assert value(flags, "--group-size-fallback") == "adjust"
    assert "64 is the largest power of two" in reason and "0.1 billion" in reason


def test_a_larger_model_gets_a_larger_ratio():
    ratios = [float(value(int4_flags([], n)[0], "--ratio")) for n in (1e8, 1e9, 1e10)]
    assert ratios == sorted(set(ratios))


def test_optimums_recipes_are_those_of_its_table():
    from optimum.intel.openvino.configuration import _DEFAULT_4BIT_WQ_CONFIGS

    known = {"bits", "sym", "group_size", "ratio", "dataset", "all_layers"}
    tables = {origin: recipe for origin, recipe in _DEFAULT_4BIT_WQ_CONFIGS.items() if optimum_recipe(origin)}
    assert len(tables) > 60, "some entries are added below the table"
    for origin, recipe in tables.items():
        read, plain = optimum_recipe(origin), known & set(recipe)
        assert plain <= set(read), (origin, read, recipe)
        assert {name: read[name] for name in plain} == {name: recipe[name] for name in plain}
        if "quant_method" in recipe:
            assert read["quant_method"].lower() == recipe["quant_method"]


@pytest.mark.parametrize("origin", ["Qwen/Qwen3-4B", "Qwen/Qwen3-1.7B", "openlm-research/open_llama_3b"])
def test_a_recipe_becomes_flags_that_optimum_cli_takes(origin):
    from optimum.commands.export.openvino import parse_args_openvino, prepare_wc_config
    from optimum.intel.openvino.configuration import _DEFAULT_4BIT_WQ_CONFIG, _DEFAULT_4BIT_WQ_CONFIGS

    flags, reason = shapes.flags_for(find(origin), [])
    parser = __import__("argparse").ArgumentParser()
    parse_args_openvino(parser)
    made = prepare_wc_config(parser.parse_args(["--model", "x", *flags, "y"]), _DEFAULT_4BIT_WQ_CONFIG)
    recipe = {"ratio": 1.0} | _DEFAULT_4BIT_WQ_CONFIGS[origin]
    assert {name: made[name] for name in ("bits", "sym", "group_size", "ratio")} == {
        name: recipe[name] for name in ("bits", "sym", "group_size", "ratio")
    }
    assert "recipe" in reason and ("calibration" in reason) is ("dataset" in recipe)


def write_checkpoint(folder, header: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    data = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)


def test_an_open_checkpoint_states_what_its_files_say(tmp_path):
    choice = Settings(model="somebody/model", model_root=str(tmp_path))
    assert choice.spec.parameters == 0
    write_checkpoint(choice.checkpoint_dir, {"a": {"shape": [64, 96]}, "b": {"shape": [64]}, "__metadata__": {}})
    assert choice.spec.parameters == 64 * 96 + 64 and value(choice.spec.flags["int4"], "--group-size") == "32"
    assert value(export.command(choice), "--group-size") == "32" and "32 is the largest" in export.reason(choice)


HOSTILE = [[], {"a": None}, {"a": {"shape": "x"}}, {"a": {"shape": [-1]}}, {"a": {"shape": [[]]}}]
HOSTILE += [{"a": {"shape": [10**30, 2]}}, {"a": {"shape": [2] * 99}}, {"a": {}}, {"a": {"shape": [True, 1.5]}}]


@pytest.mark.parametrize("header", HOSTILE)
def test_a_malformed_header_gives_the_flags_without_a_shape(tmp_path, header):
    choice = Settings(model="somebody/model", model_root=str(tmp_path))
    write_checkpoint(choice.checkpoint_dir, header)
    assert value(choice.spec.flags["int4"], "--group-size") == "128" and choice.spec.parameters == 0
    assert "not known" in export.reason(choice)


GRAPH = (
    '<net><data element_type="u8" shape="600, 64" offset="0" size="38400" />'
    '<data element_type="f16" shape="600, 1" offset="0" size="1200" />'
    '<data element_type="i4" shape="64, 2, 32" offset="0" size="2048" />'
    '<data element_type="f16" shape="64, 2, 1" offset="0" size="256" />'
    '<rt_info><Runtime_version value="2026.4.1-1" /><optimum><optimum_intel_version value="2.1.0" />'
    '<nncf_version value="&lt;script&gt;" /></optimum></rt_info></net>'
)


def test_an_ir_states_precision_group_size_and_versions(tmp_path):
    (tmp_path / "openvino_model.xml").write_text(GRAPH)
    facts = shapes.ir_facts(tmp_path)
    assert facts[:2] == ["weights: 95% int8, 5% int4", "group size 32"]
    assert facts[2:] == ["OpenVINO 2026.4.1-1", "NNCF &lt;script&gt;", "optimum-intel 2.1.0"]
    (_, (rows, columns, *_), _), *_ = shapes._constants(tmp_path)
    assert rows * columns == 38_400


@pytest.mark.parametrize("text", TERMINAL)
def test_facts_of_an_ir_send_a_terminal_nothing(tmp_path, text):
    version = GRAPH.replace("2026.4.1-1", f"2026 {text[:40]}").encode()
    for name in files.EXPORT_FILES:
        (tmp_path / name).write_bytes(b"{}" if name.endswith("json") else version)
    files.write_manifest(tmp_path)
    said = []
    export.run(["optimum-cli", "export", "openvino", "--model", str(tmp_path), str(tmp_path)], said.append)
    for line in (*shapes.ir_facts(tmp_path), *said):
        assert printable(line) == line
    assert f"OpenVINO 2026 {printable(text[:40])}" in said[0]


@pytest.mark.parametrize("text", ["", "<net>", "\0\xff", '<data element_type="u4" shape="," offset="0" size="1" />'])
def test_a_graph_without_facts_states_none(tmp_path, text):
    (tmp_path / "openvino_model.xml").write_text(text, encoding="utf-8")
    assert shapes.ir_facts(tmp_path) == []


@pytest.mark.parametrize(
    "memory, name",
    [(24, "phi3-instruct"), (15.6, "phi3-instruct"), (7.6, "OpenVINO/Phi-3-mini-4k-instruct-int4-ov")]
    + [(3.8, "OpenVINO/Qwen3-1.7B-int4-ov"), (1, "smollm2-instruct")],
)
def test_the_recommended_model_fits_into_memory(memory, name):
    said = recommend(memory)
    assert f"{name} is recommended" in said and ("An export of phi3-instruct takes 11 GiB" in said) is (memory < 15)


def test_a_model_that_needs_all_of_its_share_of_memory_fits(monkeypatch):
    monkeypatch.setattr("helpers.catalog.MEMORY_SHARE", 1)
    needs = max(MODELS["phi3-instruct"].export_ram_gib, MODELS["phi3-instruct"].run_ram_gib)
    assert "phi3-instruct is recommended" in recommend(needs)


@pytest.mark.parametrize("model", HUB_MODELS.values(), ids=lambda model: model.name)
def test_an_entry_of_the_hub_states_what_a_reader_asks(model):
    assert find(model.name) is model and catalog.HUB_NAME.fullmatch(model.name)
    assert model.licence and model.languages and model.download_mib and model.run_ram_gib
    assert model.is_ir is model.name.startswith("OpenVINO/") and bool(model.export_ram_gib) is not model.is_ir
    assert not model.tried, "mark it as tried, with measured sizes, once somebody has"
    assert find(f"{model.name}@abc") == replace(model, name=f"{model.name}@abc", revision="abc")


def test_the_samples_repository_is_the_catalogs_entry():
    assert find("microsoft/Phi-3-mini-4k-instruct") is MODELS["phi3-instruct"]


def test_a_recipe_needs_no_files(tmp_path):
    """The command of an export is the same before the checkpoint is fetched and after it is deleted."""
    choice = Settings(model="Qwen/Qwen3-4B", model_root=str(tmp_path))
    before = choice.spec.flags["int4"]
    write_checkpoint(choice.checkpoint_dir, {"a": {"shape": [64, 96]}})
    assert choice.spec.flags["int4"] == before


def test_without_its_checkpoint_an_export_keeps_its_flags(tmp_path):
    """A checkpoint may be deleted after the export, to free its space; the export is not to be made again then."""
    choice = Settings(model="somebody/model", model_root=str(tmp_path))
    write_checkpoint(choice.checkpoint_dir, {"a": {"shape": [64, 96]}})
    argv, said = export.command(choice), []
    choice.model_dir.mkdir()
    for name in files.EXPORT_FILES:
        (choice.model_dir / name).write_text("{}" if name.endswith("json") else "<net></net>")
    files.write_manifest(choice.model_dir, command=argv)
    shutil.rmtree(choice.checkpoint_dir)
    assert export.command(choice) == argv
    assert export.run(argv, said.append) == choice.model_dir and "skipping export" in said[-1]
    program, model, task, flags = argv[:3], argv[3:5], argv[5:7], argv[7:-1]
    for words in ([*flags, *task, *model], [*task, *flags, "-m", model[1]], [*model, *flags]):  # as people type it
        files.write_manifest(choice.model_dir, command=[*program, *words, argv[-1]])
        assert choice.spec.flags["int4"] == tuple(flags)
    for made_by in (None, "optimum-cli", [], [1, 2]):
        files.write_manifest(choice.model_dir, command=made_by)
        assert value(choice.spec.flags["int4"], "--group-size") == "128"

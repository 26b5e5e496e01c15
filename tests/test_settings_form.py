"""The settings form writes what it shows, and shows a message for whatever prevents that."""

from dataclasses import replace

import pytest

from helpers import catalog, settings
from helpers.settings import Settings
from helpers.settings_form import SettingsForm


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a folder" / "settings.toml"


@pytest.fixture
def form(path):
    path.parent.mkdir()
    return SettingsForm(Settings(), path, devices=["CPU", "GPU"], environ={})


def options(dropdown):
    return [value for _, value in dropdown.options]


def test_each_choice_has_a_name_and_fits_on_a_narrow_page(form):
    choices = {"Model": form.model, "Format": form.format, "Device": form.device}
    for name, choice in choices.items():
        assert choice.description == name
        assert float(choice.style.description_width.removesuffix("em")) >= len(name) / 2, "an em is about two letters"
        assert 0 < float(choice.layout.width.removesuffix("%")) <= 100
        assert float(choice.layout.max_width.removesuffix("em")) < 60
    assert form.save.description == "Save" and form.save.button_style == "primary"
    assert form.children == (*choices.values(), form.needs, form.save, form.status)


def test_each_option_is_labelled(form):
    for label, name in form.format.options:
        assert label == f"{name}: weights in {({'int4': '4 and 8', 'int8': '8', 'fp16': '16'})[name]} bits"
    assert form.device.options[:2] == (("CPU", "CPU"), ("GPU", "GPU"))
    ((label, name),) = form.device.options[2:]
    assert name == "AUTO" and label.startswith("AUTO: OpenVINO")


def test_an_untouched_form_writes_the_settings_that_it_was_given(path):
    path.parent.mkdir()
    mine = Settings(model="phi3-rehearsal", format="int8", device="AUTO", model_root="mine", ov_config={"A": "b"})
    SettingsForm(mine, path, devices=["CPU"], environ={}).save.click()
    assert settings.load(path, {}) == mine


@pytest.mark.parametrize("model", catalog.MODELS)
@pytest.mark.parametrize("device", ["CPU", "GPU", "AUTO"])
def test_what_is_chosen_is_written_as_the_one_line_of_code_writes_it(form, path, model, device):
    form.model.value, form.device.value = model, device
    for name in options(form.format):
        form.format.value = name
        form.save.click()
        by_form = path.read_text()
        chosen = replace(Settings(), model=model, format=name, device=device)
        assert settings.load(path, {}) == form.choice == chosen
        assert settings.save(chosen, path).read_text() == by_form


def test_it_offers_what_every_model_of_the_catalog_has(form):
    assert list(form.model.options) == [*catalog.MODELS, *catalog.HUB_MODELS]
    assert all(options(form.format) == list(model.flags) for model in catalog.MODELS.values())


def test_an_unavailable_device_stays_in_the_settings_and_is_labelled(path):
    form = SettingsForm(Settings(device="NPU"), path, devices=["CPU"], environ={})
    assert form.choice.device == "NPU"
    assert ("NPU: not available, so the CPU will be used", "NPU") in form.device.options
    form = SettingsForm(Settings(device="GPU.0"), path, devices=["CPU", "GPU"], environ={})
    assert ("GPU.0: same as GPU", "GPU.0") in form.device.options


def test_it_shows_what_a_choice_needs_until_its_export_exists(tmp_path, path):
    mine = Settings(model_root=str(tmp_path))
    form = SettingsForm(mine, path, devices=["CPU"], environ={})
    assert "Notebook 01 makes it" in form.needs.value and "1.6 GiB of memory" in form.needs.value
    replace(mine, format="int8").model_dir.mkdir(parents=True)
    form.format.value = "int8"
    assert form.needs.value.endswith("int8 exists.")


def test_the_status_disappears_when_the_choice_changes(form):
    assert form.status.value == ""
    form.save.click()
    assert "Saved to" in form.status.value and 'role="status"' in form.status.value
    form.device.value = "AUTO"
    assert form.status.value == ""


def test_a_variable_that_overrides_the_file_is_named(path):
    path.parent.mkdir()
    environ = {"TUTORIAL_MODEL": "phi3-instruct", "TUTORIAL_DEVICE": "", "TUTORIAL_MODEL_ROOT": "elsewhere"}
    both = environ | {"TUTORIAL_DEVICE": "GPU"}
    for variables, words in [
        (environ, "But TUTORIAL_MODEL in the environment"),
        (both, "But TUTORIAL_MODEL and TUTORIAL_DEVICE in the environment"),
        ({}, "kernel starts."),
    ]:
        form = SettingsForm(Settings(), path, devices=["CPU"], environ=variables)
        form.save.click()
        assert "Saved to" in form.status.value and words in form.status.value
        assert bool(variables) == ("environment" in form.status.value)


def test_a_missing_or_read_only_folder_is_a_message(path, read_only):
    for place in (path, read_only / "settings.toml"):
        form = SettingsForm(Settings(), place, devices=["CPU"], environ={})
        form.save.click()
        assert "Not saved." in form.status.value and "Errno" not in form.status.value
        assert not place.exists()


def test_names_are_shown_as_text_and_not_run_as_html(path):
    form = SettingsForm(Settings(model_root="<img src=x>"), path, devices=["CPU"], environ={})
    form.save.click()
    assert "&lt;img" in form.needs.value and "<img" not in form.needs.value + form.status.value


def test_a_stored_page_has_the_choice_and_no_address_in_memory(form):
    said = "SettingsForm(model='smollm2-instruct', format='int4', device='CPU')"
    assert form._repr_mimebundle_()["text/plain"] == said


def test_the_devices_of_this_machine_are_offered_unless_others_are_given(path):
    import openvino

    core = openvino.Core()
    form = SettingsForm(Settings(), path, environ={})
    full = [(f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}", name) for name in core.available_devices]
    assert list(form.device.options[:-1]) == full and options(form.device)[-1] == "AUTO"


def test_a_model_of_the_hub_can_be_typed_and_a_wrong_name_is_told(form, path):
    form.model.value = "Qwen/Qwen3-0.6B"
    assert "Qwen3-0.6B. " in form.needs.value and "3.0 GiB of memory, 1.4 GiB" in form.needs.value
    form.save.click()
    assert settings.load(path, {}).model == "Qwen/Qwen3-0.6B"
    form.model.value = "no such model"
    assert "There is no model" in form.needs.value
    form.save.click()
    assert "Not saved" in form.status.value and settings.load(path, {}).model == "Qwen/Qwen3-0.6B"

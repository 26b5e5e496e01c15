"""The settings form writes what it shows, and each thing that stands in the way is a sentence on it."""

from dataclasses import replace

import pytest

from helpers import catalog, settings
from helpers.settings import Settings
from helpers.settings_form import settings_form


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a folder" / "settings.toml"


@pytest.fixture
def form(path):
    path.parent.mkdir()
    return settings_form(Settings(), path, devices=["CPU", "GPU"], environ={})


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


def test_each_option_says_what_it_is(form):
    for label, name in form.model.options:
        assert label == f"{name}: {catalog.MODELS[name].title}"
    for label, name in form.format.options:
        assert label == f"{name}: weights in {({'int4': '4 and 8', 'int8': '8', 'fp16': '16'})[name]} bits"
    assert form.device.options[:2] == (("CPU", "CPU"), ("GPU", "GPU"))
    ((label, name),) = form.device.options[2:]
    assert name == "AUTO" and label.startswith("AUTO: OpenVINO")


def test_a_form_that_nobody_touched_writes_the_settings_that_it_was_given(path):
    path.parent.mkdir()
    mine = Settings(model="phi3-rehearsal", format="int8", device="AUTO", model_root="mine", ov_config={"A": "b"})
    settings_form(mine, path, devices=["CPU"], environ={}).save.click()
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


def test_it_offers_each_model_its_own_formats_and_keeps_the_chosen_one(form, monkeypatch):
    assert options(form.model) == list(catalog.MODELS)
    only_int8 = replace(catalog.MODELS["phi3-instruct"], flags={"int8": ()})
    monkeypatch.setitem(catalog.MODELS, "phi3-instruct", only_int8)
    form.format.value = "fp16"
    form.model.value = "phi3-rehearsal"
    assert form.format.value == "fp16"
    form.model.value = "phi3-instruct"
    assert options(form.format) == ["int8"] and form.format.value == "int8"


def test_a_device_that_is_not_here_stays_in_the_settings_and_says_so(path):
    form = settings_form(Settings(device="NPU"), path, devices=["CPU"], environ={})
    assert form.choice.device == "NPU"
    assert ("NPU: not here, so the CPU will be used", "NPU") in form.device.options
    form = settings_form(Settings(device="GPU.0"), path, devices=["CPU", "GPU"], environ={})
    assert ("GPU.0: same as GPU", "GPU.0") in form.device.options


def test_it_says_what_a_choice_needs_until_its_export_is_here(tmp_path, path):
    mine = Settings(model_root=str(tmp_path))
    form = settings_form(mine, path, devices=["CPU"], environ={})
    assert "Notebook 01 makes it" in form.needs.value and "1.6 GiB of memory" in form.needs.value
    replace(mine, format="int8").model_dir.mkdir(parents=True)
    form.format.value = "int8"
    assert form.needs.value.endswith("int8 is here.")


def test_the_verdict_is_a_sentence_and_goes_when_the_choice_changes(form):
    assert form.status.value == ""
    form.save.click()
    assert "Saved to" in form.status.value and 'role="status"' in form.status.value
    form.device.value = "AUTO"
    assert form.status.value == ""


def test_a_variable_that_overrules_the_file_is_named(path):
    path.parent.mkdir()
    environ = {"TUTORIAL_MODEL": "phi3-instruct", "TUTORIAL_DEVICE": "", "TUTORIAL_MODEL_ROOT": "elsewhere"}
    form = settings_form(Settings(), path, devices=["CPU"], environ=environ)
    form.save.click()
    assert "Saved to" in form.status.value and "But TUTORIAL_MODEL in the environment" in form.status.value
    form = settings_form(Settings(), path, devices=["CPU"], environ=environ | {"TUTORIAL_DEVICE": "GPU"})
    form.save.click()
    assert "But TUTORIAL_MODEL and TUTORIAL_DEVICE in the environment" in form.status.value
    form = settings_form(Settings(), path, devices=["CPU"], environ={})
    form.save.click()
    assert "environment" not in form.status.value


def test_a_folder_that_is_not_there_or_refuses_is_a_sentence(path, read_only):
    for place in (path, read_only / "settings.toml"):
        form = settings_form(Settings(), place, devices=["CPU"], environ={})
        form.save.click()
        assert "Not saved." in form.status.value and "Errno" not in form.status.value
        assert not place.exists()


def test_names_are_shown_as_text_and_not_run_as_html(path):
    form = settings_form(Settings(model_root="<img src=x>"), path, devices=["CPU"], environ={})
    form.save.click()
    assert "&lt;img" in form.needs.value and "<img" not in form.needs.value + form.status.value


def test_a_stored_page_has_the_choice_and_no_address_in_memory(form):
    said = "SettingsForm(model='smollm2-instruct', format='int4', device='CPU')"
    assert form._repr_mimebundle_()["text/plain"] == said


def test_the_devices_of_this_machine_are_offered_unless_others_are_given(path):
    import openvino

    core = openvino.Core()
    form = settings_form(Settings(), path, environ={})
    full = [(f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}", name) for name in core.available_devices]
    assert list(form.device.options[:-1]) == full and options(form.device)[-1] == "AUTO"

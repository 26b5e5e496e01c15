"""Bad input on the command line: options, variables of the environment and settings.toml."""

import pytest

from faults.conftest import state_of
from faults.table import fault

LONG = "word " * 3000
NO_MODEL, NO_FORMAT = "in the catalog.\nChoose one of: smollm2-instruct", "Choose one of: int4, int8, fp16."


@pytest.mark.parametrize(
    "argv, code, words",
    [
        fault("A model's name with dots that lead out", ["ask", "Why?", "--model", "../../etc"], 1, NO_MODEL),
        fault("A folder instead of a model's name", ["export", "--model", "./model/x"], 1, NO_MODEL),
        fault("An empty model's name", ["chat", "--model", ""], 1, NO_MODEL),
        fault("A weight format in capitals", ["ask", "Why?", "--format", "INT4"], 1, NO_FORMAT),
        fault("A weight format with dots that lead out", ["export", "--format", "../int4"], 1, NO_FORMAT),
        fault("An empty weight format", ["export", "--format", ""], 1, NO_FORMAT),
        fault("A question of white space", ["ask", " \n\t "], 1, "The question is empty.\nTry:"),
        fault("No question", ["ask"], 2, "Missing argument 'QUESTION'"),
        fault("A budget of 0 tokens", ["ask", "Why?", "--max-new-tokens", "0"], 2, "'--max-new-tokens': 0 is not"),
        fault("A budget below 0", ["ask", "Why?", "--max-new-tokens", "-1"], 2, "'--max-new-tokens': -1 is not"),
        fault("A budget in words", ["ask", "Why?", "--max-new-tokens", "many"], 2, "'many' is not a valid integer"),
        fault("A budget of one and a half", ["ask", "Why?", "--max-new-tokens", "1.5"], 2, "'1.5' is not a valid"),
        fault("A temperature below 0", ["chat", "--temperature", "-0.1"], 1, "temperature and top_k are 0 or more"),
        fault("A temperature that is no number", ["chat", "--temperature", "nan"], 1, "cannot be used"),
        fault("A temperature without end", ["chat", "--temperature", "inf"], 1, "cannot be used"),
        fault("A temperature in words", ["chat", "--temperature", "hot"], 2, "'hot' is not a valid float"),
        fault("A temperature of next to nothing", ["chat", "--temperature", "1e-300"], 1, "cannot be used"),
        fault("A seed in words", ["chat", "--seed", "lucky"], 2, "'lucky' is not a valid integer"),
        fault("A seed of 27 digits", ["chat", "--temperature", "1", "--seed", "9" * 27], 1, "cannot be used"),
        fault("A context length in words", ["chat", "--context-length", "all"], 2, "'all' is not a valid integer"),
        fault("An unknown command", ["talk"], 2, "No such command 'talk'"),
        fault("An unknown option", ["fetch", "--fast"], 2, "No such option"),
    ],
)
def test_what_no_model_is_needed_to_refuse(cli, outcome, tmp_path, argv, code, words):
    ran = cli(*argv)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.said
    assert state_of(tmp_path) == {}, "nothing was made"
    outcome(ran.said, "nothing was made", code)


@pytest.mark.parametrize(
    "argv, words",
    [
        fault("A question longer than the context", ["ask", LONG], "leaves no room for an answer in this model's 512"),
        fault("A question of bytes that are no text", ["ask", "\udcff\udcfe"], "is not text"),
        fault("A chat's budget of 0 tokens", ["chat", "--max-new-tokens", "0"], "A budget of 0 cannot be"),
        fault("A context of no tokens", ["chat", "--context-length", "0"], "A context of 0 cannot be"),
        fault("A context below 0", ["chat", "--context-length", "-1"], "A context of -1 cannot be"),
        fault("A longer context than the model's", ["chat", "--context-length", "99999999"], "This model has 512"),
    ],
)
def test_what_the_model_s_own_measures_refuse(cli, outcome, own, argv, words):
    before = state_of(own.model_dir.parent)
    ran = cli(*argv, "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.said
    assert state_of(own.model_dir.parent) == before
    outcome(ran.said, "the model is as it was", 1)


@pytest.mark.parametrize(
    "options, words",
    [
        fault("A device of nonsense", ["--device", "TOASTER"], "There is no device TOASTER here"),
        fault("An empty device", ["--device", ""], "OpenVINO sees: CPU"),
        fault("A second CPU", ["--device", "CPU.1"], "There is no device CPU.1 here"),
        fault("AUTO with a device of nonsense", ["--device", "AUTO:TOASTER"], "There is no device AUTO:TOASTER here"),
        fault("A device in TUTORIAL_DEVICE that is not here", [], "There is no device NPU here"),
    ],
)
def test_a_device_that_is_not_here_is_said_and_the_cpu_answers(cli, outcome, own, options, words):
    options += ["--format", "int4", "--max-new-tokens", "3"]
    ran = cli("ask", "Why?", *options, TUTORIAL_MODEL_ROOT=own.model_root, TUTORIAL_DEVICE="NPU")
    assert ran.code == 0 and ran.out.endswith("\n")
    assert words in ran.said
    outcome(ran.said.splitlines()[0], "the CPU answers", 0)


@pytest.mark.parametrize(
    "argv, typed, words",
    [
        fault("A context of one token", ["--context-length", "1"], "", "Shorten the message"),
        fault("A system message longer than the context", ["--system", LONG], "", "or the system message"),
        fault("A system message that is no text", ["--system", "\udcff"], "", "is not text"),
        fault("A message longer than the context", [], LONG + "\n", "Shorten the message"),
        fault("A command that the chat does not know", [], "/dance\n", "There is no command /dance"),
        fault("A folder where a talk should be saved", [], "/save .\n", "cannot be written"),
        fault("A file that is no talk", [], "/load LICENSE\n", "is not a saved conversation"),
        fault("A talk that is not there", [], "/load nowhere.json\n", "nowhere.json cannot be read"),
    ],
)
def test_the_chat_goes_on_after_it(cli, outcome, own, argv, typed, words):
    more = [] if "--context-length" in argv or "--system" in argv else ["--max-new-tokens", "3"]
    ran = cli("chat", *argv, *more, "--format", "int4", typed=f"{typed}Hello\n", TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 0
    assert words in ran.said
    goes_on = "[prompt" in ran.said
    assert goes_on or not more, "the next message is answered"
    outcome(ran.said.split("\n[")[0], "the next message is answered" if goes_on else "the chat goes on", 0)


@pytest.mark.parametrize(
    "root, words",
    [
        fault("A model root that is a file", "{folder}/a file", "a file is a file"),
        fault("A model root below a file", "{folder}/a file/models", "a file is a file"),
        fault("A model root of nobody's home", "~nobody-of-this-name/models", "cannot be a folder"),
        fault("A model root of 300 letters", "x" * 300, "cannot be a folder"),
    ],
)
def test_a_model_root_that_can_be_none(cli, outcome, tmp_path, root, words):
    (tmp_path / "a file").write_text("mine", encoding="utf-8")
    said = set()
    for argv in (["fetch"], ["export"], ["ask", "Why?"]):
        ran = cli(*argv, TUTORIAL_MODEL_ROOT=root.format(folder=tmp_path))
        assert ran.code == 1
        said.add(ran.said)
    (sentence,) = said
    assert words in sentence and "TUTORIAL_MODEL_ROOT" in sentence
    assert state_of(tmp_path) == {"a file": b"mine"}
    outcome(sentence, "nothing was made", 1)


DEEP = "x = " + "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    "content, words",
    [
        fault("settings.toml is cut short", 'device = "CP', "settings.toml is damaged"),
        fault("settings.toml is binary", b"\x00\xff\xfe", "settings.toml is damaged"),
        fault("settings.toml is nested 5,000 deep", DEEP, "settings.toml is damaged"),
        fault("settings.toml of a later version", 'streaming = "fast"', "has streaming, which this version"),
        fault("settings.toml names an unknown model", 'model = "gpt-7"', "There is no model 'gpt-7'"),
        fault("settings.toml has a number for a text", "format = 4", "The setting format has 4, not text."),
        fault("settings.toml has a null character in a path", 'model_root = "a\\u0000b"', "cannot be a folder"),
        fault("settings.toml is a folder", None, "settings.toml cannot be read"),
    ],
)
def test_settings_that_cannot_be_used(cli, outcome, tmp_path, monkeypatch, content, words):
    for name in ("TUTORIAL_MODEL", "TUTORIAL_MODEL_ROOT"):
        monkeypatch.delenv(name)
    file = tmp_path / "settings.toml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = state_of(tmp_path)
    ran = cli("ask", "Why?")
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.said
    assert state_of(tmp_path) == before
    outcome(ran.said, "the file is as it was", 1)

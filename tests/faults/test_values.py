"""Bad input on the command line: options, environment variables, and what is typed in the chat."""

import pytest

from faults.conftest import state_of
from faults.table import fault

LONG = "word " * 3000
NO_MODEL, NO_FORMAT = "Choose one of: smollm2-instruct", "Choose one of: int4, int8, fp16."


@pytest.mark.parametrize(
    "argv, code, words",
    [
        fault("A model name with ..", ["ask", "Why?", "--model", "../../etc"], 1, NO_MODEL),
        fault("A folder instead of a model name", ["export", "--model", "./model/x"], 1, NO_MODEL),
        fault("An empty model name", ["chat", "--model", ""], 1, NO_MODEL),
        fault("A weight format in capitals", ["ask", "Why?", "--format", "INT4"], 1, NO_FORMAT),
        fault("A weight format with ..", ["export", "--format", "../int4"], 1, NO_FORMAT),
        fault("An empty weight format", ["export", "--format", ""], 1, NO_FORMAT),
        fault("A question of only white space", ["ask", " \n\t "], 1, "The question is empty.\nTry:"),
        fault("No question", ["ask"], 2, "Missing argument 'QUESTION'"),
        fault("--max-new-tokens 0", ["ask", "Why?", "--max-new-tokens", "0"], 2, "'--max-new-tokens': 0 is not"),
        fault("--max-new-tokens -1", ["ask", "Why?", "--max-new-tokens", "-1"], 2, "'--max-new-tokens': -1 is not"),
        fault("--max-new-tokens many", ["ask", "Why?", "--max-new-tokens", "many"], 2, "'many' is not a valid integer"),
        fault("--max-new-tokens 1.5", ["ask", "Why?", "--max-new-tokens", "1.5"], 2, "'1.5' is not a valid"),
        fault("A temperature below 0", ["chat", "--temperature", "-0.1"], 1, "cannot be used"),
        fault("A temperature that is not a number", ["chat", "--temperature", "hot"], 2, "'hot' is not a valid float"),
        fault("A seed that is not a number", ["chat", "--seed", "lucky"], 2, "'lucky' is not a valid integer"),
        fault(
            "A context length of text",
            ["chat", "--context-length", "all"],
            2,
            "'all' is not a valid",
        ),
        fault("An unknown command", ["talk"], 2, "No such command 'talk'"),
        fault("An unknown option", ["fetch", "--fast"], 2, "No such option"),
    ],
)
def test_input_that_is_refused_before_a_model_is_loaded(cli, outcome, tmp_path, argv, code, words):
    ran = cli(*argv)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.errors
    assert state_of(tmp_path) == {}, "nothing was created"
    outcome(ran.errors, "nothing was created", code)


@pytest.mark.parametrize(
    "argv, words",
    [
        fault("A question longer than the context", ["ask", LONG], "tokens of a context of 512"),
        fault("A question that is not text", ["ask", "\udcff\udcfe"], "is not text"),
        fault("A chat with --max-new-tokens 0", ["chat", "--max-new-tokens", "0"], "max_new_tokens cannot be 0"),
        fault("A context of 0 tokens", ["chat", "--context-length", "0"], "context_length cannot be 0"),
        fault("A context of -1 tokens", ["chat", "--context-length", "-1"], "context_length cannot be -1"),
        fault(
            "A context longer than the model's",
            ["chat", "--context-length", "99999999"],
            "context has 512",
        ),
    ],
)
def test_input_that_the_model_cannot_take(cli, outcome, own, argv, words):
    before = state_of(own.model_dir.parent)
    ran = cli(*argv, "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.errors
    assert state_of(own.model_dir.parent) == before
    outcome(ran.errors, "the model is unchanged", 1)


@pytest.mark.parametrize(
    "options, words",
    [
        fault("An unknown device", ["--device", "TOASTER"], "No TOASTER on this machine"),
        fault("An empty device", ["--device", ""], "OpenVINO sees: CPU"),
        fault("A second CPU", ["--device", "CPU.1"], "No CPU.1 on this machine"),
        fault("AUTO with an unknown device", ["--device", "AUTO:TOASTER"], "No AUTO:TOASTER on this machine"),
        fault("A missing device in TUTORIAL_DEVICE", [], "No NPU on this machine"),
    ],
)
def test_a_missing_device_is_named_and_the_cpu_answers(cli, outcome, own, options, words):
    options += ["--format", "int4", "--max-new-tokens", "3"]
    ran = cli("ask", "Why?", *options, TUTORIAL_MODEL_ROOT=own.model_root, TUTORIAL_DEVICE="NPU")
    assert ran.code == 0 and ran.out.endswith("\n")
    assert words in ran.errors
    outcome(ran.errors.splitlines()[0], "the CPU answers", 0)


@pytest.mark.parametrize(
    "argv, typed, words",
    [
        fault("A context of one token", ["--context-length", "1"], "", "Shorten the message"),
        fault("A system message longer than the context", ["--system", LONG], "", "or the system message"),
        fault("A system message that is not text", ["--system", "\udcff"], "", "is not text"),
        fault("A message longer than the context", [], LONG + "\n", "Shorten the message"),
        fault("A command that the chat does not know", [], "/dance\n", "There is no command /dance"),
        fault("A conversation saved to a folder", [], "/save .\n", "cannot be written"),
        fault("A file that is not a conversation", [], "/load LICENSE\n", "is not a saved conversation"),
        fault("A conversation that does not exist", [], "/load nowhere.json\n", "nowhere.json cannot be read"),
    ],
)
def test_the_chat_continues(cli, outcome, own, argv, typed, words):
    more = [] if "--context-length" in argv or "--system" in argv else ["--max-new-tokens", "3"]
    ran = cli("chat", *argv, *more, "--format", "int4", typed=f"{typed}Hello\n", TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 0
    assert words in ran.errors
    continues = " first token " in ran.errors
    assert continues or not more, "the next message is answered"
    outcome(ran.errors.split("\n[")[0], "the next message is answered" if continues else "the chat continues", 0)


@pytest.mark.parametrize(
    "root, words",
    [
        fault("A model root that is a file", "{folder}/a file", "a file is a file"),
        fault("A model root below a file", "{folder}/a file/models", "a file is a file"),
        fault("A model root in an unknown home folder", "~nobody-of-this-name/models", "cannot be used as a folder"),
        fault("A model root of 300 characters", "x" * 300, "cannot be used as a folder"),
    ],
)
def test_a_model_root_that_cannot_be_a_folder(cli, outcome, tmp_path, root, words):
    (tmp_path / "a file").write_text("mine", encoding="utf-8")
    messages = set()
    for argv in (["fetch"], ["export"], ["ask", "Why?"]):
        ran = cli(*argv, TUTORIAL_MODEL_ROOT=root.format(folder=tmp_path))
        assert ran.code == 1
        messages.add(ran.errors)
    (message,) = messages
    assert words in message and "TUTORIAL_MODEL_ROOT" in message
    assert state_of(tmp_path) == {"a file": b"mine"}
    outcome(message, "nothing was created", 1)

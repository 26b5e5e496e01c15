"""Interrupted kernels: the cell, run again, works."""

import os
from threading import Timer

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from faults.table import fault
from helpers.settings import ROOT, Settings

pytestmark = [
    pytest.mark.weekly,
    pytest.mark.skipif(os.name == "nt", reason="an interrupt reaches a kernel of another process group there"),
]
# The cells of notebook 01 that load the settings, make the command, and run it.
PAGE = [cell.source for cell in nbformat.read(ROOT / "notebooks/01_export.ipynb", 4).cells if cell.cell_type == "code"]
BEGIN, EXPORT = PAGE[0], next(source for source in PAGE if source.endswith("= export.run(argv)"))
COMMAND = next(source for source in PAGE if source.startswith("argv = export.command(setup)"))
SET_UP = """
from helpers import export, settings
from helpers.load import load_model
setup = settings.load()
"""


class Kernel:
    """A kernel in the notebooks' folder, as JupyterLab starts it."""

    def __init__(self, choice: Settings):
        names = {"TUTORIAL_MODEL": choice.model, "TUTORIAL_DEVICE": "CPU", "TUTORIAL_MODEL_ROOT": choice.model_root}
        self.manager, self.client = start_new_kernel(cwd=str(ROOT / "notebooks"), env=os.environ | names)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str, interrupt_at: str = "", interrupt_after: float = 0) -> tuple[str, str]:
        """Run `code`; return its output and the error as the notebook shows it, or "".

        Interrupts the kernel when `interrupt_at` has been printed, or after some seconds.
        """
        printed, error, waiting = "", "", bool(interrupt_at)
        asked = self.client.execute(code)
        if interrupt_after:
            Timer(interrupt_after, self.manager.interrupt_kernel).start()
        while True:
            message = self.client.get_iopub_msg(timeout=300)
            content = message["content"]
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error = f"{content['ename']}: {content['evalue']}\n" + "\n".join(content["traceback"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, error
            if waiting and interrupt_at in printed:
                self.manager.interrupt_kernel()
                waiting = False


@pytest.mark.parametrize(
    "moment",
    [
        fault("The kernel is interrupted while optimum-cli starts", "starting"),
        fault("The kernel is interrupted while the model is traced", "tracing the model"),
        fault("The kernel is interrupted while the weights are compressed", "compressing"),
    ],
)
def test_an_interrupted_export_cell_of_notebook_01_runs_again(outcome, room, moment):
    with Kernel(room) as kernel:
        assert [kernel.run(cell)[1] for cell in (BEGIN, COMMAND)] == ["", ""]
        printed, error = kernel.run(EXPORT, interrupt_at=moment)
        assert error.startswith("KeyboardInterrupt"), printed + error
        assert [path.name for path in room.model_dir.parent.iterdir() if "part" in path.name] == []
        assert not room.model_dir.exists()
        printed, error = kernel.run(EXPORT)
        assert error == "" and "is complete" in printed
    outcome("KeyboardInterrupt", "no files are left; the cell, run again, works")


@pytest.mark.parametrize("how", [fault("The kernel is killed during an export", "kill")])
def test_a_killed_kernel_leaves_nothing_that_looks_finished(outcome, room, how):
    with Kernel(room) as kernel:
        kernel.run(SET_UP)
        kernel.client.execute("export.run(export.command(setup))")
        printed = ""
        while "tracing" not in printed:
            message = kernel.client.get_iopub_msg(timeout=300)
            printed += message["content"].get("text", "")
        kernel.manager.provisioner.process.kill()
    assert not room.model_dir.exists()
    with Kernel(room) as kernel:
        printed, error = kernel.run(f"{SET_UP}export.run(export.command(setup))")
        assert error == "" and "is complete" in printed
    assert [path.name for path in room.model_dir.parent.iterdir() if "part" in path.name] == []
    outcome("(JupyterLab says that the kernel died)", "the next run works and removes what was left")


LONG_ANSWER = """
from helpers.generate import generate
model, tok, _ = load_model(setup)
for number, step in enumerate(generate(model, tok("Why?")["input_ids"], 450, stop_ids=())):
    print(number, step.id, flush=True)
"""
NOW = "print('now', flush=True)"
SHORT_ANSWER = "print([step.id for step in generate(model, tok('Why?')['input_ids'], 5, stop_ids=())])"
CHAT = """
from helpers.chat.conversation import Conversation
talk = Conversation(model, tok, max_new_tokens=400)
for piece in talk.say("Tell me a story."):
    print("·", piece, end="", flush=True)
"""


@pytest.mark.parametrize(
    "code, moment, again, words",
    [
        fault("The kernel is interrupted while an answer is generated", LONG_ANSWER, "\n3 ", SHORT_ANSWER, "["),
        fault(
            "The kernel is interrupted while the chat answers",
            LONG_ANSWER.split("for number")[0] + CHAT,
            "·",
            "for piece in talk.say('And now?'):\n    break\nprint(len(talk.messages), 'messages')",
            "4 messages",
        ),
        fault("The kernel is interrupted while a model is loaded", NOW + LONG_ANSWER, "now", LONG_ANSWER, "\n3 "),
    ],
)
def test_an_interrupted_answer_cell_runs_again(outcome, own, code, moment, again, words):
    with Kernel(own) as kernel:
        assert kernel.run(SET_UP)[1] == ""
        printed, error = kernel.run(code, interrupt_at=moment)
        assert error.startswith("KeyboardInterrupt"), printed + error
        printed, error = kernel.run(again)
        assert error == "" and words in printed, printed + error
    outcome("KeyboardInterrupt", "the cell, run again, works")


def code_cells(page: str) -> list:
    return [one for one in nbformat.read(ROOT / f"notebooks/{page}.ipynb", 4).cells if one.cell_type == "code"]


def long_cell(page: str, cell: str):
    """Return the fault of a page whose code cell `cell` takes seconds; a cell that has gone fails at every push."""
    at = [one.id for one in code_cells(page)].index(cell)
    return fault(f"The kernel is interrupted in a long cell of notebook {page[:2]}", page, at)


@pytest.mark.model
@pytest.mark.parametrize(
    "page, at",
    [
        long_cell("02_configure", "nb02-43"),
        long_cell("05_generate", "nb05-29"),
        long_cell("07_chat", "chat-20"),
        long_cell("08_measure", "nb08-39"),
        long_cell("09_compress", "nb09-26"),
    ],
)
def test_a_notebook_continues_after_its_long_cell_was_interrupted(outcome, page, at):
    cells = code_cells(page)
    with Kernel(Settings(model="smollm2-instruct")) as kernel:
        for one in cells[:at]:
            assert kernel.run(one.source)[1] == "", one.source
        printed, error = kernel.run(cells[at].source, interrupt_after=1)
        assert error.startswith("KeyboardInterrupt"), printed + error
        for one in cells[at : at + 3]:  # the cell again, and those that use its results
            printed, error = kernel.run(one.source)
            assert error == "", printed + error
    outcome("KeyboardInterrupt", "the cell, run again, works, and so do the next ones")

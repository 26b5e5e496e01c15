"""Write the stored outputs of the notebooks from a clean kernel: `nox -s outputs`, or with -- and some of them.

Also writes how long each page takes into its contract, and docs/glossary.md.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import glossary
import nbformat
import openvino as ov
import psutil
import reading
from nbclient import NotebookClient

from helpers import settings
from helpers.serve.engine import Engine
from helpers.serve.local import running

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CLASS = NOTEBOOKS.parent / "workshop" / "chat.ipynb"
LIGHT = os.pathsep.join([str(NOTEBOOKS.parent / "tests" / "light"), str(NOTEBOOKS.parent)])  # as without torch


MAKES_THE_EXPORT = ("00_quickstart.ipynb", "01_export.ipynb")  # their pages show it happening, so it must happen


def run(path: Path, **environ: str) -> float:
    """Execute `path` top to bottom and store what a reader should see; returns the seconds.

    No timing metadata and no widget state (they change with each run), text of one stream in one piece.
    """
    notebook = nbformat.read(path, as_version=4)
    reading.fill(notebook, "Time to read", reading.reading(notebook))
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    start = time.perf_counter()
    client.execute(env=os.environ | environ)
    seconds = time.perf_counter() - start
    reading.fill(notebook, "Time to run", f"{reading.running(seconds)} ({machine()})")
    notebook.metadata.pop("widgets", None)
    for data in [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]:
        if "text/html" in data:  # the chat box's picture, which a view without its kernel would hide
            data.pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of the machine that ran it
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


def run_class() -> float:
    """Execute the class's notebook in a light kernel, beside a server with the model."""
    with running(Engine.load(settings.load()), port=8000) as server:
        return run(CLASS, TUTORIAL_SERVER=server.url, TUTORIAL_API_KEY=server.api_key, PYTHONPATH=LIGHT)


def machine() -> str:
    """Return this machine in the words of a contract, as "2 cores of an AMD EPYC, no GPU"."""
    core = ov.Core()
    words = re.sub(r"\((R|TM|tm)\)", "", core.get_property("CPU", "FULL_DEVICE_NAME")).split()
    gpu = "with a GPU" if any(name.startswith("GPU") for name in core.available_devices) else "no GPU"
    return f"{psutil.cpu_count(logical=False)} cores of an {' '.join(words[:2])}, {gpu}"


if __name__ == "__main__":
    if NOTEBOOKS.parent != settings.ROOT:  # it deletes the export of the project whose helpers are imported
        sys.exit(f"This would run the pages of one project with the helpers of another: {settings.ROOT}")
    os.environ["TQDM_DISABLE"] = "1"
    kept = tempfile.TemporaryDirectory()
    os.environ["TUTORIAL_CONVERSATIONS"] = kept.name  # not among the reader's own
    for path in [Path(name) for name in sys.argv[1:]] or [*sorted(NOTEBOOKS.glob("*.ipynb")), CLASS]:
        if path.name in MAKES_THE_EXPORT:
            setup = settings.load()
            for made in (setup.model_dir, setup.checkpoint_dir.parent.parent / "trial" / setup.model):
                shutil.rmtree(made, ignore_errors=True)
        seconds = run_class() if path.resolve() == CLASS.resolve() else run(path)
        print(f"{path.name}: {seconds:.0f} s", flush=True)
    glossary.write()

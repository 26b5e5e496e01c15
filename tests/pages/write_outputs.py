"""Write the stored outputs of the notebooks from a clean kernel: `nox -s outputs`, or with -- and some of them."""

import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from helpers import settings

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


MAKES_THE_EXPORT = ("00_quickstart.ipynb", "01_export.ipynb")  # their pages show it happening, so it must happen


def run(path: Path) -> float:
    """Execute `path` top to bottom and store what a reader should see; returns the seconds.

    No timing metadata and no widget state (they change with each run), text of one stream in one piece.
    """
    notebook = nbformat.read(path, as_version=4)
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
    client.execute()
    seconds = time.perf_counter() - start
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of the machine that ran it
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name in MAKES_THE_EXPORT:
            setup = settings.load()
            for made in (setup.model_dir, setup.checkpoint_dir.parent.parent / "trial" / setup.model):
                shutil.rmtree(made, ignore_errors=True)
        print(f"{path.name}: {run(path):.0f} s", flush=True)

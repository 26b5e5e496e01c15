"""Keep a notebook unchanged when it is only opened.

A kernel reports its Python version, and JupyterLab writes it into the notebook.  The notebooks here are stored without
it, so that they are the same with any Python.  The contents manager below adds it when a notebook is opened, and the
hook removes it when the notebook is saved.
"""

from ipykernel.ipkernel import IPythonKernel
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

STORED, KERNEL = {"name": "python"}, IPythonKernel.language_info


class Contents(AsyncLargeFileManager):
    async def get(self, path, *args, **options):
        model = await super().get(path, *args, **options)
        if model["type"] == "notebook" and model["content"]:
            metadata = model["content"]["metadata"]
            if metadata.get("language_info", STORED) == STORED:
                metadata["language_info"] = KERNEL
        return model


def without_version(model, **_) -> None:
    if model["type"] == "notebook" and model["content"]["metadata"].get("language_info") == KERNEL:
        model["content"]["metadata"]["language_info"] = STORED


c.ServerApp.contents_manager_class = Contents  # noqa: F821  Jupyter defines c
c.Contents.pre_save_hook = without_version  # noqa: F821

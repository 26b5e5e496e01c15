"""Load and answer in many kernels from one read-only folder of models, as in a workshop; check that none writes there.

    python tests/shared_folder.py --kernels 30 --at-once 2 --alive 6
    python tests/shared_folder.py --kernels 2 notebooks/00_quickstart.ipynb notebooks/03_load.ipynb

Makes a read-only copy of the folder of the model that the settings name, and starts kernels that load it and answer.
At most --alive of them run at a time, because each has the model in memory.  Notebooks that are named run there too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from jupyter_client import BlockingKernelClient, KernelManager

from helpers import settings

QUESTION = "What is the opposite of hot?"
CODE = f"""
from helpers import settings
from helpers.chat.conversation import Conversation
from helpers.load import load_model
model, tok, _ = load_model(settings.load())
print("".join(Conversation(model, tok, max_new_tokens=16).say({QUESTION!r})))
"""
TIMEOUT = 600  # seconds for one kernel


@contextmanager
def read_only(source: Path) -> Iterator[Path]:
    """Yield a read-only folder with a copy of `source`; for root by a mount, because root ignores permissions."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models of all")
        shutil.copytree(source, root / source.name, ignore=shutil.ignore_patterns(".*.lock", "*.log"))
        mounted = hasattr(os, "geteuid") and os.geteuid() == 0
        if mounted:
            subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        else:
            permit(root, 0o555)
        try:
            with suppress(OSError):
                (root / "written").touch()
                raise RuntimeError(f"{root} can be written to")
            yield root
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", str(root)], check=True)
            else:
                permit(root, 0o755)


def permit(root: Path, mode: int) -> None:
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(mode)


def listing(root: Path) -> dict[str, tuple]:
    """Return size, time of change, mode and hash of each file and folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (about.st_size, about.st_mtime_ns, about.st_mode, content)
    return found


def start(root: Path) -> tuple[KernelManager, BlockingKernelClient, str]:
    """Start a kernel that runs CODE; the third value is the id of that request."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(settings.ROOT / "notebooks"), env=os.environ | {"TUTORIAL_MODEL_ROOT": str(root)})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=TIMEOUT)
    return manager, client, client.execute(CODE)


def answer(client: BlockingKernelClient, request: str) -> str:
    """Return what the kernel prints until it is idle.  Raises RuntimeError with its traceback."""
    said = []
    while True:
        message = client.get_iopub_msg(timeout=TIMEOUT)
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            raise RuntimeError("\n".join(content["traceback"]))
        if kind == "stream" and content["name"] == "stdout":
            said.append(content["text"])
        if kind == "status" and content["execution_state"] == "idle":
            return "".join(said).strip()


def resident(manager: KernelManager) -> int:
    return psutil.Process(manager.provisioner.pid).memory_info().rss


def kernels(root: Path, number: int, at_once: int, alive: int) -> list[tuple[str, int]]:
    """Return answer and resident bytes of each kernel; `at_once` start together, and at most `alive` run."""
    kept: deque = deque()
    answers = []
    try:
        while len(answers) < number:
            batch = []
            for _ in range(min(at_once, number - len(answers))):
                while len(kept) >= alive:
                    end(*kept.popleft()[:2])
                batch.append(start(root))
                kept.append(batch[-1])
            for manager, client, request in batch:
                answers.append((answer(client, request), resident(manager)))
                print(
                    f"kernel {len(answers)}: {answers[-1][1] / 2**20:.0f} MiB, {len(kept)} alive: {answers[-1][0]}",
                    flush=True,
                )
    finally:
        for manager, client, _ in kept:
            end(manager, client)
    return answers


def end(manager: KernelManager, client: BlockingKernelClient) -> None:
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def page(root: Path, notebook: str) -> int:
    """Run a notebook with models from `root`, without comparing outputs, which depend on the folder's name."""
    argv = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    environ = os.environ | {"TUTORIAL_MODEL_ROOT": str(root)}
    return subprocess.run([*argv, "-p", "no:cacheprovider", notebook], env=environ).returncode


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pages", nargs="*")
    options.add_argument("--kernels", type=int, default=30)
    options.add_argument("--at-once", type=int, default=2)
    options.add_argument("--alive", type=int, default=6)
    asked = options.parse_args()
    choice = settings.load()
    with read_only(choice.checkpoint_dir.parent) as root:
        before = listing(root)
        answers = kernels(root, asked.kernels, asked.at_once, max(asked.alive, asked.at_once))
        failed = [name for name in asked.pages if page(root, name)]
        same = listing(root) == before
    said = {text for text, _ in answers}
    print(f"{len(answers)} kernels, at most {asked.alive} at a time, loaded {choice.model} from one read-only folder.")
    print(f"{len(said)} different answers; {len(asked.pages) - len(failed)} of {len(asked.pages)} pages ran.")
    print(f"The folder ({len(before)} entries: sizes, times, hashes) is", "as it was." if same else "CHANGED.")
    return 0 if same and not failed and len(said) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())

"""When pytest runs the pages, their conversations are not kept among the reader's own."""

import os
import tempfile

KEPT = tempfile.TemporaryDirectory(prefix="conversations-", ignore_cleanup_errors=True)
os.environ["TUTORIAL_CONVERSATIONS"] = KEPT.name  # the kernels inherit it

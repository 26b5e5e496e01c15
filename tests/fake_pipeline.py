"""A fake at the engine's seam: what the server asks of a ContinuousBatchingPipeline, with answers from a script."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

from fakes import END, token_ids, tokenizer

from helpers.serve.engine import Engine, Limits, run_steps


class FakePipeline:
    """`reply` returns the answer to the last message; what the prompt has of it already is left out.

    Each step waits for `go`, takes `pace` seconds and gives each request a token.  `prompts` has the prompt ids of
    all requests, `configs` their GenerationConfigs.
    """

    def __init__(self, reply: Callable[[str], str] = lambda text: text, capacity: int = 8192) -> None:
        self.reply, self.capacity, self.go, self.pace = reply, capacity, threading.Semaphore(10**9), 0.0
        self.prompts, self.configs, self.handles = [], [], []

    def hold(self) -> None:
        """Let no step run until go.release()."""
        self.go = threading.Semaphore(0)

    def get_config(self):
        return SimpleNamespace(eos_token_id=END, stop_token_ids={END})

    def get_metrics(self):
        return SimpleNamespace(requests=len(self.handles), cache_usage=0.0)

    def has_non_finished_requests(self) -> bool:
        return bool(self.handles)

    def add_request(self, _number: int, ids, config) -> FakeHandle:
        self.prompts.append(ids.data[0].tolist())
        self.configs.append(config)
        prompt = tokenizer().decode(self.prompts[-1])
        text, begun = prompt.rpartition("user\n")[2].partition("<|im_end|>")[0], prompt.rpartition("assistant\n")[2]
        script = token_ids(self.reply(text).removeprefix(begun))
        handle = FakeHandle([*script, END][: config.max_new_tokens])
        if len(self.prompts[-1]) > self.capacity:
            handle.status = "IGNORED"
        self.handles.append(handle)
        return handle

    def step(self) -> None:
        while not self.go.acquire(timeout=0.01):
            if not any(handle.status == "RUNNING" for handle in self.handles):  # cancelled meanwhile
                break
            if getattr(self, "broken", None):
                raise self.broken
            return
        time.sleep(self.pace)
        for handle in self.handles:
            handle.step()
        self.handles = [handle for handle in self.handles if handle.status == "RUNNING"]


class FakeHandle:
    def __init__(self, script: list[int]) -> None:
        self.script, self.status, self.outputs = deque(script), "RUNNING", deque()

    def step(self) -> None:
        if self.status == "RUNNING":
            index = self.script.popleft()
            reason = "NONE" if self.script else "STOP" if index == END else "LENGTH"
            self.status = "RUNNING" if self.script else "FINISHED"
            finish = SimpleNamespace(name=reason)
            self.outputs.append(
                SimpleNamespace(generated_ids=[index], generated_log_probs=[-0.5], finish_reason=finish)
            )

    def get_status(self):
        return SimpleNamespace(name=self.status)

    def can_read(self) -> bool:
        return bool(self.outputs)

    def read(self) -> dict:
        return {0: self.outputs.popleft()}

    def cancel(self) -> None:
        self.status = "CANCEL"


def engine_in_thread(pipeline, model: str = "fake", context: int = 8192, **options) -> Engine:
    """Return an engine whose pipeline is stepped in a thread of this process."""
    ours, theirs = multiprocessing.Pipe()
    threading.Thread(target=run_steps, args=(pipeline, theirs), name="steps", daemon=True).start()
    return Engine(ours, tokenizer(), model, context, options.get("limits", Limits()))

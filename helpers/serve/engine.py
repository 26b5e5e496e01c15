"""Requests → streams of token ids: OpenVINO GenAI's continuous batching, in a process of its own.

The pipeline's step() holds Python's GIL while the model runs.  In the server's own process no connection would be
accepted and nothing sent meanwhile, so the pipeline runs in a child process; a pipe connects both.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace

from helpers.checkpoint.tokenizer import load_tokenizer
from helpers.files import read_json
from helpers.load.config import context_length
from helpers.load.graph import kernel_limit
from helpers.load.model import load_error, require_export
from helpers.settings import Settings

# Seconds between two deliveries of new tokens, for each other request in progress.  A single user gets every token at
# once; with 30, each gets a few tokens 4 times a second: 700 events a second would cost a third of the throughput.
PAUSE = 0.008
ENDED = "The process with the model has ended."
TOO_LARGE = "The KV cache of this server is too small for this request."


@dataclass(frozen=True)
class Limits:
    """What a server, or each replica of it, accepts."""

    requests: int = 64  # running and waiting; the next one is refused
    running: int = 32  # generated in one batch
    new_tokens: int = 1024  # of an answer
    messages: int = 512
    body_bytes: int = 2**20
    body_seconds: float = 10.0  # in which a body has to arrive
    cache_gb: int = 1  # KV cache


class EngineFull(Exception):
    """All Limits.requests slots are taken.  The argument is the number of seconds after which to try again."""


class EngineError(Exception):
    """A request failed, or the process with the model has ended."""


def load_pipeline(folder, device: str, ov_config: dict, limits: Limits):
    """Return the export in `folder` as a ContinuousBatchingPipeline with prefix caching."""
    import openvino_genai

    config = openvino_genai.SchedulerConfig()
    config.cache_size, config.enable_prefix_caching = limits.cache_gb, True
    config.max_num_seqs, config.max_num_batched_tokens = limits.running, 256
    properties = (kernel_limit() if device == "CPU" else {}) | ov_config
    return openvino_genai.ContinuousBatchingPipeline(folder, config, device, properties)


def cache_tokens(pipeline, block: int) -> int:
    """Return the capacity of the paged KV cache in tokens, `block` per block; GenAI reports only the percentage in use.

    The context is limited to it, because a request that can never fit would end all others: when no block is free and
    none can be reclaimed, GenAI ignores every request.
    """
    handle = add_request(pipeline, 0, [1], {"max_new_tokens": 2, "ignore_eos": True})
    pipeline.step()
    blocks = round(100 / pipeline.get_metrics().cache_usage)
    handle.cancel()
    pipeline.step()
    return block * blocks


def add_request(pipeline, number: int, ids: list[int], options: dict):
    """Return the handle of a new request, with `options` of GenerationConfig and the model's EOS tokens."""
    import numpy as np
    import openvino
    import openvino_genai

    config, model = openvino_genai.GenerationConfig(**options), pipeline.get_config()
    config.eos_token_id, config.stop_token_ids = model.eos_token_id, model.stop_token_ids
    return pipeline.add_request(number, openvino.Tensor(np.array([ids], dtype=np.int64)), config)


def run_steps(pipeline, connection) -> None:
    """Run the requests that arrive on `connection` until it is closed or a step fails; then close it.

    Receives (number, prompt ids, options), (number, None, None) to cancel, and None to stop.  After each step, sends
    a list of (number, new ids, their log probabilities, finish reason or None, error or None), the number of requests
    in the pipeline, and the percentage of the KV cache that is in use.
    """
    handles, events = {}, []
    with connection:
        while True:
            try:
                while connection.poll(0 if events or pipeline.has_non_finished_requests() else None):
                    if not (message := connection.recv()):
                        return
                    number, ids, options = message
                    if ids is None:
                        if number in handles:
                            handles.pop(number).cancel()
                        continue
                    try:
                        handles[number] = add_request(pipeline, number, ids, options)
                    except Exception as error:  # of this request only
                        events.append((number, [], [], None, str(error)))
                pipeline.step()
                for number, handle in list(handles.items()):
                    if event := _read(handle):
                        events.append((number, *event))
                        if event[2] or event[3]:
                            del handles[number]
                metrics = pipeline.get_metrics()
                connection.send((events, len(handles), metrics.cache_usage))
                events = []
            except (EOFError, OSError):  # the server has closed its end of the pipe
                return


def _read(handle) -> tuple | None:
    """Return the new ids, their log probabilities, the finish reason and the error of a request, if there are any."""
    ids, log_probs, reason, status = [], [], None, handle.get_status().name
    while handle.can_read():
        for output in handle.read().values():
            ids += output.generated_ids
            log_probs += output.generated_log_probs
            reason = {"STOP": "stop", "LENGTH": "length"}.get(output.finish_reason.name)
    error = TOO_LARGE if status == "IGNORED" else None
    return (ids, log_probs, reason, error) if ids or reason or error else None


def _child(connection, *arguments) -> None:
    try:
        pipeline = load_pipeline(*arguments)
        connection.send(cache_tokens(pipeline, 32 if arguments[1] == "CPU" else 16))
    except Exception as error:
        return connection.send(str(error))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then stops this process
    run_steps(pipeline, connection)


@dataclass
class Generation:
    """A request in progress.  Iterate over it for (new ids, their log probabilities); close it to free its slot."""

    engine: Engine
    number: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    error: str | None = None
    started: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: bool = False  # whether the first token was delivered; it does not wait for PAUSE

    async def __aiter__(self) -> AsyncIterator[tuple[list[int], list[float]]]:
        ended = False
        while not ended:
            await self.changed.wait()
            self.changed.clear()
            ended = self.finish_reason or self.error
            ids, log_probs, self.ids, self.log_probs = self.ids, self.log_probs, [], []
            if ids:
                yield ids, log_probs
        if self.error:
            raise EngineError(self.error)

    def close(self) -> None:
        self.engine.remove(self)


class Engine:
    """Runs many requests to one model at the same time, from one event loop."""

    def __init__(self, connection, tok, model: str, context: int, limits: Limits, process=None) -> None:
        self.tok, self.model, self.context_length, self.limits = tok, model, context, limits
        self.running, self.kv_cache_percent, self.failure = 0, 0.0, None
        self._connection, self._process, self._loop, self._flush = connection, process, None, None
        self._generations: dict[int, Generation] = {}
        self._numbers, self._mean_seconds = count(), 1.0
        self._sender = ThreadPoolExecutor(1)  # a full pipe would block the event loop for as long as a step takes
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()

    @classmethod
    def load(cls, settings: Settings, limits: Limits = Limits()) -> Engine:
        """Start a process with the exported model.  Raises TutorialError when it cannot be loaded."""
        folder, (ours, theirs) = require_export(settings), multiprocessing.Pipe()
        arguments = (theirs, folder, settings.device, dict(settings.ov_config), limits)
        process = multiprocessing.get_context("spawn").Process(target=_child, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that recv() raises EOFError when the process exits
        tok = load_tokenizer(folder, settings.spec.trust_remote_code)
        try:
            loaded = ours.recv()
        except EOFError:
            loaded = ENDED
        if isinstance(loaded, str):
            raise load_error(settings, settings.device, RuntimeError(loaded))
        context = min(loaded, context_length(SimpleNamespace(**read_json(folder / "config.json"))))
        return cls(ours, tok, settings.model, context, limits, process)

    @property
    def in_progress(self) -> int:
        """The number of requests that run or wait."""
        return len(self._generations)

    def admit(self) -> Generation:
        """Take a slot for a request.  Raises EngineFull if none is free, EngineError if the model's process ended."""
        if self.failure:
            raise EngineError(self.failure)
        if len(self._generations) >= self.limits.requests:
            raise EngineFull(max(1, min(30, math.ceil(self._mean_seconds))))
        self._loop = asyncio.get_running_loop()
        generation = Generation(self, next(self._numbers))
        self._generations[generation.number] = generation
        return generation

    def start(self, generation: Generation, ids: list[int], **options) -> None:
        """Start to generate after `ids`."""
        self._send(generation.number, ids, options)

    def remove(self, generation: Generation) -> None:
        """Cancel a generation, unless it has finished, and free its slot."""
        if self._generations.pop(generation.number, None):
            self._send(generation.number, None, None)

    def close(self) -> None:
        """End the model's process, then the threads, and only then close the connection.

        Otherwise a thread that is still running could read from a new connection that reuses the file descriptor.
        """
        if self._process:
            self._process.terminate()
            self._process.join()
        self._sender.shutdown(cancel_futures=True)
        with suppress(OSError):  # the process has ended
            self._connection.send(None)
        self._receiver.join()
        self._connection.close()

    def _send(self, *message) -> None:
        with suppress(RuntimeError):  # closed
            self._sender.submit(self._connection.send, message)

    def _receive(self) -> None:
        """Forward the pipeline's messages to the event loop; runs in a thread."""
        with suppress(EOFError, OSError):
            while True:
                events, self.running, self.kv_cache_percent = self._connection.recv()
                if events:
                    self._call(self._deliver, events)
        self.failure = ENDED
        self._call(self._fail)

    def _call(self, function, *arguments) -> None:
        if self._loop:
            with suppress(RuntimeError):  # the event loop is closed, so nobody waits for an answer
                self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, events: list[tuple]) -> None:
        for number, ids, log_probs, reason, error in events:
            if not (generation := self._generations.get(number)):
                continue  # closed meanwhile
            generation.ids += ids
            generation.log_probs += log_probs
            generation.finish_reason, generation.error = reason, error
            if reason or error:
                del self._generations[number]
                self._mean_seconds += 0.1 * (time.monotonic() - generation.started - self._mean_seconds)
            if reason or error or not generation.delivered:
                generation.delivered = True
                generation.changed.set()
        if not self._flush:
            self._flush = self._loop.call_later(PAUSE * (len(self._generations) - 1), self._deliver_rest)

    def _deliver_rest(self) -> None:
        self._flush = None
        for generation in self._generations.values():
            if generation.ids:
                generation.changed.set()

    def _fail(self) -> None:
        for generation in self._generations.values():
            generation.error = ENDED
            generation.changed.set()
        self._generations.clear()

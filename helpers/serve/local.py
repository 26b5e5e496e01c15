"""Serve from this process, on loopback: for a notebook and for tests.  python -m helpers serve uses Ray Serve."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from helpers.serve.app import create_app
from helpers.serve.engine import Engine


@dataclass(frozen=True)
class Server:
    """A running server: the address for an OpenAI client, its key, and the name of its model."""

    url: str
    api_key: str = field(repr=False)
    model: str


@contextmanager
def running(engine: Engine, api_key: str = "", port: int = 0) -> Iterator[Server]:
    """Serve `engine` on 127.0.0.1 while the block runs, with a new key unless one is given; then close both."""
    key = api_key or secrets.token_urlsafe(32)
    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(create_app(engine, key), log_level="warning", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", key, engine.model)
    finally:
        server.should_exit = True
        thread.join()
        engine.close()

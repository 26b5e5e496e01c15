"""The server with the embedded model: its text, its stop strings, and slots that are freed."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace

import httpx
import pytest

from helpers import settings
from helpers.decode import stream_decode
from helpers.generate import PromptCache, generate
from helpers.load import load_fast
from helpers.serve.engine import ENDED, Engine, Limits, add_request, cache_tokens
from helpers.serve.local import running
from helpers.tokenize import prompt_ids

pytestmark = pytest.mark.model
QUESTIONS = ["What is the opposite of hot?", "Write a short poem about the sea."]
# Nearly equal logits decide alike in both engines only without bf16 and quantized keys.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@pytest.fixture(scope="module")
def choice():
    chosen = settings.load()
    return replace(chosen, model="smollm2-instruct", ov_config=chosen.ov_config | EXACT)


@pytest.fixture(scope="module")
def engine(choice):
    return Engine.load(choice, Limits(requests=300))


@pytest.fixture(scope="module")
def server(engine):
    with running(engine) as server:
        yield server


def ask(server, question: str, **fields) -> dict:
    messages = [{"role": "user", "content": question}]
    body = {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": 24} | fields
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.post(f"{server.url}/chat/completions", json=body, headers=headers, timeout=60).json()


def hang_up(server, number: int) -> None:
    """Ask, and close the connection: half of the clients at once, the others after the first bytes of the answer."""
    messages = [{"role": "user", "content": f"Tell me story {number}."}]
    body = json.dumps({"model": server.model, "messages": messages, "stream": number % 4 != 0}).encode()
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.api_key}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if number % 2:
            client.recv(1)


def wait_until_idle(engine) -> None:
    for _ in range(3000):
        if engine.in_progress == engine.running == 0:
            return
        time.sleep(0.01)
    raise AssertionError(f"{engine.in_progress} slots in use, {engine.running} requests run")


def test_greedy_text_is_that_of_generate(server, choice):
    model, tok, _ = load_fast(choice)
    for question in QUESTIONS[:2]:
        ids = prompt_ids(tok, [{"role": "user", "content": question}])
        ours = "".join(stream_decode(tok, [token.id for token in generate(model, ids, 24, cache=PromptCache(model))]))
        assert ask(server, question)["choices"][0]["message"]["content"] == ours
    # In a batch of several, and with a prefix from the cache.
    assert ask(server, QUESTIONS[0])["choices"][0]["message"]["content"].startswith("The opposite of hot is cold.")


def test_a_stop_string_and_log_probabilities(server):
    answer = ask(server, QUESTIONS[0], stop=["cold"], logprobs=True)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "The opposite of hot is " and choice["finish_reason"] == "stop"
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries][:2] == ["The", " opposite"] and all(e["logprob"] <= 0 for e in entries)


def test_the_same_seed_gives_the_same_text(server):
    first, again, other = (
        ask(server, QUESTIONS[1], temperature=1, seed=seed)["choices"][0]["message"]["content"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_clients_that_hang_up_leave_no_slot_in_use(server, engine):
    for number in range(40):
        hang_up(server, number)
    wait_until_idle(engine)
    assert ask(server, QUESTIONS[0])["choices"][0]["message"]["content"].startswith("The opposite of hot is cold.")


@pytest.mark.weekly
def test_200_clients_that_hang_up_leave_no_slot_in_use(server, engine):
    for number in range(200):
        hang_up(server, number)
    wait_until_idle(engine)


@pytest.mark.weekly
def test_the_context_is_bounded_by_the_kv_cache(choice):
    """When no block of the cache is free, and none can be taken back, GenAI ignores every request."""
    import openvino_genai

    config = openvino_genai.SchedulerConfig()
    config.num_kv_blocks = 8
    pipeline = openvino_genai.ContinuousBatchingPipeline(choice.model_dir, config, "CPU", dict(choice.ov_config))
    assert cache_tokens(pipeline, 32) == 256
    handles = [add_request(pipeline, n, [5] * 252, {"max_new_tokens": 4, "ignore_eos": True}) for n in range(3)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    assert [handle.get_status().name for handle in handles] == ["FINISHED"] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt reaches the notebook's kernel only")
def test_an_interrupt_does_not_end_the_process_with_the_model(server, engine):
    """That of a notebook, as Ctrl-C in a terminal, reaches all processes of the kernel's group."""
    os.kill(engine._process.pid, signal.SIGINT)
    assert ask(server, QUESTIONS[0])["choices"][0]["message"]["content"].startswith("The opposite of hot is cold.")


def test_when_the_process_with_the_model_is_killed_health_tells(server, engine):
    os.kill(engine._process.pid, signal.SIGKILL)
    for _ in range(500):
        if engine.failure:
            break
        time.sleep(0.01)
    answer = ask(server, QUESTIONS[0])
    assert answer["error"]["message"] == ENDED and answer["error"]["type"] == "server_error"
    assert httpx.get(server.url.removesuffix("/v1") + "/health").status_code == 503

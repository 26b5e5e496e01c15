"""The load test: its figures from replies, its document, and a short load on a scripted server."""

import asyncio
import sys

import pytest
from fake_pipeline import FakePipeline, engine_in_thread

from helpers.serve.local import running
from helpers.settings import ROOT

sys.path.insert(0, str(ROOT / "bench"))  # its files are scripts, not a package
import load


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(load, "THINK", (0.0, 0.01))
    engine = engine_in_thread(FakePipeline(lambda text: text), load.choice.model)
    with running(engine, load.KEY) as served:
        yield load.Server(int(served.url.split(":")[2].removesuffix("/v1")), None)


def test_a_learner_holds_a_conversation_with_the_answers_in_it(server):
    replies = asyncio.run(load.learner(server, 3, think=1))
    assert [reply.error for reply in replies] == [""] * load.TURNS
    assert [reply.text for reply in replies] == [
        f"{load.question(3)[0]['content']} Part {n}." for n in range(load.TURNS)
    ]
    assert all(reply.tokens and reply.first <= reply.ended - reply.asked for reply in replies)
    assert server.in_use() == 0


def test_a_client_that_hangs_up_is_no_error_and_leaves_no_slot(server):
    reply = asyncio.run(server.ask(load.question(1), hang_up=True))
    assert reply.events == 1 and not reply.error


def test_what_is_refused_is_counted_by_its_reason(server):
    replies = [asyncio.run(server.ask(messages)) for messages in ([], load.question(2))]
    found = load.summary(replies)
    assert found["answers"] == 1 and found["errors"] == {"status 400": 1}


def test_the_document_has_what_was_measured_and_nothing_else():
    figures = {"tokens_per_second": 300.0, "ttft_p95": 1.0, "errors": {"status 429": 2}}
    rounds = [{"server": figures, "bare": {"tokens_per_second": speed, "ttft_p95": 2.0}} for speed in (300, 400, 600)]
    about = {"machine": "A CPU, 2 cores", "model": "a-model"}
    text = load.document({"about": about, "together": {"30": rounds, "in_use": 0}})
    assert "| 30 | 300 | 400 | 0.75 | 1.00 s | 2.00 s | 6 |" in text and "killed" not in text
    killed = dict.fromkeys(("broken", "in_progress", "refused_later", "asked_later"), 3)
    killed |= {"seconds_with_refusals": 1.25, "seconds_to_two_replicas": 9.6}
    text = load.document({"about": about, "node": killed})
    assert "**A node** is killed" in text and "were running again after 10 s" in text
    assert "questions at once" not in text

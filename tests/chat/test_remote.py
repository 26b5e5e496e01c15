"""helpers.chat.remote: the conversation of the chat box and the terminal, against a scripted server on loopback."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
from fakes import fake_conversation
from hypothesis import example, given, settings
from openai_servers import (
    DONE,
    KEY,
    SERVERS,
    WAIT,
    WORDS,
    LoopbackServer,
    Refused,
    chunk,
    logprobs,
    sse,
    texts,
    usage,
    vllm,
)
from payloads import PAYLOADS
from strategies import ANY_JSON

from helpers.chat.box import ChatBox
from helpers.chat.history import History
from helpers.chat.messages import stats_line
from helpers.chat.remote import RemoteConversation, connect
from helpers.errors import TutorialError
from helpers.generate.sampling import GREEDY, Sampling
from helpers.settings import ROOT

TEXT = "".join(WORDS)
REFUSED_TOP = Refused(400, {"error": {"message": "top_logprobs is not supported", "param": "top_logprobs"}})
REFUSED_ALL = Refused(400, {"error": "MP status - INVALID_ARGUMENT: logprobs are not supported in streaming mode."})


@pytest.fixture
def serve():
    """serve(reply) starts a server, and returns it with a conversation; a list is the reply to each request."""
    servers = []

    def start(reply, models=None, **options):
        server = LoopbackServer(reply if callable(reply) else lambda _: reply, models)
        servers.append(server.__enter__())
        return server, RemoteConversation(server.url, "tiny", KEY, **options)

    yield start
    for server in servers:
        server.__exit__()


def ask(conversation, text="Hello"):
    return "".join(conversation.say(text))


def contents(conversation):
    return [message.content for message in conversation.messages]


def wait_until_started(answer):
    """Let an answer run in a thread; returns the thread, and what it has yielded or raised."""
    got, first = [], threading.Event()

    def run():
        try:
            for piece in answer:
                got.append(piece)
                first.set()
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got, first


@pytest.mark.parametrize("name", SERVERS)
def test_each_servers_answer_is_streamed_with_the_figures_that_it_gives(serve, name):
    _, conversation = serve(SERVERS[name]())
    answer = conversation.say("Hello")
    pieces = list(answer)
    assert "".join(pieces) == TEXT and len(pieces) > 3
    assert contents(conversation) == ["Hello", TEXT] and not conversation.answering
    stats = conversation.messages[-1].stats
    assert (stats.prompt_tokens, stats.new_tokens, stats.finish_reason) == (30, 5, "eos_token")
    assert stats.cached_tokens == (16 if name == "vllm" else None), "no prefix figures where the server gives none"
    assert stats.ttft_ms > 0 and stats.tpot_ms >= 0
    assert stats_line(stats).endswith("prompt 30 tokens (16 cached)" if name == "vllm" else "prompt 30 tokens")
    tokens = [conversation.tok.decode([token.id]) for token in conversation.messages[-1].tokens]
    assert tokens == (WORDS if name in ("ours", "vllm") else [])


def test_a_request_has_the_settings_and_the_whole_conversation(serve):
    server, conversation = serve(vllm(), system="Be brief.", max_new_tokens=77)
    conversation.sampling = Sampling(0.5, top_k=3, top_p=0.9, repetition_penalty=1.2, seed=7)
    ask(conversation), ask(conversation, "More")
    body, headers = server.requests[-1]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert [(each["role"], each["content"]) for each in body.pop("messages")] == [
        ("system", "Be brief."), ("user", "Hello"), ("assistant", TEXT), ("user", "More"),
    ]  # fmt: skip
    assert body == {
        "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 77,
        "temperature": 0.5, "top_p": 0.9, "top_k": 3, "repetition_penalty": 1.2, "seed": 7,
        "logprobs": True, "top_logprobs": 5,
    }  # fmt: skip


def test_what_is_not_openais_is_sent_only_where_it_has_an_effect(serve):
    server, conversation = serve(vllm(), sampling=GREEDY, alternatives=None)
    ask(conversation)
    assert {"top_k", "repetition_penalty", "seed", "logprobs", "top_logprobs"}.isdisjoint(server.requests[0][0])


def test_the_xray_shows_the_servers_tokens_with_probabilities_and_alternatives(serve):
    server, conversation = serve(vllm())
    ask(conversation)
    box = ChatBox(conversation, keep=False)
    shown = box.xray(1)
    assert [token["text"] for token in shown] == [word.replace(" ", "␣") for word in WORDS]
    assert [(each["text"], each["probability"]) for each in shown[1]["options"]] == [
        ("␣two", 0.6), ("␣tea", 0.2), ("␣blue", 0.04),
    ]  # fmt: skip


def test_a_character_of_two_tokens_has_both(serve):
    parts = [{"token": "\ufffd", "bytes": [byte], "logprob": -0.1, "top_logprobs": []} for byte in "é".encode()]
    events = [
        sse(chunk({"content": text}, choice={"logprobs": {"content": [part]}}))
        for text, part in zip(("", "é"), parts, strict=True)
    ]
    _, conversation = serve([*events, sse(chunk({}, "stop")), DONE])
    assert list(conversation.say("Hello")) == ["é"]
    tokens = conversation.messages[-1].tokens
    assert len(tokens) == 2 and conversation.tok.decode([token.id for token in tokens]) == "é"
    assert len(ChatBox(conversation, keep=False).xray(1)) == 2


@pytest.mark.parametrize(
    "refusals, tokens, asked",
    [
        ([REFUSED_TOP], 5, [True, True]),
        ([REFUSED_ALL], 5, [True, None]),
        ([REFUSED_TOP, REFUSED_ALL], 5, [True, True, None]),
    ],  # fmt: skip
)
def test_a_server_without_logprobs_is_asked_without_them_from_then_on(serve, refusals, tokens, asked):
    left = list(refusals)
    server, conversation = serve(lambda _: left.pop(0) if left else vllm())
    assert ask(conversation) == TEXT
    assert [body.get("logprobs") for body, _ in server.requests] == asked
    assert "top_logprobs" not in server.requests[-1][0]
    before = len(server.requests)
    ask(conversation, "More")
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_is_told_apart_and_not_sent_again(serve, field):
    thoughts = [sse(chunk({field: word, "content": None})) for word in ("Let me", " see.")]
    server, conversation = serve([*thoughts, *texts(WORDS), sse(chunk({}, "stop")), DONE])
    answer = conversation.say("Hello")
    pieces = [(answer.thinking, piece) for piece in answer]
    assert "".join(piece for thinking, piece in pieces if thinking) == "Let me see."
    assert "".join(piece for thinking, piece in pieces if not thinking) == TEXT
    message = conversation.messages[-1]
    assert (message.thought, message.answer) == ("Let me see.", TEXT)
    ask(conversation, "More")
    assert server.requests[-1][0]["messages"][1]["content"] == TEXT


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "Let me see.", "content": WORDS[0]}, {"content": "".join(WORDS[1:])}],
        [{"content": "\n"}, {"reasoning": "Let me see."}, {"content": TEXT}],
    ],
    ids=["in one event", "behind white space"],
)
def test_a_thought_ends_where_the_answer_begins(serve, deltas):
    _, conversation = serve([*(sse(chunk(delta)) for delta in deltas), sse(chunk({}, "stop")), DONE])
    ask(conversation)
    assert (conversation.messages[-1].thought, conversation.messages[-1].answer) == ("Let me see.", TEXT)


@pytest.mark.parametrize("thought", [None, "Let me see."])
def test_a_server_that_does_not_stream_is_understood(serve, thought):
    message = {"role": "assistant", "content": TEXT, "reasoning_content": thought}
    whole = {"choices": [{"message": message, "finish_reason": "length"}]}
    _, conversation = serve(Refused(200, usage(30, 512) | whole))
    ask(conversation)
    message = conversation.messages[-1]
    assert (message.thought, message.answer) == (thought or "", TEXT)
    assert message.stats.finish_reason == "max_new_tokens"


@pytest.mark.parametrize(
    "reason, new, finish_reason, note",
    [("length", 512, "max_new_tokens", ""), ("length", 9, "context", ""), ("content_filter", 5, "stopped", "filter")],
)
def test_why_an_answer_ended(serve, reason, new, finish_reason, note):
    _, conversation = serve([*texts(WORDS), sse(chunk({}, reason)), sse(usage(30, new)), DONE])
    answer = conversation.say("Hello")
    assert "".join(answer) == TEXT
    assert answer.finish_reason == finish_reason and note in " ".join(answer.warnings())
    assert answer.stats.new_tokens == new


def test_tokens_are_counted_as_they_arrive_where_the_server_gives_no_usage(serve):
    _, conversation = serve([*texts(WORDS), sse(chunk({}, "stop"))])
    ask(conversation)
    stats = conversation.messages[-1].stats
    assert (stats.prompt_tokens, stats.new_tokens, stats.cached_tokens, stats.context_length) == (0, 5, None, None)
    assert "prompt" not in stats_line(stats) and "context" not in stats_line(stats)


def test_the_context_length_is_asked_for_once(serve):
    server, conversation = serve(vllm(), {"data": [{"id": "tiny", "max_model_len": 8192}]})
    ask(conversation)
    assert conversation.context_length == 8192
    answer = conversation.say("More")
    list(answer)
    assert stats_line(answer.stats).endswith("context 35 of 8,192")
    box = ChatBox(conversation, keep=False)
    server.reply = lambda _: [*texts(WORDS), sse(chunk({}, "stop"))]
    box.submit("And without usage?")
    assert box.wait(20) and "context" not in box.status and box.widget.context == [35, 8192]


# The tree of versions, undo, saving and history are those of Conversation: each step does the same to both.
def remote_twin(serve):
    server, conversation = serve(lambda body: [*texts([body["messages"][-1]["content"]]), sse(chunk({}, "stop")), DONE])
    return conversation


STEPS = {
    "say": lambda c, _: ask(c, "one"),
    "say more": lambda c, _: ask(c, "two"),
    "regenerate": lambda c, _: "".join(c.regenerate()),
    "edit": lambda c, _: "".join(c.edit(0, "three")),
    "switch": lambda c, _: c.switch(0, 1),
    "undo": lambda c, _: c.undo(),
    "clear": lambda c, _: c.clear(),
    "save": lambda c, folder: c.save(folder / "chat.json"),
    "load": lambda c, folder: c.load(folder / "chat.json"),
    "open": lambda c, _: c.open(c.history.entries()[0].name),
}
ORDERS = ["say, say more, regenerate, undo", "say, edit, switch, say more, switch", "say, save, clear, load, say more"]
ORDERS += [
    "say, say more, clear, undo, edit, undo",
    "say, edit, clear, open, switch, say more",
    "undo, regenerate, say",
]


@pytest.mark.parametrize("order", ORDERS)
def test_it_behaves_as_a_conversation_with_a_model_of_this_process(serve, tmp_path, order):
    twins = [fake_conversation(), remote_twin(serve)]
    for conversation, name in zip(twins, ("here", "there"), strict=True):
        (tmp_path / name).mkdir()
        conversation.history = History(tmp_path / name / "kept")
    for step in order.split(", "):
        seen = []
        for conversation, name in zip(twins, ("here", "there"), strict=True):
            try:
                STEPS[step](conversation, tmp_path / name)
                error = ""
            except TutorialError as failed:
                error = str(failed)
            numbers = range(len(conversation.messages))
            versions = [conversation.versions(number) for number in numbers]
            kept = [entry.name for entry in conversation.history.entries()]
            seen.append((contents(conversation), versions, conversation.can_undo, kept, error))
        assert seen[0] == seen[1], step


def test_a_saved_conversation_keeps_its_text_and_figures_and_not_the_servers_tokens(serve, tmp_path):
    server, conversation = serve(vllm())
    ask(conversation)
    conversation.save(tmp_path / "chat.json")
    other = RemoteConversation(server.url, "tiny", KEY)
    other.load(tmp_path / "chat.json")
    assert contents(other) == ["Hello", TEXT] and other.messages[-1].stats == conversation.messages[-1].stats
    assert other.messages[-1].tokens == ()
    conversation.load(tmp_path / "chat.json")
    assert len(conversation.messages[-1].tokens) == 5, "in its own session, the numbers still mean the same"
    local = fake_conversation()
    local.load(tmp_path / "chat.json")
    assert contents(local) == ["Hello", TEXT]


REFUSALS = {
    "401": (
        Refused(401, {"error": {"message": "Wrong key", "code": "invalid_api_key"}}),
        "refuses the API key",
    ),
    "401 vLLM": (Refused(401, {"error": "Unauthorized"}), "refuses the API key (401): Unauthorized"),
    "404 model": (Refused(404, {"error": {"message": "no such model"}}), "has no model 'tiny' (404): no such model"),
    "429": (Refused(429, {"error": {"message": "busy"}}, Retry_After="7"), "Send the message again in 7 s."),
    "429 date": (Refused(429, {"error": {"message": "busy"}}, Retry_After="Fri, 31 Dec"), "again in a while."),
    "503": (Refused(503, {"error": {"message": "draining"}}), "The server is busy (503): draining"),
    "503 Ray Serve": (Refused(503, b"draining", Content_Type="text/plain"), "is busy (503): Service Unavailable"),
    "400": (Refused(400, {"error": {"message": "top_p is 7", "param": "top_p"}}), "(400): top_p is 7"),
    "400 old vLLM": (Refused(400, {"object": "error", "message": "top_p is 7", "code": 400}), "(400): top_p is 7 400"),
    "422 FastAPI": (Refused(422, {"detail": [{"msg": "Field required"}]}), "Field required"),
    "500 a page": (
        Refused(500, b"<html><script>alert(1)</script>", Content_Type="text/html"),
        "(500): Internal Server",
    ),
    "302": (Refused(302, b"", Location="http://elsewhere.example/"), "no such API at this address (302): Found"),
    "405": (Refused(405, b"", Content_Type="text/plain"), "no such API at this address (405): Method Not Allowed"),
    "200 LM Studio": ([b"event: error\n", sse({"error": {"message": "Model is unloaded."}})], "Model is unloaded."),
    "200 OVMS": ([b'{"error": "CalculatorGraph::Run() failed"}\n'], "CalculatorGraph::Run() failed"),
    "a page": (Refused(200, b"data: <html>\n", Content_Type="text/html"), "not a JSON object"),
    "cut": ([None], "The connection to the server broke"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_a_sentence_and_changes_nothing(serve, name):
    reply, sentence = REFUSALS[name]
    replies = iter([vllm(), reply, reply, reply, vllm()])
    server, conversation = serve(lambda _: next(replies), {"data": [{"id": "small"}, {"id": "large"}]})
    ask(conversation)
    before = conversation.messages
    box = ChatBox(conversation, keep=False)
    sent, box.widget.send = [], lambda message, **_: sent.append(message)
    for change in (lambda: box.submit("Again"), box.regenerate, lambda: box.edit(0, "Edited")):
        change()
        assert box.wait(20)
        assert sentence in box.status and conversation.messages is before
    assert [each["text"] for each in sent if each["type"] == "refused"] == ["Again", "Edited"]
    assert ("small, large" in box.status) == (name == "404 model")
    assert "<" not in box.status and "\n" not in box.status
    box.submit("Now?")
    assert box.wait(20) and contents(conversation)[-1] == TEXT


def test_no_server_and_an_address_that_is_none(serve):
    server, conversation = serve(vllm())
    server.__exit__()
    with pytest.raises(TutorialError, match="There is no server at 127.0.0.1:"):
        ask(conversation)
    assert conversation.messages == []
    for url in ("", "127.0.0.1:8000/v1", "ftp://x/v1", "http://", "http:" + "//[", "http:" + "//x:port/v1"):
        with pytest.raises(TutorialError, match="cannot be used: "):
            RemoteConversation(url, "tiny")
    with pytest.raises(TutorialError, match="characters that cannot be sent") as raised:
        RemoteConversation(server.url, "tiny", f"{KEY}\né")
    assert KEY not in str(raised.value)


def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch):
    for proxy in ("socks5://127.0.0.1:9", "http:" + "//x:port"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(TutorialError, match="^'http://192.0.2.1/v1' cannot be used: "):
            RemoteConversation("http://192.0.2.1/v1", "tiny")


@pytest.mark.parametrize(
    "models, sentence",
    [
        (Refused(401, {"error": {"message": "Wrong key"}}), r"^The server refuses the API key \(401\): Wrong key\n"),
        (Refused(404, b"<html>"), r"^There is no such API at this address \(404\): Not Found\n"),
        (Refused(301, b""), r"^There is no such API at this address \(301\): Moved Permanently\n"),
        (Refused(503, {"error": "loading"}), r"^The server is busy \(503\): loading\n"),
        (Refused(400, {"error": "no"}), r"^The server refuses the request \(400\): no\n"),
        (Refused(200, b"<html>"), r" does not list its models: "),
        ({"data": [{}]}, r" does not list its models: "),
    ],
)
def test_why_there_is_no_list_of_models_is_a_sentence(serve, models, sentence):
    server, conversation = serve(vllm(), models)
    with pytest.raises(TutorialError, match=sentence):
        conversation.models()
    server.__exit__()
    with pytest.raises(TutorialError, match="^There is no server at 127.0.0.1:"):
        connect(server.url)


def test_a_server_without_models_says_so(serve):
    server, _ = serve(vllm(), {"object": "list", "data": None})
    with pytest.raises(TutorialError, match="has no models"):
        connect(server.url)


def test_v1_is_added_to_an_address_without_a_path(serve):
    server, _ = serve(vllm())
    assert ask(RemoteConversation(server.url.removesuffix("/v1"), "tiny")) == TEXT


BREAKS = {
    "cut": ([None], "The connection to the server broke"),
    "ended early": ([], "closed the connection before the answer was complete"),
    "error event": ([sse({"error": {"message": "replica died"}})], "The server ended the answer: replica died"),
    "error line": ([b'{"error": "graph failed"}\n'], "The server ended the answer: graph failed"),
    "not JSON": ([b"data: {oops\n\n"], "not a JSON object"),
    "not UTF-8": ([b'data: {"choices": "\xff"}\n\n'], "not a JSON object"),
    "a list": ([b"data: []\n\n"], "not a JSON object"),
    "a number as text": ([sse(chunk({"content": 7}))], "a form that is not OpenAI's"),
    "choices of a different kind": ([sse({"choices": [7]})], "a form that is not OpenAI's"),
    "logprobs of a different kind": (texts(["x"], choice={"logprobs": {"content": [{}]}}), "not OpenAI's"),
    "bytes that are a number": (
        texts(["x"], choice={"logprobs": {"content": [{"token": "x", "logprob": -1, "bytes": 2**40}]}}),
        "not OpenAI's",
    ),
    "a line without end": ([b"data: " + b"x" * 2**16] * 40, "a line of more than 1 MiB"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_in_the_middle_is_a_sentence_and_the_text_so_far_is_kept(serve, name):
    parts, sentence = BREAKS[name]
    replies = iter([[*texts(WORDS[:3]), *parts], vllm()])
    _, conversation = serve(lambda _: next(replies))
    box = ChatBox(conversation, keep=False)
    box.submit("Hello")
    assert box.wait(20)
    assert sentence in box.status and box.error
    assert contents(conversation) == ["Hello", "One two **three**"]
    assert conversation.messages[-1].stats.finish_reason == "error"
    box.regenerate()
    assert box.wait(20)
    assert contents(conversation) == ["Hello", TEXT] and box.versions(1) == (2, 2)


@pytest.mark.parametrize("stop", [False, True])
def test_a_line_that_is_cut_is_left_out(stop):
    """Servers of HTTP/1.0, such as mlx_lm.server, end an answer by closing the connection, which may break, too."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        answer = RemoteConversation(url, "tiny").say("Hello")
        thread, got, first = wait_until_started(answer)
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            connection.sendall(head + texts(WORDS[:1])[0] + b'data: {"choices": [{"delta": {"cont')
            assert first.wait(20)
            if stop:
                time.sleep(0.2)  # until it waits for more
                answer.stop()
            connection.shutdown(socket.SHUT_WR)
            thread.join(20)
    assert got[0] == "One" and answer.finish_reason == ("stopped" if stop else "error")
    assert [str(each).partition("\n")[0] for each in got[1:]] == (
        [] if stop else ["The server closed the connection before the answer was complete."]
    )


@pytest.mark.parametrize("begun", [[], texts(WORDS[:2])], ids=["before the first token", "in the middle"])
def test_a_server_that_sends_nothing_more_is_left_after_the_timeout(serve, begun):
    _, conversation = serve([*begun, WAIT], timeout=0.3)
    with pytest.raises(TutorialError, match=r"The server has sent nothing for 0\.3 s\."):
        ask(conversation)
    assert contents(conversation) == (["Hello", "One two"] if begun else [])


@pytest.mark.parametrize("where", ["before the headers", "behind the headers", "in the middle"])
def test_stop_closes_the_connection_at_once(serve, where):
    begun = {"before the headers": [], "behind the headers": [b": waiting\n\n"], "in the middle": texts(WORDS[:2])}
    server, conversation = serve([*begun[where], WAIT])
    answer = conversation.say("Hello")
    thread, got, first = wait_until_started(answer)
    if where == "in the middle":
        assert first.wait(20)
    else:
        for _ in range(2000):
            if server.requests:
                break
            time.sleep(0.01)
    conversation.stop()
    assert server.closed.wait(20), "the server sees it, so that it frees the slot"
    thread.join(20)
    assert not thread.is_alive() and not any(isinstance(each, Exception) for each in got)
    assert contents(conversation) == ["Hello", "".join(got)] and bool(got) == (where == "in the middle")
    assert answer.finish_reason == "stopped" and not conversation.answering


def test_stop_before_the_request_sends_none(serve):
    server, conversation = serve(vllm())
    answer = conversation.say("Hello")
    answer.stop()
    assert "".join(answer) == "" and server.requests == [] and answer.finish_reason == "stopped"


def test_an_answer_that_is_abandoned_closes_its_connection(serve):
    server, conversation = serve([*texts(WORDS[:2]), WAIT])
    answer = conversation.say("Hello")
    for _ in answer:
        break
    assert server.closed.wait(20) and answer.finish_reason == "stopped", "although the answer still exists"
    assert contents(conversation) == ["Hello", "One"]
    assert conversation.messages[-1].stats.finish_reason == "stopped"


@pytest.mark.parametrize(
    "status, said", [(400, "messages: 13; this server takes at most 4."), (413, "The request is larger than 99 bytes.")]
)
def test_the_oldest_messages_are_left_out_when_there_are_too_many_for_the_server(serve, status, said):
    def reply(body):
        if len(body["messages"]) > 4:
            return Refused(status, {"error": {"message": said}})
        return [*texts([body["messages"][-1]["content"]]), sse(chunk({}, "stop")), DONE]

    _, conversation = serve(reply)
    for number in range(6):
        assert "".join(conversation.say(f"message {number}")) == f"message {number}"
    assert len(conversation.messages) == 12 and conversation.truncated_messages
    conversation.use("large")
    assert conversation.truncated_messages == 0


@pytest.mark.parametrize("in_stream", [False, True], ids=["status 400", "in the stream, as LM Studio"])
def test_the_oldest_messages_are_left_out_when_the_server_says_that_the_context_is_full(serve, in_stream):
    def reply(body):
        if len(body["messages"]) > 5:
            said = "This model's maximum context length is 50 tokens. However, your messages have 99."
            error = {"error": {"message": said, "code": 400}}
            return [b"event: error\n", sse(error)] if in_stream else Refused(400, error)
        return [*texts([body["messages"][-1]["content"]]), sse(chunk({}, "stop")), DONE]

    server, conversation = serve(reply)
    for number in range(6):
        answer = conversation.say(f"message {number}")
        assert "".join(answer) == f"message {number}"
    assert len(conversation.messages) == 12 and conversation.truncated_messages == 6
    assert server.requests[-1][0]["messages"][0]["content"] == "message 3"
    server.reply = lambda _: Refused(400, {"error": {"message": "maximum context length is 50 tokens"}})
    with pytest.raises(TutorialError, match="maximum context length"):
        ask(conversation, "far too long")
    assert len(conversation.messages) == 12 and conversation.truncated_messages == 6


def test_an_answer_is_continued_only_by_a_server_that_can(serve):
    server, conversation = serve([*vllm()[:3], None])
    with pytest.raises(TutorialError, match="broke"):
        ask(conversation)
    before = conversation.messages
    for change in (conversation.resume, lambda: conversation.branch(1, 0, 0)):
        with pytest.raises(TutorialError, match="This server cannot continue an answer"):
            change()
    assert conversation.messages is before
    server.models = {"data": [{"id": "tiny", "owned_by": "vllm"}]}
    conversation.models()
    server.reply = lambda _: vllm()[3:]
    assert "".join(conversation.resume()) == TEXT
    assert contents(conversation) == ["Hello", TEXT] and conversation.versions(1) == (1, 1)
    body, _ = server.requests[-1]
    assert body["messages"][-1] == {"role": "assistant", "content": "One two"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    tea = conversation.messages[1].tokens[1].alternatives[1][0]
    server.reply = lambda _: [*texts([" is good."]), sse(chunk({}, "stop")), DONE]
    assert "".join(conversation.branch(1, 1, tea)) == "One tea is good."
    assert conversation.versions(1) == (2, 2)
    conversation.switch(1, 1)
    conversation.max_new_tokens = 2
    list(conversation.branch(1, 1, tea))
    assert server.requests[-1][0]["max_tokens"] == 1, "no server takes less"


def test_the_key_appears_nowhere(serve, tmp_path, caplog, capsys):
    """Not in an error, a repr, a traceback, a log, or a saved conversation, even where the server repeats it."""
    caplog.set_level(logging.DEBUG)
    said = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": f"\x1b[31m{KEY}"}}
    replies = [vllm(), Refused(401, said), Refused(404, said), Refused(400, said), [sse(said)], [None]]
    replies += [[*texts(WORDS[:1]), sse(said)]]
    seen, left = [], list(replies)
    server, conversation = serve(lambda _: left.pop(0), Refused(401, said))
    conversation.history = History(tmp_path / "kept")
    box = ChatBox(conversation)
    for _ in replies:
        box.submit("Hello")
        assert box.wait(20)
        seen += [box.status, box.error]
    with pytest.raises(TutorialError) as raised:
        conversation.models()
    seen += traceback.format_exception(raised.value)
    server.__exit__()
    with pytest.raises(TutorialError) as raised:
        ask(conversation)
    seen += traceback.format_exception(raised.value)
    answer = conversation.say("Hello")
    for each in (conversation, box, answer, conversation._server, conversation._server.client, answer._stream):
        seen += [repr(each), str(each), repr(vars(each))]
    seen += [conversation.json(), conversation.markdown(), caplog.text, *capsys.readouterr()]
    seen += [file.read_text(encoding="utf-8") for file in (tmp_path / "kept").iterdir()]
    assert len(seen) > 30 and [text for text in seen if KEY in text] == []
    assert caplog.records, "httpx logs its requests"


HOSTILE = "a\x1b]0;title\x07b\x9b31mc\u202ed\re\0f\ud83dg\u2028h <img src=x onerror=alert(1)>"


def test_what_a_server_sends_is_text(serve, tmp_path):
    words = [HOSTILE, *PAYLOADS]
    entry = logprobs("x", HOSTILE.replace("\ud83d", ""))
    events = [json.dumps(chunk({"content": word}, choice={"logprobs": entry})).encode() for word in words]
    raw = json.dumps(chunk({"content": "U+2028: \u2028."}), ensure_ascii=False).encode()
    _, conversation = serve(
        [*(b"data:" + event + b"\n\n" for event in (*events, raw)), sse(chunk({}, "\x1b[31mlength"))]
    )
    box = ChatBox(conversation, keep=False)
    box.submit("Hello")
    assert box.wait(20)
    text = conversation.messages[-1].content
    assert text.startswith("a]0;titleb31mcdef\N{REPLACEMENT CHARACTER}g\u2028h <img") and text.endswith(
        "U+2028: \u2028."
    )
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text + box.status)
    assert "<img" not in box.widget.messages[-1]["html"] and "<script" not in box.widget.messages[-1]["html"]
    json.dumps(box.xray(1), allow_nan=False)
    conversation.save(tmp_path / "chat.json")
    conversation.load(tmp_path / "chat.json")


def test_log_probabilities_that_are_no_numbers_are_shown(serve):
    odd = {
        "content": [{"token": "x", "logprob": float(n), "top_logprobs": None} for n in ("nan", "-inf", "inf", -9999)]
    }
    _, conversation = serve([*texts(["x"], choice={"logprobs": odd}), sse(chunk({}, "stop")), DONE])
    ask(conversation)
    assert [token.probability for token in conversation.messages[-1].tokens] == [0.0, 0.0, 1.0, 0.0]


@pytest.fixture(scope="module")
def fuzzed():
    with LoopbackServer(lambda _: []) as server:
        yield server


@settings(max_examples=40)
@given(ANY_JSON)
@example({"choices": [{"delta": {"content": None}, "finish_reason": {}}]})
@example({"usage": {"completion_tokens": -1, "prompt_tokens": True, "prompt_tokens_details": 7}, "choices": None})
def test_any_json_is_an_answer_or_a_tutorial_error(fuzzed, event):
    for parts in ([sse(event)], [*texts(["x"]), sse(event), sse(chunk({}, "stop"))]):
        fuzzed.reply = lambda _, parts=parts: parts
        conversation = RemoteConversation(fuzzed.url, "tiny", KEY)
        try:
            ask(conversation)
        except TutorialError as error:
            assert len(str(error)) < 1000
        if conversation.messages:
            stats_line(conversation.messages[-1].stats)
            conversation.json().encode()


def test_the_box_names_the_model_and_its_server_and_offers_no_model_of_this_disk(serve):
    server, conversation = serve(vllm())
    box = ChatBox(conversation, keep=False)
    assert box.about == f"tiny · {conversation.server}" and box.widget.about == box.about
    box.settings.shown.value = True
    assert box.settings.model.options == ()
    with pytest.raises(TutorialError, match="runs on a server"):
        box.use("smollm2-instruct")
    assert box.widget.context == [0, 0], "unknown: the box hides its meter"
    box.submit("Hello")
    assert box.wait(20) and box.status == f"{stats_line(conversation.messages[-1].stats)}."


def test_a_different_model_of_the_server_continues(serve):
    server, conversation = serve(vllm(), {"data": [{"id": "tiny"}, {"id": "large", "max_model_len": 99}]})
    assert conversation.models() == ["tiny", "large"]
    ask(conversation)
    conversation.use("large")
    ask(conversation, "More")
    assert server.requests[-1][0]["model"] == "large" and conversation.context_length == 99


def test_connect_takes_the_address_and_the_key_from_the_environment(serve, monkeypatch):
    server, _ = serve(vllm(), {"data": [{"id": "first"}, {"id": "second"}]})
    monkeypatch.setenv("TUTORIAL_SERVER", server.url)
    monkeypatch.setenv("TUTORIAL_API_KEY", KEY)
    assert ask(connect()) == TEXT
    assert ask(connect(model="second", alternatives=None)) == TEXT
    assert [body["model"] for body, _ in server.requests] == ["first", "second"]
    assert {headers["Authorization"] for _, headers in server.requests} == {f"Bearer {KEY}"}


def test_loopback_is_not_sent_to_a_proxy(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    _, conversation = serve(vllm())
    assert ask(conversation) == TEXT


def test_a_server_knows_the_prompt_and_decides_about_device_and_format(serve):
    _, conversation = serve(vllm())
    with pytest.raises(TutorialError, match="known to the server only"):
        conversation.prompt()
    for option in (["--device", "GPU"], ["--format", "int8"], ["--context-length", "99"], ["--no-thinking"]):
        argv = [sys.executable, "-m", "helpers", "chat", "--server", "http://127.0.0.1:9", *option]
        ran = subprocess.run(argv, cwd=ROOT, input="", capture_output=True, text=True)
        assert ran.returncode == 1 and "cannot be used with --server" in ran.stderr


def test_the_terminal_takes_it(serve, monkeypatch, capsys):
    server, _ = serve(vllm())
    argv = [sys.executable, "-m", "helpers", "chat", "--server", server.url, "--temperature", "0.5"]
    environ = os.environ | {"TUTORIAL_API_KEY": KEY, "PYTHONUTF8": "1"}
    ran = subprocess.run(
        argv, cwd=ROOT, env=environ, input="Hello\n/regenerate\n", capture_output=True, encoding="utf-8"
    )
    assert ran.stdout == f"{TEXT}\n{TEXT}\n" and "prompt 30 tokens (16 cached)" in ran.stderr
    assert server.requests[0][0]["temperature"] == 0.5 and "logprobs" not in server.requests[0][0]
    assert KEY not in ran.stdout + ran.stderr

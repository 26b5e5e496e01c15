"""A scripted server on loopback with OpenAI's API, and the forms in which five servers send the same answer.

The forms follow OpenAI's API reference, and the source of OpenVINO Model Server (src/llm/apis), vLLM
(entrypoints/openai), Ollama (openai/openai.go), and LM Studio's documentation and bug tracker.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ["One", " two", " **three**", " four", " five."]
KEY = "sk-canary-4711-dont-tell"
DONE = b"data: [DONE]\n\n"
WAIT = "until the client closes the connection"


def sse(event: object, start: bytes = b"data: ", end: bytes = b"\n\n") -> bytes:
    return start + json.dumps(event, ensure_ascii=False).encode() + end


def chunk(delta: dict | None, finish_reason: str | None = None, **fields) -> dict:
    """Return a chunk of OpenAI's form; with `delta` None, one without choices, as that with the usage."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason} | fields.pop("choice", {})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return head | {"choices": [] if delta is None else [choice]} | fields


def usage(prompt: int, new: int, **details) -> dict:
    counts = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
    return chunk(None, usage=counts | details)


def logprobs(token: str, *others: str, names_bytes: bool = True) -> dict:
    """Return the log probabilities of a token: 0.6, and those of the others 0.2, 0.04, …"""

    def entry(text: str, probability: float) -> dict:
        known = {"bytes": list(text.encode())} if names_bytes else {"bytes": None}
        return {"token": text, "logprob": math.log(probability)} | known

    top = [entry(token, 0.6)] + [entry(text, 0.2 / 5**n) for n, text in enumerate(others)]
    return {"content": [entry(token, 0.6) | {"top_logprobs": top if others else []}]}


def texts(words: list[str], **fields) -> list[bytes]:
    return [sse(chunk({"content": word}, **fields)) for word in words]


def ours(words=WORDS) -> list[bytes]:
    """Tokens are coalesced under load; the probability of the chosen token only."""
    first = [sse(chunk({"role": "assistant", "content": ""}))]
    both = {"content": logprobs(words[0])["content"] + logprobs(words[1])["content"]}
    rest = [sse(chunk({"content": word}, choice={"logprobs": logprobs(word)})) for word in words[2:]]
    texts = [sse(chunk({"content": words[0] + words[1]}, choice={"logprobs": both})), *rest]
    return [*first, *texts, sse(chunk({}, "stop")), sse(usage(30, 5)), DONE]


def ovms(words=WORDS) -> list[bytes]:
    """No id, no role."""
    bare = {"object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    parts = [{"choices": [{"finish_reason": None, "index": 0, "logprobs": None, "delta": {"content": word}}]} | bare
             for word in words]  # fmt: skip
    end = {"choices": [{"finish_reason": "stop", "index": 0, "logprobs": None, "delta": {"content": ""}}]} | bare
    counts = {"choices": [], "usage": usage(30, 5)["usage"]} | bare
    return [*map(sse, (*parts, end, counts)), DONE]


def vllm(words=WORDS) -> list[bytes]:
    """Alternatives, bytes, cached tokens; an empty usage in each chunk."""
    first = sse(chunk({"role": "assistant", "content": ""}, usage=None, choice={"logprobs": None}))
    parts = [sse(chunk({"content": word}, choice={"logprobs": logprobs(word, " tea", " blue")})) for word in words]
    end = sse(chunk({"content": ""}, "stop", choice={"stop_reason": None, "logprobs": None}))
    return [first, *parts, end, sse(usage(30, 5, prompt_tokens_details={"cached_tokens": 16})), DONE]


def ollama(words=WORDS) -> list[bytes]:
    """A role in each chunk, no logprobs."""
    parts = [sse(chunk({"role": "assistant", "content": word}, system_fingerprint="fp_ollama")) for word in words]
    return [*parts, sse(chunk({"role": "assistant", "content": ""}, "stop")), sse(usage(30, 5)), DONE]


def lm_studio(words=WORDS) -> list[bytes]:
    """Lines end in CR LF here, and comments keep the connection alive."""
    parts = [sse(chunk({"role": "assistant", "content": word}, choice={"logprobs": None})) for word in words]
    lines = [b": keepalive\n\n", *parts, sse(chunk({}, "stop")), sse(usage(30, 5)), DONE]
    return [line.replace(b"\n", b"\r\n") for line in lines]


SERVERS = {"ours": ours, "ovms": ovms, "vllm": vllm, "ollama": ollama, "lm_studio": lm_studio}


class Refused:
    """A response with a status and a body, instead of a stream."""

    def __init__(self, status: int, body: object, **headers: str) -> None:
        self.status, self.headers = status, {"Content-Type": "application/json"} | headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class LoopbackServer:
    """Answers each request with what `reply` returns for its body: a Refused, or parts of a stream.

    Bytes are sent, functions are called there, None breaks the connection, and WAIT waits until the client does, at its
    beginning before the headers.  `requests` are the bodies and headers so far; `closed` is set when a client has
    closed its connection early.
    """

    def __init__(self, reply: Callable[[dict], Refused | list], models: object = None) -> None:
        self.reply, self.requests, self.closed = reply, [], threading.Event()
        self.models = {"object": "list", "data": [{"id": "tiny"}]} if models is None else models
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> LoopbackServer:
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


_running = []  # servers, until the process ends


def served_conversation(rate: float, **settings):
    """Return a RemoteConversation with our own server, whose pipeline is a fake one and answers as fakes has it."""
    from fake_pipeline import FakePipeline, engine_in_thread
    from fakes import ANSWERS

    from helpers.chat.remote import RemoteConversation
    from helpers.generate.sampling import GREEDY
    from helpers.serve.local import running

    pipeline = FakePipeline(lambda text: ANSWERS.get(text, [text])[0])
    pipeline.pace = 1 / rate
    _running.append(running(engine_in_thread(pipeline), KEY))
    server = _running[-1].__enter__()
    conversation = RemoteConversation(server.url, server.model, KEY, **{"sampling": GREEDY} | settings)
    conversation.pipeline = pipeline
    return conversation


def scripted_conversation(rate: float, **settings):
    """Return a RemoteConversation whose server sends answers as fakes has them word by word, and their errors."""
    from fakes import ANSWERS

    from helpers.chat.remote import RemoteConversation
    from helpers.generate.sampling import GREEDY

    def reply(body: dict) -> list:
        script = ANSWERS.get(text := body["messages"][-1]["content"], [text])
        words = re.findall(r"\s*\S+|\s+", "".join(part for part in script if isinstance(part, str)))
        parts = [part for word in texts(words) for part in (lambda: time.sleep(1 / rate), word)]
        failed = [sse({"error": {"message": str(part)}}) for part in script if isinstance(part, Exception)]
        return [*parts, *(failed or [sse(chunk({}, "stop")), sse(usage(30, len(words))), DONE])]

    server = LoopbackServer(reply).__enter__()
    return RemoteConversation(server.url, "tiny", KEY, **{"sampling": GREEDY} | settings)


class _Handler(BaseHTTPRequestHandler):
    protocol_version, owner = "HTTP/1.1", None

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        models = self.owner.models
        self._refuse(models if isinstance(models, Refused) else Refused(200, models))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append((body, dict(self.headers)))
        reply = self.owner.reply(body)
        if isinstance(reply, Refused):
            return self._refuse(reply)
        if reply[:1] == [WAIT]:
            return self._wait()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for part in reply:
                if part is None:
                    self.close_connection = True
                    return
                if part == WAIT:
                    return self._wait()
                if isinstance(part, bytes):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                else:
                    part()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.owner.closed.set()
            self.close_connection = True

    def _wait(self) -> None:
        self.connection.settimeout(20)
        if not self.connection.recv(1):
            self.owner.closed.set()
        self.close_connection = True

    def _refuse(self, refused: Refused) -> None:
        self.send_response(refused.status)
        for name, value in refused.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(refused.body)))
        self.end_headers()
        self.wfile.write(refused.body)

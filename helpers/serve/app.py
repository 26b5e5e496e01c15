"""The HTTP interface: OpenAI's chat completions and model list, /health, /metrics, and errors in OpenAI's format."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from helpers.decode import StreamDecoder, token_bytes
from helpers.errors import TutorialError
from helpers.serve.engine import Engine, EngineError, EngineFull, Generation
from helpers.tokenize import prompt_ids, text_ids

UNSUPPORTED = ("tools", "functions", "logit_bias", "audio", "prediction", "web_search_options")
OWNER = "openvino-chat-tutorial"
LIST_OF_TEXT = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
PARTS_OF_TEXT = BeforeValidator(lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value)
KINDS = {404: "not_found", 405: "method_not_allowed", 503: "unavailable"}


class ApiError(Exception):
    """An error as the OpenAI API reports it."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, **headers: str) -> None:
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Part(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], Field(fail_fast=True), PARTS_OF_TEXT]

    def plain(self) -> dict[str, str]:
        text = "".join(part.text for part in self.content)
        return {"role": self.role.replace("developer", "system"), "content": text}


StopString = Annotated[str, Field(min_length=1, max_length=100)]


class ChatRequest(Strict):
    """The body of a request.  null is the same as a missing field.  Other fields are ignored, except UNSUPPORTED."""

    model: str
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    stream: bool | None = None
    stream_options: dict | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=1e-30, le=1)  # greater than 0 in f32 too, in which the engine computes
    top_k: int | None = Field(None, ge=1, le=2**31)  # this and the next two are not part of OpenAI's API
    min_p: float | None = Field(None, ge=0, le=1 - 1e-6)
    repetition_penalty: float | None = Field(None, ge=1e-30, le=10)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    stop: Annotated[list[StopString] | None, Field(max_length=4), LIST_OF_TEXT] = None
    n: Literal[1] | None = None
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None  # the engine gives the log probability of the chosen token only
    response_format: dict[str, Literal["text"]] | None = None
    chat_template_kwargs: dict | None = None  # as in vLLM: {"enable_thinking": false}
    continue_final_message: bool | None = None  # as in vLLM: the answer continues the last message

    def options(self, new_tokens: int) -> dict:
        """Return the arguments of a GenerationConfig."""
        names = ["repetition_penalty", "frequency_penalty", "presence_penalty"]
        options = {"max_new_tokens": new_tokens, "logprobs": int(bool(self.logprobs)), "do_sample": False}
        if (temperature := 1.0 if self.temperature is None else self.temperature) > 1e-30:
            seed = secrets.randbits(32) if self.seed is None else self.seed % 2**32
            options |= {"do_sample": True, "temperature": temperature, "rng_seed": seed}
            names += ["top_p", "top_k", "min_p"]
        return options | {name: value for name in names if (value := getattr(self, name)) is not None}


class Metrics:
    """What /metrics reports of this process."""

    def __init__(self, engine: Engine) -> None:
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("chat_requests", "Requests by the status of their answer", ["status"], registry=registry)
        self.tokens = Counter("chat_tokens", "Tokens of prompts and of answers", ["kind"], registry=registry)
        self.ttft = Histogram("chat_ttft_seconds", "Time to the first token", registry=registry)
        for name in ("in_progress", "running", "kv_cache_percent"):
            gauge = Gauge(f"chat_{name}", f"chat {name.replace('_', ' ')}", registry=registry)
            gauge.set_function(partial(getattr, engine, name))


class Answer:
    """One answer in progress, in OpenAI's format; `kept` has the token ids of the message that it continues, if any."""

    def __init__(self, request: ChatRequest, ids: list[int], kept: list[int], generation: Generation, metrics) -> None:
        self.request, self.generation, self.metrics, self.tok = request, generation, metrics, generation.engine.tok
        kept_text = self.tok.decode(kept)
        self.decoder = StreamDecoder(self.tok, request.stop or (), len(kept_text))
        self.prompt_tokens, self.finish_reason, self.special = len(ids), None, set(self.tok.all_special_ids)
        self.kept, self.unsent = len(kept), len(kept_text) - len(self.decoder.push(kept))
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}

    async def pieces(self) -> AsyncIterator[tuple[str, list[dict]]]:
        """Yield the text of new tokens, and their log probabilities if they were asked for."""
        async for ids, log_probs in self.generation:
            if (before := self.decoder.taken) == self.kept:
                self.metrics.ttft.observe(time.monotonic() - self.generation.started)
            text = self._new(self.decoder.push(ids))
            new = ids[: self.decoder.taken - before] if self.request.logprobs else ()
            pairs = zip(new, log_probs, strict=False)
            yield text, [self._log_prob(*pair) for pair in pairs if pair[0] not in self.special]
            if self.decoder.ended:  # by a stop string
                self.finish_reason = "stop"
                break
        else:
            self.finish_reason = self.generation.finish_reason
            yield self._new(self.decoder.push([], last=True)), []
        self.generation.close()
        self.metrics.answers.labels(200).inc()
        self.metrics.tokens.labels("prompt").inc(self.prompt_tokens)
        self.metrics.tokens.labels("answer").inc(self.decoder.taken - self.kept)

    def _new(self, text: str) -> str:
        """Return `text` without the end of the kept text, which the decoder may have held back."""
        new = text[self.unsent :]
        self.unsent = max(0, self.unsent - len(text))
        return new

    def _log_prob(self, index: int, value: float) -> dict:
        data = token_bytes(self.tok, index)
        return {"token": data.decode(errors="replace"), "logprob": value, "bytes": list(data), "top_logprobs": []}

    def usage(self) -> dict[str, int]:
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.decoder.taken - self.kept}
        return counts | {"total_tokens": sum(counts.values())}

    async def whole(self) -> dict:
        """Return the chat.completion object."""
        pieces = [piece async for piece in self.pieces()]
        log_probs = {"content": sum((found for _, found in pieces), [])} if self.request.logprobs else None
        message = {"role": "assistant", "content": "".join(text for text, _ in pieces)}
        choice = {"index": 0, "message": message, "logprobs": log_probs, "finish_reason": self.finish_reason}
        return self.head | {"object": "chat.completion", "choices": [choice], "usage": self.usage()}

    async def events(self) -> AsyncIterator[str]:
        """Yield the chat.completion.chunk objects as server-sent events.  After an error there is no [DONE]."""

        def event(**fields) -> str:
            return f"data: {json.dumps(self.head | {'object': 'chat.completion.chunk'} | fields)}\n\n"

        def chunk(delta: dict, log_probs: list[dict], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": {"content": log_probs} if log_probs else None}
            return event(choices=[choice | {"finish_reason": reason}])

        role = {"role": "assistant"}
        try:
            async for text, log_probs in self.pieces():
                if text or log_probs or role:
                    yield chunk(role | {"content": text}, log_probs)
                    role = {}
            yield chunk({}, [], self.finish_reason)
            if (self.request.stream_options or {}).get("include_usage"):
                yield event(choices=[], usage=self.usage())
            yield "data: [DONE]\n\n"
        except EngineError as error:
            yield f"data: {json.dumps(ApiError(500, 'internal_error', str(error)).body)}\n\n"


def create_app(engine: Engine, api_key: str) -> FastAPI:
    """Return the application.  Every route except /health requires `api_key`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    metrics, threads, limits = Metrics(engine), ThreadPoolExecutor(2), engine.limits

    def authorize(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), api_key.encode()):
            what = "Incorrect API key." if given else "No API key. Send it as: Authorization: Bearer KEY"
            raise ApiError(401, "invalid_api_key", what, WWW_Authenticate="Bearer")

    async def read(request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > limits.body_bytes:
                        what = f"The request is larger than {limits.body_bytes:,} bytes."
                        raise ApiError(413, "request_too_large", what, Connection="close")
        except TimeoutError as error:
            what = f"The request did not arrive within {limits.body_seconds:g} s."
            raise ApiError(408, "request_timeout", what, Connection="close") from error
        return bytes(body)

    def parse(body: bytes) -> ChatRequest:
        try:
            request = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            if first["type"] == "json_invalid":
                raise ApiError(400, "invalid_json", f"The body is not JSON in UTF-8. {first['msg']}.") from error
            param = ".".join(map(str, first["loc"])) or None
            raise ApiError(400, "invalid_value", f"{param or 'body'}: {first['msg']}.", param) from error
        if request.model != engine.model:
            what = f"There is no model {request.model!r:.100} here. The model is {engine.model!r}."
            raise ApiError(404, "model_not_found", what, "model")
        bounds = {"messages": len(request.messages), "max_tokens": request.max_tokens or 0}
        bounds["max_completion_tokens"] = request.max_completion_tokens or 0
        for name, value in bounds.items():
            if value > (most := limits.messages if name == "messages" else limits.new_tokens):
                raise ApiError(400, "invalid_value", f"{name}: {value:,}; this server takes at most {most:,}.", name)
        if name := next(filter(request.model_extra.get, UNSUPPORTED), None):
            raise ApiError(400, "unsupported_value", f"This server does not support {name}.", name)
        return request

    async def start(request: ChatRequest, generation: Generation) -> Answer:
        messages = [message.plain() for message in request.messages]
        thinking, begun = (request.chat_template_kwargs or {}).get("enable_thinking"), ""
        if request.continue_final_message:
            if messages[-1]["role"] != "assistant":
                what = "continue_final_message: the last message is not the assistant's."
                raise ApiError(400, "invalid_value", what, "continue_final_message")
            begun = messages.pop()["content"]

        def tokenize() -> tuple[list[int], list[int]]:
            return prompt_ids(engine.tok, messages, thinking=thinking), text_ids(engine.tok, begun)

        try:
            ids, kept = await asyncio.get_running_loop().run_in_executor(threads, tokenize)
            ids += kept
        except TutorialError as error:
            raise ApiError(400, "invalid_value", str(error), "messages") from error
        if (room := engine.context_length - len(ids)) < 1:
            what = f"This model's context has {engine.context_length:,} tokens; the messages have {len(ids):,}."
            raise ApiError(400, "context_length_exceeded", what, "messages")
        wanted = request.max_completion_tokens or request.max_tokens or limits.new_tokens
        answer = Answer(request, ids, kept, generation, metrics)
        engine.start(generation, ids, **request.options(min(wanted, room)))
        return answer

    async def in_slot(request: Request) -> AsyncIterator[Answer]:
        """Yield the answer.  FastAPI resumes here after the response, even if it failed or the client disconnected."""
        authorize(request)
        parsed, generation = parse(await read(request)), engine.admit()
        try:
            yield await start(parsed, generation)
        finally:
            generation.close()

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, answer: Answer = Depends(in_slot)):  # noqa: B008
        if answer.request.stream:
            return StreamingResponse(answer.events(), 200, {"Cache-Control": "no-cache"}, "text/event-stream")
        tasks = whole, gone = [asyncio.create_task(each) for each in (answer.whole(), request.receive())]
        try:  # after the body, the next message can only be a disconnect
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(whole.result()) if whole.done() else Response(status_code=499)
        finally:
            whole.cancel(), gone.cancel()

    @app.get("/v1/models")
    async def models(request: Request):
        authorize(request)
        model = {"id": engine.model, "object": "model", "created": 0, "owned_by": OWNER}
        return {"object": "list", "data": [model | {"max_model_len": engine.context_length}]}

    @app.get("/health")
    async def health():
        if engine.failure:
            raise EngineError(engine.failure)
        return {"status": "ok"}

    @app.get("/metrics")
    async def prometheus(request: Request):
        authorize(request)
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    async def respond(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, KINDS.get(error.status_code, "invalid_request"), f"{error.detail}.")
        elif isinstance(error, EngineError):
            status = 503 if engine.failure else 500
            error = ApiError(status, KINDS.get(status, "internal_error"), str(error))
        elif isinstance(error, EngineFull):
            what = f"{limits.requests} requests are in progress. Try again in {error} s."
            error = ApiError(429, "rate_limit_exceeded", what, Retry_After=str(error))
        elif isinstance(error, ClientDisconnect):
            error = ApiError(499, "client_disconnected", "The client closed the connection.")
        elif not isinstance(error, ApiError):
            error = ApiError(500, "internal_error", "Internal server error. See the server's log.")
        metrics.answers.labels(error.status).inc()
        return JSONResponse(error.body, error.status, error.headers)

    for kind in (ApiError, ClientDisconnect, EngineError, EngineFull, HTTPException, Exception):
        app.add_exception_handler(kind, respond)
    return app

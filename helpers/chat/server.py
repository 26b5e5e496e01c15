"""Client for servers with OpenAI's API: their models, and the events of an answer.

All that a server sends, error messages included, is untrusted data.

Sources: OpenAI's API reference (chat/completions), the HTML standard (server-sent events), and the responses of
OpenVINO Model Server, vLLM, Ollama and LM Studio where they differ.
"""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from helpers.errors import TutorialError, printable

SERVER_VARIABLE, KEY_VARIABLE = "TUTORIAL_SERVER", "TUTORIAL_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
CONNECT_SECONDS = 5.0
CAN_CONTINUE = ("vllm", "openvino-chat-tutorial")  # `owned_by` on servers that support continue_final_message
LONGEST_LINE = 2**20  # bytes
# The exceptions that data in an unexpected form raises.
MALFORMED = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
NO_API = "Is this the address of its API? It usually ends in /v1, and in /v3 for OpenVINO Model Server."


class Refusal(TutorialError):
    """The server refused a request; `status` is the HTTP status, `said` the server's explanation."""

    def __init__(self, message: str, hint: str, status: int, said: str) -> None:
        super().__init__(f"{message} ({status}): {said}", hint)
        self.status, self.said = status, said


class Server:
    """The server at `url`; without a path, /v1 is added.  `name` is its host and port.

    The key is stored only in a header of the client, which httpx masks wherever it shows headers.
    """

    def __init__(self, url: str, api_key: str = "", timeout: float = 120.0) -> None:
        key = api_key.strip()
        if not (key.isascii() and key.isprintable()):  # httpx would repeat it in its error
            raise TutorialError("The API key has characters that cannot be sent.", "Copy it again.")
        try:
            parts = urlsplit(url := url.strip().rstrip("/"))
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("it does not begin with http:// or https:// and a name")
            self.name = parts.netloc.rpartition("@")[2]
            self._continues = None
            self.client = httpx.Client(
                base_url=url if parts.path else f"{url}/v1",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_keepalive_connections=0),  # a connection for each answer: Stop closes it
                verify=parts.scheme == "https",  # otherwise httpx would load certificates for nothing
                trust_env=parts.hostname not in LOOPBACK,  # httpx would send even loopback requests to HTTP_PROXY
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:  # in the address, or in a proxy's address
            raise TutorialError(f"{url!r:.80} cannot be used: {error}.", "Try http://127.0.0.1:8000/v1") from error

    def models(self) -> dict[str, int]:
        """Return the server's models, each with its context length, or 0 if the server does not report it."""
        try:
            response = self.client.get("models", timeout=CONNECT_SECONDS)
            if response.status_code != 200:
                raise self.refusal(response)
            listed = response.json()["data"] or []  # Ollama without models sends null
            self._continues = any(each.get("owned_by") in CAN_CONTINUE for each in listed)
            return {clean(each["id"]): count(each.get("max_model_len")) for each in listed}
        except httpx.HTTPError as error:
            raise self.broken(error, "Try again.") from error
        except MALFORMED as error:
            raise TutorialError(f"{self.name} does not list its models: {self.safe(error)}") from error

    def can_continue(self) -> bool:
        """Return whether the server can continue an answer, according to its list of models."""
        if self._continues is None:
            with suppress(TutorialError):
                self.models()
        return bool(self._continues)

    def safe(self, said: object) -> str:
        """Return what the server or httpx has said as one line, without the key."""
        key = self.client.headers.get("Authorization", "").removeprefix("Bearer ")
        return " ".join(clean(str(said).replace(key, "…") if key else str(said)).split())[:300] or "no reason given"

    def refusal(self, response: httpx.Response, model: str = "", said: str = "") -> Refusal:
        """Return the error for a response; `said` is the text of an error in its first event, if there is one."""
        what, hint = "The server refuses the request", "Change the message or the settings."
        status = response.status_code
        if not said:
            said = response.reason_phrase  # used if the body is not JSON, such as an HTML page
            with suppress(*MALFORMED):
                said = error_text(json.loads(response.read())) or said
        if status in (401, 403):
            what, hint = "The server refuses the API key", f"Pass it as api_key, or set {KEY_VARIABLE}."
        elif status in (301, 302, 307, 308, 404, 405):
            what, hint = "There is no such API at this address", NO_API
            if status == 404 and model:
                with suppress(TutorialError):
                    names = ", ".join(self.models())
                    what, hint = f"The server has no model {model!r:.80}", f"Its models: {names:.300}."
        elif status in (429, 503):
            after = response.headers.get("Retry-After", "")
            when = f"in {after} s" if re.fullmatch("[0-9]{1,5}", after) else "in a while"
            what, hint = "The server is busy", f"Send the message again {when}."
        return Refusal(what, hint, status, self.safe(said))

    def broken(self, error: httpx.HTTPError, hint: str = "Try again. The text so far is kept.") -> TutorialError:
        """Return the error for a connection that fails."""
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            hint = "Check the address, and whether the server is running."
            return TutorialError(f"There is no server at {self.name}: {self.safe(error)}.", hint)
        if isinstance(error, httpx.TimeoutException):
            what = f"The server has sent nothing for {error.request.extensions['timeout']['read']:g} s."
        else:
            what = f"The connection to the server broke: {self.safe(error)}."
        return TutorialError(what, hint)


class Stream:
    """The events of one answer.  Iterating over it sends the request; a different thread may stop it.

    Raises Refusal before the first event, and TutorialError if the connection breaks or an event is not JSON.
    """

    def __init__(self, server: Server, body: dict) -> None:
        self.server, self.body, self.stopped, self._socket = server, body, False, None

    def stop(self) -> None:
        """Close the connection at once, which ends the events."""
        self.stopped = True
        if self._socket:
            with suppress(OSError):  # closed meanwhile
                self._socket.shutdown(socket.SHUT_RDWR)  # which also wakes the thread that waits for data

    def _note_socket(self, name: str, info: dict) -> None:
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.stopped:
                self.stop()

    def __iter__(self) -> Iterator[dict]:
        server, options, begun = self.server, {"extensions": {"trace": self._note_socket}}, False
        try:
            with server.client.stream("POST", "chat/completions", json=self.body, **options) as response:
                if response.status_code != 200:
                    raise server.refusal(response, self.body["model"])
                for event in read_events(response):
                    if (said := error_text(event)) and not begun:  # LM Studio refuses requests this way
                        raise server.refusal(response, self.body["model"], said)
                    if said:
                        raise TutorialError(f"The server ended the answer: {server.safe(said)}", "Regenerate it.")
                    begun = True
                    yield event
        except httpx.HTTPError as error:
            if not self.stopped:
                raise server.broken(error) from error
        except UnicodeEncodeError as error:
            raise TutorialError("A message has characters that cannot be sent.", "Write it again.") from error


def read_events(response: httpx.Response) -> Iterator[dict]:
    """Yield the JSON objects that a response streams, up to [DONE]; a response that is not streamed is one object.

    Comments such as ": keepalive" and event names are skipped.  Raises TutorialError if the data is not a JSON object.
    """
    streamed = "json" not in response.headers.get("Content-Type", "")
    for line in _lines(response) if streamed else [response.read()]:
        # OpenVINO Model Server reports an error in the middle of a stream as bare JSON.
        data = line.removeprefix(b"data:").strip()
        if data == line and not data.startswith(b"{"):
            continue
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except MALFORMED:
            event = None
        if not isinstance(event, dict):
            raise TutorialError("The server sent an event that is not a JSON object.", NO_API)
        yield event


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Yield the lines of a response.  httpx's iter_lines would also split at a U+2028 inside a text."""
    rest = b""
    for data in response.iter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.strip() for line in lines)
        if len(rest) > LONGEST_LINE:
            raise TutorialError("The server sent a line of more than 1 MiB.", NO_API)
    with suppress(*MALFORMED):  # else the connection was cut in the middle of a line
        json.loads(rest.removeprefix(b"data:"))
        yield rest.strip()


def error_text(event: object) -> str:
    """Return the text of an error, in any of its known forms; "" if the event is not an error."""
    if not isinstance(event, dict):
        return ""
    error = event.get("error") or event.get("detail") or (event if event.get("object") == "error" else "")
    if isinstance(error, dict):
        return " ".join(str(error[key]) for key in ("message", "code") if error.get(key)) or "no reason given"
    return str(error)


def clean(text: str) -> str:
    """Return `text` without control characters; lone surrogates, which cannot be saved, are replaced."""
    return printable(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def count(value: object) -> int:
    """Return `value` if it is a count, else 0."""
    return value if type(value) is int and 0 <= value < 2**31 else 0

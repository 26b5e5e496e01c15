"""A small hub on loopback that serves a folder as microsoft/Phi-3-mini-4k-instruct.  Point HF_ENDPOINT at it.

    python tests/hub.py FOLDER --port 8000

It speaks as much of the hub's protocol as huggingface_hub, transformers and optimum-cli use to download a model, and it
can misbehave: see the attributes of Hub.
"""

import argparse
import gzip
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.catalog import MODELS
from helpers.checkpoint.random_weights import PHI3_MINI_SHAPE, write_random_phi3

PHI3 = MODELS["phi3-instruct"]
# Widths that 128 divides, so that the PhiCookBook sample's export command works on it.
TINY_SHAPE = PHI3_MINI_SHAPE | {"hidden_size": 256, "intermediate_size": 512}
TINY_SHAPE |= dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 4)
LFS = (".safetensors", ".model")  # large files, known by their sha256; git's own hash for the others


def tiny_phi3(tests: Path) -> Path:
    """What the hub serves: a tiny Phi-3 and, as the real repository has it, code.  Made once per run of the tests."""
    folder = tests / "phi3-repository"
    if not folder.exists():
        folder.mkdir()
        write_random_phi3(folder, TINY_SHAPE, seed=1, report=lambda _: None)
        (folder / "modeling_phi3.py").write_text("raise SystemExit('nobody asked for code')", encoding="utf-8")
    return folder


def tiny_qwen3(tests: Path) -> Path:
    """A tiny Qwen3 with random weights, and a chat template that can think.  Made once per run of the tests."""
    folder = tests / "qwen3-repository"
    if not folder.exists():
        import torch
        from templates import tokenizer
        from transformers import AutoModelForCausalLM, Qwen3Config

        torch.manual_seed(0)
        shape = {
            "vocab_size": 600,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "head_dim": 32,
        }
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
        tok = tokenizer("qwen3")
        config = Qwen3Config(**shape, random_weights=True, eos_token_id=tok.eos_token_id, bos_token_id=None)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        tok.save_pretrained(folder)
    return folder


class Hub:
    """`with Hub(folder) as hub:` serves `folder` at hub.url, counts what it is asked for, and fails when told to."""

    def __init__(self, folder: Path, port: int = 0):
        self.folder, self.commit, self.origin = Path(folder), PHI3.revision, PHI3.origin
        self.status: dict[str, int] = {}  # part of a URL's path -> HTTP status to answer with
        self.trim: dict[str, int] = {}  # file -> its connection drops at this byte, and then it answers 503
        self.spoiled: set[str] = set()  # files whose content is wrong, at the right length
        self.silent = False  # take the request and never answer
        self.bomb = False  # to whoever does not want gzip, send the whole file as that all the same
        self.answers = self.commit  # the commit that it says its answers are of
        self.tags: object = ["text-generation", "license:mit"]
        self.endless: set[str] = set()  # files, or "listing", after whose end it sends on and on
        self.trickles: set[str] = set()  # the same, of which it sends a byte at a time
        self.compresses = False  # to whoever takes gzip, send that, and then always the whole file, as the real one may
        self.asked: Counter[str] = Counter()  # "GET name", "HEAD name", "GET /api/…" -> times
        self.sent: Counter[str] = Counter()  # file -> bytes of it that left
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir() if file.is_file())

    def entry(self, name: str, path_key: str) -> dict:
        """What the hub's API says of one file."""
        file = self.folder / name
        entry = {path_key: name, "size": file.stat().st_size, "blobId": _hash(file, "git"), "type": "file"}
        entry["oid"] = entry["blobId"]
        if name.endswith(LFS):
            sha256 = _hash(file, "sha256")  # the tree calls it oid
            entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": entry["size"], "pointerSize": 130}
        return entry


@cache
def _hash(file: Path, kind: str) -> str:
    data = file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data)
    return (hashlib.sha256(data) if kind == "sha256" else git).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.+)?)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        hub.asked[f"{self.command} {resolve[3] if resolve else path}"] += 1
        if hub.silent:
            threading.Event().wait(20)
            self.close_connection = True
            return
        repo, revision = (resolve or api or ["", "", ""])[1], resolve[2] if resolve else (api and api[3] or "main")
        if status := next((code for words, code in hub.status.items() if words in path), 0):
            # 200 stands for a log-in page in the way.  RateLimit: the client waits t + 1 seconds before it asks again.
            self.reply(status, {}, {"RateLimit": '"api";r=0;t=0'} if status == 429 else {})
        elif repo != self.hub.origin:  # the hub does not tell strangers what is private
            self.reply(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (hub.commit, "main"):
            self.reply(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        elif resolve:
            self.send_file(resolve[3])
        elif api[4]:  # a folder; the tokenizer's loader looks for one with more chat templates
            self.reply(404, {}, {"X-Error-Code": "EntryNotFound"})
        elif api[2] == "tree":
            self.reply(200, [hub.entry(name, "path") for name in hub.files()])
        elif "blobs" in parse_qs(url.query):
            self.reply_info([hub.entry(name, "rfilename") for name in hub.files()])
        else:
            self.reply_info([{"rfilename": name} for name in hub.files()])

    do_HEAD = do_GET

    def reply_info(self, siblings: list[dict]) -> None:
        self.reply(200, {"id": self.hub.origin, "sha": self.hub.answers, "tags": self.hub.tags, "siblings": siblings})

    def reply(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        self.start(status, headers | ({"Content-Length": str(2**40)} if "listing" in self.hub.endless else {}), data)
        if self.command == "GET":
            self.send_body("listing", data)

    def start(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, name: str, data: bytes) -> None:
        self.close_connection |= name in self.hub.endless | self.hub.trickles
        with suppress(ConnectionError):
            for n in range(len(data) if name in self.hub.trickles else 0):
                self.wfile.write(data[n : n + 1])
                time.sleep(0.01)
            self.wfile.write(b"" if name in self.hub.trickles else data)
            self.hub.sent[name] += len(data)
            while name in self.hub.endless:
                self.wfile.write(b" " * 2**20)
                self.hub.sent[name] += 2**20

    def send_file(self, name: str) -> None:
        hub = self.hub
        if name not in hub.files():
            return self.reply(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
        data = (hub.folder / name).read_bytes()
        if name in hub.spoiled:
            data = data[:-2] + bytes(255 - byte for byte in data[-2:])
        etag = f'"{_hash(hub.folder / name, "sha256" if name.endswith(LFS) else "git")}"'
        headers = {"ETag": etag, "X-Repo-Commit": hub.answers, "Accept-Ranges": "bytes"}
        if name.endswith(LFS):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        start = int((re.match(r"bytes=(\d+)-$", self.headers.get("Range", "")) or [0, 0])[1])
        headers |= {"Content-Length": str(2**40)} if name in hub.endless else {}
        if hub.bomb or hub.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
            data, start = gzip.compress(data), 0
            headers["Content-Encoding"] = "gzip"
        if start >= len(data) > 0:
            return self.reply(416, {})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.start(206 if start else 200, headers, data[start:])
        if self.command == "GET":
            piece = data[start : hub.trim.get(name, len(data))]
            self.send_body(name, piece)
            if name in hub.trim:
                hub.status[name] = 503
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--port", type=int, default=0)
    arguments = options.parse_args()
    with suppress(KeyboardInterrupt), Hub(arguments.folder, arguments.port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        threading.Event().wait()

"""A package index on loopback for a real `pip download`; it can serve something else, break off, or make pip wait."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Index:
    """Serves `files`, {file name: bytes}, under `url`/<project>/; `asked` has the path of each request so far."""

    def __init__(self, *wheels: Path):
        self.files = {wheel.name: wheel.read_bytes() for wheel in wheels}
        self.trim = 1.0  # how much of a file is sent before the connection breaks
        self.go = threading.Event()  # cleared: half of a file is sent, and the rest when it is set
        self.go.set()
        self.asked: list[str] = []
        self.halfway = threading.Event()

    def __enter__(self) -> Index:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.go.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        name = request.path.strip("/").rpartition("/")[2]
        project = name.replace("-", "_")
        links = [f'<a href="/files/{file}">{file}</a>' for file in self.files if file.startswith(f"{project}-")]
        if name not in self.files and not links:
            return request.send_error(404)
        body = self.files.get(name) or "".join(links).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/octet-stream" if name in self.files else "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if name in self.files:
            body = body[: round(len(body) * self.trim)]
            request.wfile.write(body[: len(body) // 2])
            self.halfway.set()
            self.go.wait(60)
            body = body[len(body) // 2 :]
        try:
            request.wfile.write(body)
        except ConnectionError:  # the one who asked has been killed
            request.close_connection = True

    def downloads(self) -> int:
        return sum(path.startswith("/files/") for path in self.asked)


def make_wheel(folder: Path, name: str, version: str, content: dict[str, bytes]) -> Path:
    """A wheel of data files only, the smallest that pip accepts."""
    import zipfile

    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    content = content | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return wheel

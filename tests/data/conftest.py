"""A web server on this machine, which can break off and refuse as real ones do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Web(ThreadingHTTPServer):
    """Serves `content` at every address, and remembers which ranges were asked for.

    With `cut` the connection ends, or is `silent`, after so many bytes; `ranges` is whether it can begin in the middle.
    """

    content = b""
    cut: int | None = None
    silent = False
    ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        """The address of a file on this server."""
        return f"http://127.0.0.1:{self.server_port}/images.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        web, wanted = self.server, self.headers["Range"]
        web.asked.append(wanted)
        if web.status != 200:
            self.send_error(web.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and web.ranges else 0
        if start and start >= len(web.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(web.content) - start))
        self.end_headers()
        self.wfile.write(web.content[start : web.cut])
        if web.silent:
            self.connection.recv(1)  # until the other side gives up

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[Web]:
    """Return a server that runs in a thread of its own."""
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()

"""A server on this machine that gives one content, breaks off, falls silent or refuses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Serves `content` at every address, and remembers which ranges were asked for.

    With `cut` the connection ends, or is `silent`, after so many bytes; `ranges` is whether it can begin in the middle.
    """

    cut: int | None = None
    silent = False
    ranges = True
    status = 200

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/images.tar.gz"


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


@contextmanager
def serving(content: bytes) -> Iterator[Web]:
    """Run a server in a thread of its own."""
    with Web(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()

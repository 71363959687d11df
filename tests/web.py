"""A web server in a thread, by default for this machine alone, that misbehaves as told.

It breaks off, forgets ranges, refuses, spoils what it sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BLOCK = 1 << 16


@dataclass(slots=True, kw_only=True)
class Web:
    """What is served, how, and what was asked for. `files` maps URL paths to contents (bytes, or a file)."""

    port: int = 0
    files: dict[str, bytes | Path] = field(default_factory=dict)
    ranges: bool = True  # honour Range
    shift: int = 0  # bytes by which an answer begins beside the range asked for
    tagged: bool = True  # send ETag
    break_after: list[int] = field(default_factory=list)  # body bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # answered by the next requests instead of the file
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    root: Path | None = None  # a directory that is served too
    redirects: dict[str, str] = field(default_factory=dict)  # path to where it lies now
    spoil: dict[str, int] = field(default_factory=dict)  # path to how many more times its answers get a wrong byte
    sent: int = 0  # bytes of bodies so far

    def url(self, path: str, *, login: str = "") -> str:
        return f"http://{login + '@' if login else ''}127.0.0.1:{self.port}{path}"

    def content(self, path: str) -> bytes | None:
        held = self.files.get(path)
        if held is None and self.root is not None and (self.root / path.lstrip("/")).is_file():
            held = self.root / path.lstrip("/")
        return held.read_bytes() if isinstance(held, Path) else held

    def asked(self, header: str) -> list[str]:
        """Return a header of every request so far, "" where it was not sent."""
        return [headers.get(header, "") for _, headers in self.requests]


class QuietHandler(BaseHTTPRequestHandler):
    """A handler of requests that prints none of them."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def listening(
    handler: type[BaseHTTPRequestHandler],
    address: str = "127.0.0.1",
    *,
    port: int = 0,
    network: contextlib.AbstractContextManager[None] | None = None,
) -> Iterator[int]:
    """Answer requests in a thread for the time of the block, with a socket in the network that `network` enters.

    Gives the port, a free one by default.
    """
    with network or contextlib.nullcontext():  # a thread that is in another process namespace can start no thread
        server = ThreadingHTTPServer((address, port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def serve(
    address: str = "127.0.0.1", *, port: int = 0, network: contextlib.AbstractContextManager[None] | None = None
) -> Iterator[Web]:
    """Run a server for the time of the block, with a socket in the network that `network` enters."""
    web = Web()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(web, self)

    with listening(Handler, address, port=port, network=network) as web.port:
        yield web


def _answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
    web.requests.append((handler.path, dict(handler.headers.items())))
    path = handler.path.partition("?")[0]
    if path in web.redirects:
        handler.send_response(302)
        handler.send_header("Location", web.redirects[path])
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content = web.content(path)
    status = web.statuses.pop(0) if web.statuses else 404 if content is None else 200
    if status != 200 or content is None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    begin, end = _span(web, handler, tag, len(content))
    if begin > len(content) or (begin and begin == len(content)):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    partial = begin > 0 or end < len(content)
    handler.send_response(206 if partial else 200)
    if partial:
        handler.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
    if web.tagged:
        handler.send_header("ETag", tag)
    handler.send_header("Content-Length", str(end - begin))
    handler.end_headers()
    body = content[begin:end]
    if web.spoil.get(path):
        web.spoil[path] -= 1
        body = bytes([body[0] ^ 1]) + body[1:]
    if web.break_after:
        body = body[: web.break_after.pop(0)]
        handler.close_connection = True
    with contextlib.suppress(ConnectionError):  # the client was killed
        for place in range(0, len(body), _BLOCK):
            handler.wfile.write(body[place : place + _BLOCK])
            web.sent += len(body[place : place + _BLOCK])


def _span(web: Web, handler: BaseHTTPRequestHandler, tag: str, size: int) -> tuple[int, int]:
    """Return the first byte of the answer, and the one after its last."""
    asked = handler.headers.get("Range", "")
    condition = handler.headers.get("If-Range", "")
    if not web.ranges or not asked or (condition and condition != tag):
        return 0, size
    begin, _, end = asked.removeprefix("bytes=").partition("-")
    return int(begin) + web.shift, min(int(end) + 1, size) if end else size

"""A web server that answers with whatever bytes it is told to: what no library would send."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Answer = Callable[[socket.socket, str, str], None]  # connection, path, the Range header or ""


@dataclass(slots=True, kw_only=True)
class Hostile:
    """`answers` by path; "" for all others. `requests` counts those by path."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sent: int = 0

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def raw(*parts: bytes, pause: float = 0.0, again: bool = False) -> Answer:
    """Send these bytes, with a pause after each part; `again` without end."""

    def answer(connection: socket.socket, _path: str, _range: str) -> None:
        sent = iter(parts)
        last = b""
        while (part := next(sent, last if again else None)) is not None:
            connection.sendall(part)
            last = part
            time.sleep(pause)

    return answer


def ok(body: bytes, **headers: str) -> Answer:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)


def moved(location: bytes) -> Answer:
    return raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")


@contextlib.contextmanager
def serve_hostile() -> Iterator[Hostile]:
    """Serve for the time of the block; every answer ends its connection."""
    web = Hostile()
    with socket.create_server(("127.0.0.1", 0)) as server:
        web.port = server.getsockname()[1]
        stopped = threading.Event()
        threads: list[threading.Thread] = []

        def serve() -> None:
            while not stopped.is_set():
                connection, _ = server.accept()
                thread = threading.Thread(target=_answer, args=(web, connection, stopped), daemon=True)
                thread.start()
                threads.append(thread)

        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        try:
            yield web
        finally:
            stopped.set()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", web.port), timeout=5):
                accepting.join(5)


def _answer(web: Hostile, connection: socket.socket, stopped: threading.Event) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(20)
        asked = b""
        while b"\r\n\r\n" not in asked and not stopped.is_set():
            part = connection.recv(65536)
            if not part:
                return
            asked += part
        if stopped.is_set():
            return
        head = asked.decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        web.requests.append(path)
        ranges = [line.partition(": ")[2] for line in head if line.lower().startswith("range:")]
        answer = web.answers.get(path) or web.answers.get("")
        if answer is not None:
            answer(connection, path, ranges[0] if ranges else "")

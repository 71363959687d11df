"""Targets that talk: a server that answers nonsense, and a client that asks it. All of it on loopback."""

from __future__ import annotations

import contextlib
import functools
import importlib
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from builder.fleet.reports import Database, Tokens
from builder.fleet.server import FleetServer
from builder.host.fetch import Patience, fetch
from tests.fetcher import PROGRAM

_SECONDS = 2.0
_HASTE = Patience(connect=1, read=1, attempts=1, most=2, pause=0)
TOKEN = "5a" * 32


class _Answering:
    """A server that reads a request and sends what it was given, whatever that is."""

    def __init__(self) -> None:
        self.answer = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_SECONDS)
                asked = b""
                while b"\r\n\r\n" not in asked and (piece := connection.recv(4096)):
                    asked += piece
                connection.sendall(self.answer)


@functools.cache
def _answering() -> _Answering:
    return _Answering()


def fetched(data: bytes, scratch: Path) -> None:
    """Let `fetch` take an answer."""
    server = _answering()
    server.answer = data
    fetch(f"http://127.0.0.1:{server.port}/file", sha256=None, into=scratch / "file", patience=_HASTE)


@contextlib.contextmanager
def _importable(directory: Path) -> Iterator[None]:
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))


@functools.cache
def fetcher(module: str) -> ModuleType:
    """Return a module of the program that fetches models on nodes."""
    with _importable(PROGRAM):
        return importlib.import_module(module)


def manifest_on_a_node(data: bytes, _: Path) -> None:
    """Let a node read a manifest."""
    with contextlib.suppress(fetcher("failures").FailedError):
        fetcher("manifest").parse(data, "m", "v1")


def store_on_a_node(data: bytes, _: Path) -> None:
    """Let a node take a store's answer."""
    server = _answering()
    server.answer = data
    store = fetcher("store").Store(f"http://127.0.0.1:{server.port}/", pause=0.0)
    with contextlib.suppress(fetcher("failures").FailedError), contextlib.closing(store):
        store.small("manifest.json", 1 << 16)


def _connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)


class _Watched(FleetServer):
    """A fleet manager that keeps what ended a request."""

    failed: BaseException | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Keep what is not the client's own doing."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.failed = error


@functools.cache
def _manager() -> _Watched:
    home = Path(tempfile.mkdtemp(prefix="manager-"))
    (home / "state/yellow3").mkdir(parents=True)
    (home / "state/yellow3/fleet-token").write_text(f"{TOKEN}\n")
    database = Database(home / "fleet.sqlite")
    database.create()
    server = _Watched(("127.0.0.1", 0), database, Tokens(home / "state"))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def asked_of_the_manager(data: bytes, _: Path) -> None:
    """Send a request to the fleet manager; it must answer or hang up, and be there for the next one."""
    server = _manager()
    server.failed = None
    with contextlib.suppress(OSError), _connection(server.server_port) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    if server.failed is not None:
        raise server.failed

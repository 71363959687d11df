"""Commands to a lab that runs in the background: report, switch nodes on. A socket in its directory, for root alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from builder.errors import HostError, PibuildError

_LONGEST = 1 << 16  # bytes of a request or an answer
_PATIENCE = 10.0  # seconds for a request to be written
_LOOKING = 90.0  # seconds for an answer about servers, each of which may answer nothing
_DONE = b"done"
_LOOK = {"look": True}


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Give a name of the socket that is short enough for one (unix(7): 108 bytes), however deep the directory lies."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield f"/proc/self/fd/{descriptor}/control"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """Give the socket that requests come to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, _address(directory) as address:
        before = os.umask(0o177)
        try:
            server.bind(address)
        finally:
            os.umask(before)
        server.listen()
        yield server


def serve(
    server: socket.socket, switch_on: Callable[[Sequence[str]], None], look: Callable[[], Sequence[Sequence[object]]]
) -> None:
    """Take one request and answer it: done, what was found, or what failed."""
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):  # who asked has gone away
        connection.settimeout(_PATIENCE)
        with connection.makefile("rb") as file:
            asked = file.read(_LONGEST)
        try:
            request = json.loads(asked)
            found = json.dumps(look()).encode() if request == _LOOK else b""
            if not found:
                switch_on([str(name) for name in request["boot"]])
        except PibuildError as error:
            connection.sendall(str(error).encode())
        except (ValueError, KeyError, TypeError) as error:
            connection.sendall(f"not a request: {error}".encode())
        else:
            connection.sendall(found or _DONE)


def ask(directory: Path, names: Sequence[str]) -> None:
    """Let the lab of a directory switch nodes on. Raises HostError with what it says when it does not."""
    said = _said(directory, {"boot": list(names)})
    if said != _DONE:
        raise HostError(said.decode(errors="replace") or "the lab ended", hint="sudo pibuild lab status")


def look(directory: Path) -> list[list[str]]:
    """Return what the lab of a directory finds of its servers: name, result, what was seen. Raises HostError."""
    said = _said(directory, _LOOK, patience=_LOOKING)
    try:
        return [[str(name), str(result), str(seen)] for name, result, seen in json.loads(said)]
    except (ValueError, TypeError) as error:
        raise HostError(said.decode(errors="replace") or "the lab ended") from error


def _said(directory: Path, request: object, *, patience: float | None = None) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _address(directory) as address:
            connection.settimeout(patience)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                return file.read(_LONGEST)
    except OSError as error:
        raise HostError(f"the lab does not answer: {error}", hint="sudo pibuild lab status") from error

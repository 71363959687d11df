"""An NFS client that mounts a directory as a node's kernel mounts its root: MOUNT, then LOOKUP (RFC 1813)."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MOUNT, _NFS, _VERSION = 100005, 100003, 3
_MNT, _LOOKUP = 1, 3  # procedures
_NFS_PORT, _MOUNT_PORT = 2049, 20048  # where both of our NFS servers listen
_LAST = 0x80000000  # of a record's fragments; RFC 5531, 11
_LARGEST = 1 << 16  # bytes of an answer
_PRIVILEGED = range(600, 1024)  # exports are for such ports alone (`secure`)
_WHY = {1: "not permitted", 2: "no such directory", 13: "not exported to this machine", 20: "no directory", 70: "stale"}


class LookupRefusedError(Exception):
    """The server refuses, or does not answer; `status` is its own number, None when there is none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class NfsServer:
    """An NFS server with two open connections. Needs root: they come from privileged ports."""

    mount: socket.socket
    nfs: socket.socket

    def look_up(self, export: str, names: Sequence[str]) -> None:
        """Mount an export and walk down from it. Raises LookupRefusedError."""
        handle = self._handle(self.mount, _MOUNT, _MNT, _opaque(export.encode()), export)
        for name in names:
            handle = self._handle(
                self.nfs, _NFS, _LOOKUP, _opaque(handle) + _opaque(name.encode()), f"{export}: {name}"
            )

    def _handle(self, connection: socket.socket, program: int, procedure: int, body: bytes, what: str) -> bytes:
        """Return the file handle that a call answers with."""
        try:
            answer = _call(connection, program, procedure, body)
            (status,) = struct.unpack_from("!I", answer)
            if status != 0:
                raise LookupRefusedError(f"{what}: {_WHY.get(status, f'error {status}')}", status)
            return _read_opaque(answer, 4)
        except (OSError, struct.error) as error:
            raise LookupRefusedError(f"{what}: {getattr(error, 'strerror', None) or error or 'no answer'}") from error


@contextlib.contextmanager
def connected(host: str, *, timeout: float) -> Iterator[NfsServer]:
    """Connect to a server's mountd and nfsd. Raises LookupRefusedError."""
    with contextlib.ExitStack() as stack:
        mount, nfs = (stack.enter_context(_connect(host, port, timeout)) for port in (_MOUNT_PORT, _NFS_PORT))
        yield NfsServer(mount=mount, nfs=nfs)


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    first = secrets.randbelow(len(_PRIVILEGED))
    for number in range(len(_PRIVILEGED)):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.bind(("", _PRIVILEGED[(first + number) % len(_PRIVILEGED)]))
        except OSError:
            connection.close()  # taken; the next one
            continue
        try:
            connection.connect((host, port))
        except OSError as error:
            connection.close()
            raise LookupRefusedError(f"port {port}: {error.strerror or error}") from error
        return connection
    raise LookupRefusedError("no privileged port is free")


def _opaque(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data + bytes(-len(data) % 4)


def _read_opaque(data: bytes, at: int) -> bytes:
    (length,) = struct.unpack_from("!I", data, at)
    (found,) = struct.unpack_from(f"!{min(length, _LARGEST)}s", data, at + 4)
    return bytes(found)


def _call(connection: socket.socket, program: int, procedure: int, body: bytes) -> bytes:
    """Return what a procedure answers (RFC 5531, 9). Raises OSError, struct.error."""
    number = secrets.randbits(32)
    root = struct.pack("!I", 0) + _opaque(b"pibuild") + struct.pack("!3I", 0, 0, 0)  # AUTH_SYS: uid, gid, no more
    call = struct.pack("!6I", number, 0, 2, program, _VERSION, procedure)
    call += struct.pack("!I", 1) + _opaque(root) + struct.pack("!2I", 0, 0) + body
    connection.sendall(struct.pack("!I", _LAST | len(call)) + call)
    answer = b""
    while True:
        (mark,) = struct.unpack("!I", _receive(connection, 4))
        length = mark & ~_LAST
        if length + len(answer) > _LARGEST:
            raise OSError(0, "an answer larger than any")
        answer += _receive(connection, length)
        if mark & _LAST:
            break
    own, kind, accepted, _, verifier = struct.unpack_from("!5I", answer)
    after = 20 + min(verifier, _LARGEST) + -verifier % 4
    (result,) = struct.unpack_from("!I", answer, after)
    if (own, kind, accepted, result) != (number, 1, 0, 0):
        raise OSError(0, "it refuses the call")
    return answer[after + 4 :]


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise OSError(0, "it closes the connection")
        data += more
    return data

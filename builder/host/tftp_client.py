"""A small TFTP client that sends the requests of a Raspberry Pi's bootloader.

RFC 1350 with option negotiation (2347), blksize (2348) and tsize (2349); reading only, mode octet. Boards were
recorded to send `tsize 0`, `blksize 1024` or 1468, and to open a file, abort it with ERROR 0 and open it again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder.errors import PibuildError

BLOCK_SIZE = 1468  # bytes; TFTP_MAX_BLOCKSIZE of bootloaders since 2022-10-03, 1024 before
NOT_FOUND = 1  # RFC 1350, error codes
_RRQ, _DATA, _ACK, _ERROR, _OACK = 1, 3, 4, 5, 6
_SMALLEST_BLOCK = 8  # RFC 2348
_DEFAULT_BLOCK = 512  # of a server that takes no options
_RETRIES = 3
_LARGEST = 65535
_DIGITS = 10  # of an option's number
_MOST_BYTES = 256 << 20  # of one file; what a server sends beyond is no boot file
_MOST_SECONDS = 300.0  # of one transfer, however slowly it comes


class TftpError(PibuildError):
    """The server refused, or did not answer. `code` is the server's (RFC 1350), None for silence or nonsense."""

    exit_code = 6

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A TFTP server; `timeout` in seconds for one packet."""

    host: str
    port: int = 69
    timeout: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A file that was sent.

    `size` in bytes is what the server promised (tsize), None where it did not; `data` is empty after an abort.
    """

    size: int | None
    block_size: int
    data: bytes


def get(server: Server, name: str, *, block_size: int = BLOCK_SIZE, abort: bool = False) -> Got:
    """Ask for a file; with `abort` stop after the first answer, as the firmware does to learn a size.

    The block counter rolls over to 0. Raises TftpError.
    """
    request = struct.pack("!H", _RRQ) + b"".join(
        word.encode() + b"\0" for word in (name, "octet", "tsize", "0", "blksize", str(block_size))
    )
    with _exchange(server) as talk:
        opcode, body = talk.ask(request)
        options = _options(body) if opcode == _OACK else {}
        agreed = options.get("blksize", _DEFAULT_BLOCK)
        if not _SMALLEST_BLOCK <= agreed <= max(block_size, _DEFAULT_BLOCK):
            raise TftpError(f"{name}: the server wants blocks of {agreed} bytes, asked for were {block_size}")
        size = options.get("tsize")
        if abort:
            talk.send(struct.pack("!HH", _ERROR, 0) + b"Early terminate\0")
            return Got(size=size, block_size=agreed, data=b"")
        if opcode == _OACK:
            opcode, body = talk.ask(struct.pack("!HH", _ACK, 0), block=1)
        data = talk.blocks(opcode, body, agreed)
    if size is not None and size != len(data):
        raise TftpError(f"{name}: {len(data)} bytes came, the server promised {size}")
    return Got(size=size if size is not None else len(data), block_size=agreed, data=data)


@dataclass(slots=True, kw_only=True)
class _Talk:
    """One transfer: the server answers from a port of its own, which the client keeps to (RFC 1350, 4)."""

    socket: socket.socket
    peer: tuple[str, int]
    fixed: bool = False
    ends: float = field(default_factory=lambda: time.monotonic() + _MOST_SECONDS)

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, self.peer)

    def ask(self, packet: bytes, *, block: int | None = None) -> tuple[int, bytes]:
        """Send a packet until an answer comes. With `block` only that DATA block (or an error) counts as one."""
        for _ in range(_RETRIES):
            self.send(packet)
            with contextlib.suppress(TimeoutError):
                while True:
                    opcode, body = self.receive()
                    late = opcode == _DATA and block is not None and int.from_bytes(body[:2]) != block
                    if not late and not (opcode == _OACK and block is not None):
                        return opcode, body
        raise TftpError(
            f"no answer from {self.peer[0]} port {self.peer[1]} (is the TFTP server running, the firewall open?)"
        )

    def receive(self) -> tuple[int, bytes]:
        while True:
            if time.monotonic() > self.ends:
                raise TftpError(f"{self.peer[0]} port {self.peer[1]}: not done after {_MOST_SECONDS:.0f} s")
            packet, sender = self.socket.recvfrom(_LARGEST)
            if sender[0] != self.peer[0] or (self.fixed and sender[1] != self.peer[1]):
                continue
            self.peer, self.fixed = (sender[0], sender[1]), True
            opcode = int.from_bytes(packet[:2])
            if opcode == _ERROR:
                text = packet[4:].split(b"\0")[0].decode(errors="replace")
                raise TftpError(text or "the server refused", code=int.from_bytes(packet[2:4]))
            if opcode not in {_DATA, _OACK}:
                raise TftpError(f"the server sent a packet of an unexpected kind ({opcode})")
            return opcode, packet[2:]

    def blocks(self, opcode: int, body: bytes, block_size: int) -> bytes:
        """Take block after block, beginning with the answer already here, until a short one."""
        parts: list[bytes] = []
        expected = 1
        while True:
            if opcode != _DATA or int.from_bytes(body[:2]) != expected % (_LARGEST + 1):
                raise TftpError("the server sent blocks out of order")
            parts.append(body[2:])
            if expected * block_size > _MOST_BYTES:
                raise TftpError(f"the server sends more than {_MOST_BYTES >> 20} MiB")
            acknowledge = struct.pack("!HH", _ACK, expected % (_LARGEST + 1))
            if len(body) - 2 < block_size:
                self.send(acknowledge)
                return b"".join(parts)
            expected += 1
            opcode, body = self.ask(acknowledge, block=expected % (_LARGEST + 1))


@contextlib.contextmanager
def _exchange(server: Server) -> Iterator[_Talk]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
    except socket.gaierror as error:
        raise TftpError(f"{server.host}: {error.strerror}") from error
    except UnicodeError as error:
        raise TftpError(f"{server.host}: no name of a host") from error
    with socket.socket(family, kind, protocol) as talking:
        talking.settimeout(server.timeout)
        try:
            yield _Talk(socket=talking, peer=(str(address[0]), int(address[1])))
        except OSError as error:
            raise TftpError(f"{server.host} port {server.port}: {error}") from error


def _options(body: bytes) -> dict[str, int]:
    words = body.rstrip(b"\0").split(b"\0")
    pairs = zip(words[::2], words[1::2], strict=False)
    return {
        name.decode(errors="replace").lower(): int(value)
        for name, value in pairs
        if value.isdigit() and len(value) <= _DIGITS
    }

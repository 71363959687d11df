"""The TFTP client against a server of the test's own, which can lose packets, know no options, and refuse."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.firmware.boot_files import DirectoryTree, ServerTree
from builder.firmware.simulate import Eeprom, simulate
from builder.host import tftp_client as tftp

LOCAL = "127.0.0.1"
FILES = {"a": b"x" * 3000, "empty": b"", "exact": b"y" * 2936, "S//b": b"doubled"}


@dataclass
class Fake:
    """A TFTP server on one thread: one request at a time, each answered from a port of its own."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    options: bool = True
    offer: bytes = b""  # options in the place of those that are right
    promise: int = 0  # bytes by which tsize is wrong
    lose: set[int] = field(default_factory=set)  # blocks whose first sending is lost
    twice: bool = False  # every block is sent twice
    refuse: tuple[int, str] | None = None
    silent: bool = False
    asked: list[bytes] = field(default_factory=list)
    ended: list[bytes] = field(default_factory=list)

    def serve(self, listening: socket.socket, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                request, client = listening.recvfrom(65535)
            except TimeoutError:
                continue
            self.asked.append(request)
            if not self.silent:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                    own.bind((LOCAL, 0))
                    own.settimeout(0.1)
                    self.answer(own, client, request)

    def answer(self, own: socket.socket, client: tuple[str, int], request: bytes) -> None:
        name, _, *words = request[2:].rstrip(b"\0").split(b"\0")
        if self.refuse or name.decode() not in self.files:
            code, text = self.refuse or (1, "File not found")
            own.sendto(struct.pack("!HH", 5, code) + text.encode() + b"\0", client)
            return
        data = self.files[name.decode()]
        block_size = 512
        if self.options:
            block_size = int(words[words.index(b"blksize") + 1])
            offer = b"tsize\0%d\0blksize\0%d\0" % (len(data) + self.promise, block_size)
            if self.ask(own, client, struct.pack("!H", 6) + (self.offer or offer)) is None:
                return
        lose = set(self.lose)
        for number in range(len(data) // block_size + 1):
            packet = struct.pack("!HH", 3, (number + 1) % 65536) + data[number * block_size :][:block_size]
            while True:
                if number + 1 in lose:
                    lose.discard(number + 1)
                    reply: bytes | None = b""
                else:
                    reply = self.ask(own, client, packet)
                if reply is None:
                    return
                if reply[2:4] == packet[2:4]:
                    break

    def ask(self, own: socket.socket, client: tuple[str, int], packet: bytes) -> bytes | None:
        """Send a packet until it is acknowledged; None when the client ends the transfer."""
        for _ in range(20):
            own.sendto(packet, client)
            if self.twice:
                own.sendto(packet, client)
            try:
                reply = own.recvfrom(65535)[0]
            except TimeoutError:
                continue
            if reply[:2] == b"\0\5":
                self.ended.append(reply)
                return None
            if reply[2:4] == packet[2:4] or packet[:2] == b"\0\6":
                return reply
        return None


@contextmanager
def _running(fake: Fake) -> Iterator[tftp.Server]:
    stop = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((LOCAL, 0))
        listening.settimeout(0.05)
        thread = threading.Thread(target=fake.serve, args=(listening, stop))
        thread.start()
        try:
            yield tftp.Server(host=LOCAL, port=listening.getsockname()[1], timeout=1)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("block_size", [512, 1024, 1468])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_comes_as_it_is(name: str, block_size: int) -> None:
    with _running(Fake()) as server:
        got = tftp.get(server, name, block_size=block_size)
    assert (got.data, got.size, got.block_size) == (FILES[name], len(FILES[name]), block_size)


def test_it_asks_as_boards_do() -> None:
    fake = Fake()
    with _running(fake) as server:
        tftp.get(server, "a", block_size=1024)
    assert fake.asked == [b"\0\1a\0octet\0tsize\x000\0blksize\x001024\0"]


def test_an_abort_learns_the_size_and_ends_the_transfer() -> None:
    fake = Fake()
    with _running(fake) as server:
        got = tftp.get(server, "a", abort=True)
        tftp.get(server, "empty")
    assert (got.size, got.data) == (3000, b"")
    assert fake.ended == [b"\0\5\0\0Early terminate\0"]


def test_a_server_without_options_sends_blocks_of_512() -> None:
    with _running(Fake(options=False)) as server:
        assert tftp.get(server, "a") == tftp.Got(size=3000, block_size=512, data=FILES["a"])
        assert tftp.get(server, "a", abort=True).size is None


def test_lost_and_doubled_packets_do_no_harm() -> None:
    with _running(Fake(lose={1, 3}, twice=True)) as server:
        assert tftp.get(server, "a", block_size=512).data == FILES["a"]


def test_the_block_counter_rolls_over() -> None:
    data = b"z" * (8 * 65540 + 3)
    with _running(Fake(files={"big": data})) as server:
        assert tftp.get(server, "big", block_size=8).data == data


@pytest.mark.parametrize(("code", "text"), [(1, "File not found"), (2, "Access violation"), (0, "Permission denied")])
def test_a_refusal_keeps_the_servers_words(code: int, text: str) -> None:
    with _running(Fake(refuse=(code, text))) as server, pytest.raises(tftp.TftpError, match=text) as caught:
        tftp.get(server, "a")
    assert caught.value.code == code


def test_a_silent_server_is_named() -> None:
    fake = Fake(silent=True)
    with _running(fake) as server:
        quick = tftp.Server(host=server.host, port=server.port, timeout=0.05)
        with pytest.raises(tftp.TftpError, match=rf"no answer from 127.0.0.1 port {server.port}") as caught:
            tftp.get(quick, "a")
    assert caught.value.code is None
    assert len(fake.asked) > 1


def test_fewer_bytes_than_promised_are_an_error() -> None:
    with (
        _running(Fake(promise=1)) as server,
        pytest.raises(tftp.TftpError, match="3000 bytes came, the server promised"),
    ):
        tftp.get(server, "a")


def test_a_board_sees_the_same_through_a_server_and_in_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "c0a3cab4"
    directory.mkdir()
    texts = {
        "config.txt": "kernel=vmlinuz\ninitramfs initrd.img followkernel\n",
        "cmdline.txt": "root=/dev/nfs\n",
        "vmlinuz": "k" * 5000,
        "initrd.img": "i" * 2000,
    }
    texts |= {name: name for name in ("start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb")}
    for name, text in texts.items():
        (directory / name).write_text(text)
    with _running(Fake(files={f"c0a3cab4/{name}": text.encode() for name, text in texts.items()})) as server:
        tree = ServerTree(host=server.host, port=server.port, timeout=2)
        served = simulate(tree, "pi4", "c0a3cab4", eeprom=Eeprom())
    local = simulate(DirectoryTree(root=tmp_path), "pi4", "c0a3cab4", eeprom=Eeprom())
    assert served.stop is None
    assert served.contents == local.contents
    assert [(asked.name, asked.outcome, asked.size) for asked in served.requests] == [
        (asked.name, asked.outcome, asked.size) for asked in local.requests
    ]


def test_a_board_without_a_server_stops_in_words() -> None:
    with _running(Fake(silent=True)) as server:
        report = simulate(ServerTree(host=server.host, port=server.port, timeout=0.05), "pi4", "c0a3cab4")
    assert report.stop is not None
    assert "is the TFTP server running" in report.stop.said


@pytest.mark.parametrize(
    "offer",
    [
        b"blksize\x001468\0tsize\0" + b"9" * 5000 + b"\0",
        b"\xff\0\xfe\0blksize\x001468\0tsize",
    ],
)
def test_options_of_nonsense_are_left_alone(offer: bytes) -> None:
    with _running(Fake(offer=offer)) as server:
        assert tftp.get(server, "a").data == FILES["a"]


@pytest.mark.parametrize("size", [0, 7, 60000])
def test_blocks_of_a_size_that_nobody_asked_for(size: int) -> None:
    fake = Fake(offer=b"blksize\0%d\0" % size)
    with _running(fake) as server, pytest.raises(tftp.TftpError, match=f"blocks of {size} bytes"):
        tftp.get(server, "a", abort=True)


def test_a_transfer_has_an_end_however_slowly_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftp, "_MOST_SECONDS", -1.0)
    with _running(Fake()) as server, pytest.raises(tftp.TftpError, match="not done after"):
        tftp.get(server, "a")


def test_a_file_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftp, "_MOST_BYTES", 2000)
    with _running(Fake()) as server, pytest.raises(tftp.TftpError, match="sends more than"):
        tftp.get(server, "a")

"""A model store that answers as none should: the node asks it a bounded number of times, and its other models come."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.modelstore.publish import Publication, publish
from builder.modelstore.store import DirectoryStore
from tests import gguf
from tests.fetcher import Fetcher
from tests.hostile_web import Answer, Hostile, moved, ok, raw, serve_hostile

pytestmark = pytest.mark.waits

SMALL = 64 << 10
DIGITS = b"9" * 5000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects of a model that is as it should be, by path."""
    home = tmp_path_factory.mktemp("good")
    (home / "store").mkdir()
    path = gguf.write(home / "m.gguf", gguf.tensors(2, SMALL))
    publish(DirectoryStore(home / "store"), Publication(path=path, model="good", version="1"))
    return {f"/{file.relative_to(home / 'store')}": file.read_bytes() for file in (home / "store").rglob("*.*")} | {
        f"/{file.relative_to(home / 'store')}": file.read_bytes()
        for file in (home / "store/chunks").rglob("*")
        if file.is_file()
    }


@pytest.fixture
def web(good: dict[str, bytes]) -> Iterator[Hostile]:
    with serve_hostile() as server:
        server.answers |= {path: ok(content) for path, content in good.items()}
        yield server


@pytest.fixture
def node(web: Hostile, tmp_path: Path) -> Fetcher:
    options = ("--pause", "0.01", "--patience", "0.3")
    return Fetcher(home=tmp_path / "node", settings={"store": web.url()}, options=options)


def manifest(**changed: object) -> bytes:
    chunk = {"sha256": "0" * 64, "off": 0, "len": 100}
    whole = {"format": 1, "model": "bad", "version": "1", "file": "m.gguf", "sha256": "0" * 64, "size": 100}
    return json.dumps(whole | {"published": "2026-01-01T00:00:00Z", "chunks": [chunk]} | changed).encode()


ANSWERS: dict[str, Answer] = {
    "redirect to half an IPv6 address": moved(b"http://[::1/"),
    "redirect to a path beyond ASCII": moved("/modèle".encode()),
    "redirect to a long label": moved(b"http://" + b"a" * 300 + b".example/"),
    "redirect to a port beyond all": moved(b"http://127.0.0.1:99999999/"),
    "redirect to a scheme of its own": moved(b"file:///etc/passwd"),
    "redirect to control characters": moved(b"/a b\x7f"),
    "redirect without end": moved(b"/manifests/bad/1.json"),
    "a length of 5,000 digits": raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + DIGITS + b"\r\n\r\n{}"),
    "a range of 5,000 digits": raw(b"HTTP/1.1 206 P\r\nContent-Range: bytes " + DIGITS + b"-1/2\r\n\r\n"),
    "a pause of 5,000 digits": ok(b""),
    "a chunk of 5,000 digits": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + DIGITS + b"\r\nx"),
    "a negative chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx"),
    "no HTTP": raw(b"220 ftp.example ready\r\n"),
    "nothing": raw(b""),
    "100 Continue without end": raw(b"HTTP/1.1 100 Continue\r\n\r\n", again=True, pause=0.01),
    "headers without end": raw(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", again=True),
    "headers that drip": raw(b"HTTP/1.1 200 OK\r\n", b"A", again=True, pause=0.1),
    "a body that drips": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"{", again=True, pause=0.1),
    "a body without end": raw(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536, again=True),
    "deep": ok(b"[" * 100_000),
    "a list": ok(b"[]"),
    "a number that is none": ok(manifest(chunks=[{"sha256": "0" * 64, "off": 0, "len": float("inf")}])),
    "a file that is a list": ok(manifest(file=["m"])),
    "a sum that is a number": ok(manifest(sha256=5)),
    "a place that is a number": ok(manifest(plain=5)),
    "a model of an exabyte": ok(manifest(size=10**18, chunks=[{"sha256": "0" * 64, "off": 0, "len": 10**18}])),
    "a place that is no address": ok(manifest(plain="http://[::1/")),
    "chunks somewhere else": ok(manifest()),
}
ANSWERS["a pause of 5,000 digits"] = raw(
    b"HTTP/1.1 302 F\r\nRetry-After: " + DIGITS + b"\r\nLocation: \xff\xfe\r\n\r\n"
)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_bad_answer_fails_its_own_model_alone(web: Hostile, node: Fetcher, answer: Answer) -> None:
    web.answers["/manifests/bad/1.json"] = answer
    begun = time.monotonic()
    said = node.fails(bad="1", good="1")
    assert time.monotonic() - begun < 30  # 8 attempts of twice the patience, on a machine with other things to do
    assert "bad 1: failed" in said
    assert node.current("good") == "1"
    assert web.requests.count("/manifests/bad/1.json") <= 8


def test_a_store_that_answers_ranges_wrongly_is_not_asked_for_ever(web: Hostile, node: Fetcher) -> None:
    """Each answer begins somewhere else, or breaks off a little further on: what is dropped is not progress."""
    size, sent = 4 << 20, [0]
    plain = web.url("/whole")
    web.answers["/manifests/bad/1.json"] = ok(
        manifest(size=size, plain=plain, chunks=[{"sha256": "0" * 64, "off": 0, "len": size}])
    )

    def wrong(connection: socket.socket, _path: str, ranges: str) -> None:
        begin = int(ranges.removeprefix("bytes=").partition("-")[0])
        if begin:  # what is there has to be dropped
            connection.sendall(b"HTTP/1.1 206 P\r\nContent-Range: bytes 7-8/9\r\nContent-Length: 2\r\n\r\nxx")
            return
        body = bytes((1 << 20) + web.requests.count("/whole") * 5000)
        head = f"HTTP/1.1 206 P\r\nContent-Range: bytes 0-{size - 1}/{size}\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode() + body)
        sent[0] += len(body)

    web.answers["/whole"] = wrong
    said = node.fails(bad="1", good="1")
    assert "came in vain" in said
    assert node.current("good") == "1"
    assert web.requests.count("/whole") < 100
    assert sent[0] < (16 << 20) + 3 * size + (8 << 20)

"""Servers that answer as none should: a message within seconds, and nothing under the file's name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.host import fetch as fetching
from builder.host.fetch import Patience, fetch
from tests.hostile_web import Answer, Hostile, moved, raw, serve_hostile

DIGITS = b"9" * 5000
PATIENCE = Patience(connect=1, read=0.3, attempts=2, most=4, pause=0.01)

ANSWERS: dict[str, Answer] = {
    "redirect to half an IPv6 address": moved(b"http://[::1/"),
    "redirect to a long label": moved(b"http://" + b"a" * 300 + b".example/"),
    "redirect to a port beyond all": moved(b"http://127.0.0.1:99999999/"),
    "redirect to a scheme of its own": moved(b"gopher://x/"),
    "redirect without end": moved(b"/file"),
    "a length of 5,000 digits": raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + DIGITS + b"\r\n\r\nx"),
    "a pause of 5,000 digits": raw(b"HTTP/1.1 404 N\r\nRetry-After: " + DIGITS + b"\r\n\r\n"),
    "a chunk of 5,000 digits": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + DIGITS + b"\r\nx"),
    "a range of 5,000 digits": raw(b"HTTP/1.1 206 P\r\nContent-Range: bytes " + DIGITS + b"-1/2\r\n\r\n"),
    "no HTTP": raw(b"220 ftp.example ready\r\n"),
    "nothing": raw(b""),
    "headers without end": raw(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", again=True),
    "headers that drip": raw(b"HTTP/1.1 200 OK\r\n", b"A", again=True, pause=0.1),
    "100 Continue without end": raw(b"HTTP/1.1 100 Continue\r\n\r\n", again=True, pause=0.01),
    "a body that drips": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x", again=True, pause=0.1),
    "a body without end": raw(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536), again=True),
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setattr(fetching, "_LARGEST", 8 << 20)
    with serve_hostile() as server:
        yield server


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_bad_answer_is_told(web: Hostile, tmp_path: Path, answer: Answer) -> None:
    web.answers["/file"] = answer
    begun = time.monotonic()
    with pytest.raises(FetchError):
        fetch(web.url("/file"), sha256="0" * 64, into=tmp_path / "file", patience=PATIENCE)
    assert time.monotonic() - begun < 10
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    "url", ["http://[::1/x", "http://a:99999999/x", "http://" + "a" * 300 + ".example/", "http:///x"]
)
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError):
        fetch(url, sha256=None, into=tmp_path / "file", patience=PATIENCE)

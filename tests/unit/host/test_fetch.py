"""Downloads against a server in this process that breaks off, forgets, refuses and lies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.connection import HTTPConnection

from builder.errors import FetchError, HostError
from builder.host.fetch import Patience, UnreachableError, _reason, fetch, local_path, shown
from builder.host.hashing import file_digest
from tests.web import Web, serve

HASTY = Patience(connect=2, read=2, attempts=3, most=20, pause=0)
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        server.files["/file"] = CONTENT
        yield server


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_brings_the_file_and_nothing_else(web: Web, tmp_path: Path) -> None:
    into = tmp_path / "new" / "file"
    assert fetch(web.url("/file"), sha256=DIGEST.upper(), into=into, patience=HASTY) == into
    assert into.read_bytes() == CONTENT
    assert left_in(into.parent) == ["file"]


def test_keeps_a_file_that_is_right_already(web: Web, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert len(web.requests) == 1


def test_replaces_a_file_that_is_wrong(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert file_digest(tmp_path / "file") == DIGEST


def test_without_a_checksum_asks_again(web: Web, tmp_path: Path) -> None:
    fetch(web.url("/file"), sha256=None, into=tmp_path / "file", patience=HASTY)
    web.files["/file"] = b"newer"
    fetch(web.url("/file"), sha256=None, into=tmp_path / "file", patience=HASTY)
    assert (tmp_path / "file").read_bytes() == b"newer"


def test_resumes_where_the_connection_broke(web: Web, tmp_path: Path) -> None:
    web.break_after = [300_000, 200_000]
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert file_digest(tmp_path / "file") == DIGEST
    assert web.asked("Range") == ["", "bytes=300000-", "bytes=500000-"]
    assert web.asked("If-Range")[1].startswith('"')


def test_a_later_run_resumes_what_an_earlier_one_left(web: Web, tmp_path: Path) -> None:
    web.break_after = [300_000]
    web.statuses = []
    with pytest.raises(UnreachableError, match="1 attempts"):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=Patience(most=1))
    assert left_in(tmp_path) == [".file.part", ".file.part.json"]
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert web.asked("Range") == ["", "bytes=300000-"]
    assert left_in(tmp_path) == ["file"]


def test_starts_over_when_the_server_has_no_ranges(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.break_after = [300_000]
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert file_digest(tmp_path / "file") == DIGEST
    assert len(web.requests) == 2


def test_starts_over_when_the_file_changed_meanwhile(web: Web, tmp_path: Path) -> None:
    web.files["/file"] = b"x" * len(CONTENT)
    web.break_after = [300_000]
    with pytest.raises(UnreachableError):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=Patience(most=1))
    web.files["/file"] = CONTENT
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.asked("Range")[1] == "bytes=300000-"


def test_a_mixed_file_is_fetched_anew_when_no_tag_told(web: Web, tmp_path: Path) -> None:
    web.tagged = False
    web.files["/file"] = b"x" * len(CONTENT)
    web.break_after = [300_000]
    with pytest.raises(UnreachableError):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=Patience(most=1))
    web.files["/file"] = CONTENT
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.asked("Range") == ["", "bytes=300000-", ""]


def test_what_another_url_left_is_not_resumed_from(web: Web, tmp_path: Path) -> None:
    web.files["/other"] = b"y" * 1000
    web.break_after = [500]
    with pytest.raises(UnreachableError):
        fetch(web.url("/other"), sha256=None, into=tmp_path / "file", patience=Patience(most=1))
    fetch(web.url("/file"), sha256=None, into=tmp_path / "file", patience=HASTY)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.asked("Range") == ["", ""]


def test_a_transfer_that_had_everything_but_its_name_ends_well(web: Web, tmp_path: Path) -> None:
    web.break_after = [300_000]
    with pytest.raises(UnreachableError):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=Patience(most=1))
    (tmp_path / ".file.part").write_bytes(CONTENT)
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("optional_sum", [DIGEST, None])
def test_gives_up_after_fruitless_attempts(web: Web, tmp_path: Path, optional_sum: str | None) -> None:
    web.break_after = [100] + [0] * 10
    with pytest.raises(UnreachableError, match=r"after 4 attempts, 100 B received"):
        fetch(web.url("/file"), sha256=optional_sum, into=tmp_path / "file", patience=HASTY)
    assert len(web.requests) == 4


def test_attempts_that_bring_something_do_not_count_as_fruitless(web: Web, tmp_path: Path) -> None:
    web.break_after = [100_000] * 8
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert len(web.requests) == 9


def test_waits_out_a_server_that_is_busy(web: Web, tmp_path: Path) -> None:
    web.statuses = [503, 429]
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert len(web.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(web: Web, tmp_path: Path, status: int) -> None:
    web.statuses = [status]
    with pytest.raises(UnreachableError, match=str(status)) as caught:
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert caught.value.hint
    assert len(web.requests) == 1
    assert not (tmp_path / "file").exists()


def test_a_wrong_checksum_names_both_and_leaves_nothing(web: Web, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(FetchError) as caught:
        fetch(web.url("/file"), sha256=wrong, into=tmp_path / "file", patience=HASTY)
    assert wrong in caught.value.message
    assert DIGEST in caught.value.message
    assert not isinstance(caught.value, UnreachableError)
    assert left_in(tmp_path) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with serve() as gone:
        url = gone.url("/file")
    with pytest.raises(UnreachableError, match="Connection refused"):
        fetch(url, sha256=DIGEST, into=tmp_path / "file", patience=HASTY)


@pytest.mark.parametrize("scheme", ["path", "file"])
def test_local_files_are_copied_and_verified(tmp_path: Path, scheme: str) -> None:
    source = tmp_path / "a b"
    source.write_bytes(CONTENT)
    url = str(source) if scheme == "path" else source.as_uri()
    fetch(url, sha256=DIGEST, into=tmp_path / "into" / "file")
    assert (tmp_path / "into" / "file").read_bytes() == CONTENT
    with pytest.raises(FetchError, match="wrong checksum"):
        fetch(url, sha256="1" * 64, into=tmp_path / "into" / "other")
    assert source.read_bytes() == CONTENT


def test_a_local_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        fetch(str(tmp_path / "none"), sha256=None, into=tmp_path / "file")


def test_a_place_that_cannot_be_written(web: Web, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be written"):
        fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "plain" / "file", patience=HASTY)


@pytest.mark.parametrize("url", ["ftp://host/x", "file://server/x", "s3://b/x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(FetchError, match="cannot fetch from"):
        local_path(url)


def test_secrets_in_urls_are_not_printed(web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    web.break_after = [0] * 5
    url = web.url("/file?token=s3cret", login="user:passw0rd")
    with pytest.raises(UnreachableError) as caught:
        fetch(url, sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    everything = str(caught.value) + "".join(capfd.readouterr())
    assert "s3cret" not in everything
    assert "passw0rd" not in everything
    assert web.requests[0][0] == "/file?token=s3cret"
    assert web.asked("Authorization")[0].startswith("Basic ")
    assert all("s3cret" not in path.read_text() for path in tmp_path.glob("*.json"))


@given(st.text(alphabet="abcdefgh01", min_size=6), st.text(alphabet="klmnopqr23", min_size=6))
def test_shown_urls_hold_no_secret(login: str, query: str) -> None:
    text = shown(f"https://{login}:{login}@host:8443/some/path?{query}#{query}")
    assert text == "https://host:8443/some/path?…"


def test_two_that_want_the_same_file_fetch_it_once(web: Web, tmp_path: Path) -> None:
    def want() -> Path:
        return fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(want) for _ in range(4)]]
    assert results == [tmp_path / "file"] * 4
    assert len(web.requests) == 1
    assert left_in(tmp_path) == ["file"]


def test_a_server_that_continues_elsewhere_is_not_believed(web: Web, tmp_path: Path) -> None:
    web.shift = 256  # the content repeats after so many bytes: only the missing end would show
    web.break_after = [300_000]
    fetch(web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
    assert web.asked("Range") == ["", "bytes=300000-", ""]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_short_answer_is_noticed_where_urllib3_does_not(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 before 2.0 ends quietly when the connection does; the switch makes a later one behave so."""
    real = HTTPConnection.request

    def lenient(self: HTTPConnection, method: str, url: str, **options: Any) -> None:
        real(self, method, url, **{**options, "enforce_content_length": False})

    monkeypatch.setattr(HTTPConnection, "request", lenient)
    web.break_after = [300_000] * 20
    with pytest.raises(UnreachableError, match="broke off after 300000 of 1048576 bytes"):
        fetch(web.url("/file"), sha256=None, into=tmp_path / "file", patience=Patience(most=1))


def test_a_partial_file_that_was_renamed_while_waiting_is_let_go(web: Web, tmp_path: Path) -> None:
    partial, finished = tmp_path / ".file.part", tmp_path / "finished"
    with partial.open("wb") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(b"finished by another")
        held.flush()
        waiting = pool.submit(fetch, web.url("/file"), sha256=DIGEST, into=tmp_path / "file", patience=HASTY)
        while not waiting.running():
            time.sleep(0.01)
        time.sleep(0.2)
        partial.rename(finished)
        partial.write_bytes(b"begun by a third")
        fcntl.flock(held, fcntl.LOCK_UN)
        waiting.result(timeout=10)
    assert finished.read_bytes() == b"finished by another"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_reasons_come_from_the_innermost_error() -> None:
    inner = ConnectionRefusedError(111, os.strerror(111))
    assert _reason(requests.ConnectionError("https://u:p@host/?q", inner)) == "Connection refused"
    assert _reason(requests.ReadTimeout("https://u:p@host/?q")) == "no answer in time"
    assert "u:p" not in _reason(requests.ConnectionError("https://u:p@host/?q"))
    assert _reason(requests.exceptions.SSLError(ssl.SSLError(1, "handshake failure"))) == "handshake failure"

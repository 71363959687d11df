"""When the package lists that are here are taken for current, and when apt is asked instead."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.packages.current import is_current, note_current
from builder.packages.source import Source
from tests.web import Web, serve

RELEASE = b"-----BEGIN PGP SIGNED MESSAGE-----\nOrigin: Debian\nValid-Until: Thu, 01 Jan 2099 00:00:00 UTC\n"


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as served:
        served.files = {"/debian/dists/trixie/InRelease": RELEASE, "/flat/./InRelease": RELEASE}
        yield served


@pytest.fixture
def sources(web: Web, tmp_path: Path) -> tuple[Source, ...]:
    """Return two sources, one of them flat."""
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"keys")
    listed = (("/debian", ("trixie",)), ("/flat", ("./",)))
    return tuple(
        Source(uris=web.url(path), suites=suites, components=("main",), keyring=keyring) for path, suites in listed
    )


@pytest.fixture
def directory(web: Web, sources: tuple[Source, ...], tmp_path: Path) -> Path:
    """Return apt's directory as an update leaves it."""
    here = tmp_path / "apt"
    (here / "lists/partial").mkdir(parents=True)
    for name in ("debian_dists_trixie_InRelease", "flat_._InRelease"):
        (here / f"lists/127.0.0.1:{web.port}_{name}").write_bytes(RELEASE)
    (here / "lists/main_Packages").write_text("Package: less\n")
    (here / "apt.conf").write_text('APT::Architecture "arm64";\n')
    note_current(here, sources)
    return here


def _release(directory: Path) -> Path:
    return next((directory / "lists").glob("*trixie_InRelease"))


def test_what_the_archive_still_serves_is_current(directory: Path, sources: tuple[Source, ...], web: Web) -> None:
    assert is_current(directory, sources[:0]) is False  # of other sources
    assert is_current(directory, sources)
    assert [path for path, _ in web.requests] == ["/debian/dists/trixie/InRelease", "/flat/./InRelease"]


def test_an_answer_that_nothing_has_changed_is_enough(directory: Path, sources: tuple[Source, ...], web: Web) -> None:
    web.statuses = [304, 304]
    assert is_current(directory, sources)
    assert all(web.asked("If-Modified-Since"))


@pytest.mark.parametrize("answer", [RELEASE + b"more", RELEASE[:-1], b"", b"x" * 10_000_000])
def test_another_release_file_is_not(directory: Path, sources: tuple[Source, ...], web: Web, answer: bytes) -> None:
    web.files["/debian/dists/trixie/InRelease"] = answer
    assert not is_current(directory, sources)


def test_whatever_else_the_archive_answers_is_for_apt(directory: Path, sources: tuple[Source, ...], web: Web) -> None:
    for status in (404, 500, 301):
        web.statuses = [status]
        assert not is_current(directory, sources)
    web.break_after = [10]
    assert not is_current(directory, sources)
    assert not is_current(directory, [replace(sources[0], uris="http://127.0.0.1:1/debian")])


def test_lists_that_have_expired_are_for_apt(directory: Path, sources: tuple[Source, ...], web: Web) -> None:
    old = RELEASE.replace(b"2099", b"2019")
    _release(directory).write_bytes(old)
    web.files["/debian/dists/trixie/InRelease"] = old
    note_current(directory, sources)
    assert not is_current(directory, sources)


@pytest.mark.parametrize("changed", ["lists/main_Packages", "apt.conf", "../keyring.gpg", "current.json"])
def test_what_differs_from_what_apt_left_is_for_apt(directory: Path, sources: tuple[Source, ...], changed: str) -> None:
    file = directory / changed
    file.write_text("{}")
    os.utime(file, (1, 1))
    assert not is_current(directory, sources)
    file.unlink()
    assert not is_current(directory, sources)


def test_lists_that_are_gone_or_new_are_for_apt(directory: Path, sources: tuple[Source, ...]) -> None:
    (directory / "lists/other_Packages").write_text("")
    assert not is_current(directory, sources)
    (directory / "lists/other_Packages").unlink()
    assert is_current(directory, sources)
    _release(directory).unlink()
    assert not is_current(directory, sources)


@pytest.mark.parametrize("uri", ["file:/srv/debian", "cdrom:[x]/", "mirror+http://127.0.0.1/list"])
def test_archives_that_are_reached_in_another_way_are_for_apt(
    directory: Path, sources: tuple[Source, ...], uri: str, web: Web
) -> None:
    other = [replace(sources[0], uris=uri)]
    note_current(directory, other)
    assert not is_current(directory, other)
    (directory / "apt.conf").write_text('Acquire::http::Proxy "http://proxy.example:3128";\n')
    note_current(directory, sources)
    assert not is_current(directory, sources)
    assert web.requests == []

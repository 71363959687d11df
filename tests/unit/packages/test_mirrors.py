"""Where packages come from; what the machine itself is asked is in tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import HostError
from builder.host.cache import Cache
from builder.packages import mirrors
from builder.packages.mirrors import _ONE_LINE, _sources, candidate_sources, find_keyring, own_mirrors

KEYRING = Path("/usr/share/keyrings/x.gpg")


def test_a_mirror_that_is_given_is_the_only_one_there_is(tmp_path: Path) -> None:
    given, components, cache = "http://mirror.example.org/debian", ["main", "contrib"], Cache(tmp_path)
    [[source]] = candidate_sources("debian", "trixie", components, mirror=given, keyring=KEYRING, cache=cache)
    assert (source.uris, source.suites, source.components) == (given, ("trixie",), ("main", "contrib"))
    assert source.keyring == KEYRING


def test_suites_of_one_archive_are_one_source_without_doubles() -> None:
    pairs = [
        ("http://a.example.org", "trixie"),
        ("http://b.example.org", "trixie-security"),
        ("http://a.example.org", "trixie-updates"),
        ("http://a.example.org", "trixie"),
    ]
    assert [(source.uris, source.suites) for source in _sources(pairs, ["main"], KEYRING)] == [
        ("http://a.example.org", ("trixie", "trixie-updates")),
        ("http://b.example.org", ("trixie-security",)),
    ]


def test_one_line_sources_are_read_with_and_without_options() -> None:
    text = (
        "# deb http://no.example.org trixie main\n"
        "deb http://a.example.org/debian trixie main contrib\n"
        "deb [signed-by=/x.gpg arch=arm64] http://b.example.org trixie-updates main\n"
        "deb-src http://c.example.org trixie main\n"
    )
    assert [(found["uri"], found["suite"]) for found in _ONE_LINE.finditer(text)] == [
        ("http://a.example.org/debian", "trixie"),
        ("http://b.example.org", "trixie-updates"),
    ]


def test_a_keyring_that_is_missing_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = tmp_path / "archive.gpg"
    monkeypatch.setitem(mirrors._KEYRINGS, "debian", (keyring, "debian-archive-keyring"))
    with pytest.raises(HostError, match="packages of debian cannot be verified") as caught:
        find_keyring("debian")
    assert "apt-get install debian-archive-keyring" in caught.value.hint
    keyring.touch()
    assert find_keyring("debian") == keyring


def test_a_source_of_somebody_else_is_no_mirror() -> None:
    """Docker calls its suites as Debian calls its releases."""
    lists = (
        "http://a.example.org/debian/\ttrixie\tmain\tDebian\n"
        "http://a.example.org/debian/\ttrixie\tnon-free-firmware\tDebian\n"
        "http://docker.example.org/linux/debian/\ttrixie\tstable\tDocker\n"
        "http://other.example.org/\ttrixie\tmain\tOther\n"
        "http://unread.example.org/\ttrixie-updates\tmain\t$(ORIGIN)\n"
        "http://unread.example.org/\ttrixie\tstable\t$(ORIGIN)\n"
        "http://a.example.org/debian/\ttrixie-backports\tmain\tDebian Backports\n"
    )
    mirrors = [("http://a.example.org/debian", "trixie"), ("http://unread.example.org", "trixie-updates")]
    assert own_mirrors(lists, "debian", "trixie") == mirrors
    assert own_mirrors(lists, "ubuntu", "trixie") == mirrors[1:], "where the release file is not here to say"

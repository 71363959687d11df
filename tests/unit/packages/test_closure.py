"""Package lists cut down to what can matter; that apt answers the same from them is in tests/system/test_apt.py."""

from pathlib import Path

import pytest

from builder.packages.closure import Lists

MAIN = """\
Package: base
Version: 1
Essential: yes
Depends: libc

Package: libc
Version: 1

Package: app
Version: 1
Pre-Depends: start (>= 1)
Depends: lib:any (>= 2), mailer | mail-agent,
 folded (<< 9) | other [arm64]
Recommends: docs
Conflicts: enemy

Package: start
Version: 1

Package: lib
Version: 2

Package: exim
Version: 4
Provides: mail-agent (= 4), smtp
Depends: dns

Package: dns
Version: 1

Package: docs
Version: 1

Package: folded
Version: 1

Package: enemy
Version: 1

Package: held-by-nobody
Version: 1

Package: installed-since
Version: 1
Depends: its-need

Package: its-need
Version: 1
"""
UPDATES = "Package: lib\nVersion: 3\nDepends: newer\n\nPackage: newer\nVersion: 1\n"
STATUS = "Package: installed-since\nStatus: install ok installed\nVersion: 0\nDepends: dropped\n\n"


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    (tmp_path / "main_Packages").write_text(MAIN)
    (tmp_path / "updates_Packages").write_text(UPDATES)
    return Lists(sorted(tmp_path.iterdir()))


def _kept(lists: Lists, *words: str, status: str = "", recommends: bool = False) -> list[str]:
    text = b"".join(lists.cut(words, status, recommends=recommends).values()).decode()
    return [line.removeprefix("Package: ") for line in text.splitlines() if line.startswith("Package: ")]


def test_what_may_be_needed_stays_in_its_order(lists: Lists) -> None:
    needed = ["base", "libc", "app", "start", "lib", "exim", "dns", "folded", "lib", "newer"]
    assert _kept(lists, "app") == needed
    assert "docs" in _kept(lists, "app", recommends=True)


def test_what_is_installed_and_what_is_essential_matter_always(lists: Lists) -> None:
    assert _kept(lists) == ["base", "libc"]
    assert _kept(lists, status=STATUS) == ["base", "libc", "installed-since", "its-need"]


def test_stanzas_are_whole_and_of_every_version(lists: Lists) -> None:
    assert [b"Version: 2" in stanza for stanza in lists.stanzas("lib")] == [True, False]
    assert lists.stanzas("lib")[0] == b"Package: lib\nVersion: 2\n\n"
    assert lists.stanzas("nothing") == []


@pytest.mark.parametrize(
    "word", ["ap*", "app:arm64", "app=1", "app/trixie", "?all", "lib+", "lib-", "mail-agent", "no"]
)
def test_what_apt_could_read_otherwise_is_asked_of_all_lists(lists: Lists, word: str) -> None:
    assert not lists.can_be_cut(["app", word])
    assert lists.can_be_cut(["app", "?essential"])

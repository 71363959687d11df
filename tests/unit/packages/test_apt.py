"""What apt is told and what it says; resolution itself is in tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host.cache import Cache
from builder.packages.apt import Apt, Deb, Resolution, _installed_stanza, is_present, parse_deb
from builder.packages.source import Source

STANZA = """\
Package: less
Version: 1:668-1
Installed-Size: 330
Maintainer: Somebody <somebody@example.org>
Architecture: arm64
Depends: libc6 (>= 2.34), libtinfo6 (>= 6)
Description: pager program
 It shows text: one page at a time.
 Size: is not a field here
Description-md5: 24c8b9d9e5a1d1d1d1d1d1d1d1d1d1d1
Filename: pool/main/l/less/less_668-1_arm64.deb
Size: 157960
MD5sum: 24c8b9d9e5a1d1d1d1d1d1d1d1d1d1d1
SHA256: 5a1c0f3e8d7b6a594837261504f3e2d1c0b9a897867564534231201f0e0d0c0b
"""
SOURCE = Source(
    uris="http://mirror.example.org/debian",
    suites=("trixie", "trixie-updates"),
    components=("main", "non-free-firmware"),
    keyring=Path("/usr/share/keyrings/x.gpg"),
)


def test_a_packages_stanza_is_a_package_file() -> None:
    deb = parse_deb(STANZA)
    assert deb is not None
    assert (deb.name, deb.version, deb.architecture, deb.size) == ("less", "1:668-1", "arm64", 157960)
    assert deb.sha256 == "5a1c0f3e8d7b6a594837261504f3e2d1c0b9a897867564534231201f0e0d0c0b"
    assert deb.filename == "pool/main/l/less/less_668-1_arm64.deb"
    assert deb.archive_name == "less_1%3a668-1_arm64.deb"
    assert deb.control == STANZA.strip()


def test_a_stanza_of_an_installed_package_names_no_file() -> None:
    assert parse_deb(_installed_stanza(STANZA)) is None
    assert parse_deb("") is None


def test_a_package_that_counts_as_installed_keeps_what_dependencies_need() -> None:
    lines = _installed_stanza(STANZA.strip()).splitlines()
    assert lines[:2] == ["Package: less", "Status: install ok installed"]
    assert "Depends: libc6 (>= 2.34), libtinfo6 (>= 6)" in lines
    assert "Version: 1:668-1" in lines
    assert " Size: is not a field here" in lines
    assert not [line for line in lines if line.startswith(("Filename", "Size", "SHA256", "MD5sum", "Description-md5"))]


@given(st.text("ab:~+-.1", min_size=1, max_size=12))
def test_a_file_name_in_the_archives_has_no_colon(version: str) -> None:
    deb = Deb(name="x", version=version, architecture="all", sha256="", size=0, filename="")
    assert ":" not in deb.archive_name
    assert deb.archive_name.replace("%3a", ":") == f"x_{version}_all.deb"


def test_a_source_is_one_deb822_stanza() -> None:
    assert SOURCE.deb822("arm64") == (
        "Types: deb\n"
        "URIs: http://mirror.example.org/debian\n"
        "Suites: trixie trixie-updates\n"
        "Components: main non-free-firmware\n"
        "Architectures: arm64\n"
        "Signed-By: /usr/share/keyrings/x.gpg\n"
    )


def test_every_set_of_sources_has_lists_of_its_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    other = Source(uris=SOURCE.uris, suites=("trixie",), components=SOURCE.components, keyring=SOURCE.keyring)
    asked = [([SOURCE], "arm64"), ([SOURCE], "amd64"), ([other], "arm64"), ([SOURCE, other], "arm64")]
    directories = {Apt(cache, sources, architecture).directory for sources, architecture in asked}
    assert len(directories) == 4
    assert Apt(cache, [SOURCE], "arm64").directory in directories
    assert {directory.parent for directory in directories} == {cache.lists}


def test_apt_looks_at_nothing_of_the_machine_s_packages(tmp_path: Path) -> None:
    apt = Apt(Cache(tmp_path), [SOURCE], "arm64")
    told = apt._configuration(apt.directory)
    assert f'Dir::State::status "{apt.directory}/status";' in told
    assert f'Dir::Etc::SourceList "{apt.directory}/pibuild.sources";' in told
    assert 'Dir::Etc::SourceParts "/dev/null";' in told
    assert 'APT::Architectures { "arm64"; };' in told
    assert all(
        line.endswith(";") and line.startswith(("#clear ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for line in told.splitlines()
    )


def test_the_release_digest_follows_the_release_files_alone(tmp_path: Path) -> None:
    apt = Apt(Cache(tmp_path), [SOURCE], "arm64")
    lists = apt.directory / "lists"
    lists.mkdir(parents=True)
    release = lists / "mirror_dists_trixie_InRelease"
    release.write_text("one")
    before = apt.release_digest()
    (lists / "mirror_dists_trixie_main_binary-arm64_Packages").write_text("less")
    assert apt.release_digest() == before
    release.write_text("two")
    assert apt.release_digest() != before


@pytest.mark.parametrize(("content", "present"), [(b"12345", True), (b"1234", False), (None, False)])
def test_a_package_file_is_there_when_its_size_is_right(
    tmp_path: Path, content: bytes | None, *, present: bool
) -> None:
    deb = Deb(name="a", version="1", architecture="all", sha256="", size=5, filename="")
    if content is not None:
        (tmp_path / deb.archive_name).write_bytes(content)
    assert is_present(tmp_path, deb) is present


def test_a_resolution_as_json_leaves_the_stanzas_out() -> None:
    deb = parse_deb(STANZA)
    assert deb is not None
    told = Resolution(debs=(deb,), removes=("nano",)).to_json()
    assert told["removes"] == ["nano"]
    debs = told["debs"]
    assert isinstance(debs, list)
    assert Deb(**debs[0]).sha256 == deb.sha256
    assert "control" not in debs[0]


def test_packages_are_described_by_the_lists(tmp_path: Path) -> None:
    apt = Apt(Cache(tmp_path), [SOURCE], "arm64")
    lists = apt.directory / "lists"
    lists.mkdir(parents=True)
    newer = STANZA.replace("1:668-1", "1:668-2")
    (lists / "mirror_dists_trixie_main_binary-arm64_Packages").write_text(f"{STANZA}\n{STANZA.replace('less', 'more')}")
    (lists / "mirror_dists_trixie-updates_main_binary-arm64_Packages").write_text(newer)
    described = apt._describe([("less", "1:668-2"), ("more", "1:668-1"), ("less", "1:668-1")])
    assert [(deb.name, deb.version) for deb in described] == [
        ("less", "1:668-1"),
        ("less", "1:668-2"),
        ("more", "1:668-1"),
    ]

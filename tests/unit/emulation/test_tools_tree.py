"""Versions and paths of the native tools; the tree itself is made in tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.emulation.tools_tree import (
    _EMULATED,
    PACKAGES,
    _may_stand_in,
    _patch,
    is_libperl,
    merged_path,
    read_programs,
    source_version,
)
from builder.host.cache import write_json


@pytest.mark.parametrize(
    ("version", "source"),
    [
        ("9.7-3", "9.7-3"),
        ("9.7-3+b1", "9.7-3"),
        ("9.7-3+b12", "9.7-3"),
        ("9.7-3+b", "9.7-3+b"),
        ("9.7-3+b1~bpo1", "9.7-3+b1~bpo1"),
        ("9.7+b1-3", "9.7+b1-3"),
        ("1:9.7-3+deb13u1", "1:9.7-3+deb13u1"),
        ("1:9.7-3+deb13u1+b2", "1:9.7-3+deb13u1"),
        ("2.41-5ubuntu1", "2.41-5ubuntu1"),
        ("", ""),
    ],
)
def test_only_the_mark_of_a_rebuild_is_no_part_of_a_version(version: str, source: str) -> None:
    assert source_version(version) == source


@given(st.text("0123456789.-+~bdeu", max_size=12), st.integers(0, 999), st.integers(0, 999))
def test_rebuilds_of_one_source_are_the_same_program(version: str, one: int, other: int) -> None:
    assert source_version(f"{version}+b{one}") == source_version(f"{version}+b{other}") == version


@pytest.mark.parametrize(
    ("path", "merged"),
    [
        ("bin/ls", "usr/bin/ls"),
        ("sbin/ldconfig", "usr/sbin/ldconfig"),
        ("lib/systemd/systemd", "usr/lib/systemd/systemd"),
        ("lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/bin/dpkg", "usr/bin/dpkg"),
        ("libexec/x", "libexec/x"),
        ("etc/bin/x", "etc/bin/x"),
    ],
)
def test_a_package_s_paths_are_where_the_target_s_links_lead(path: str, merged: str) -> None:
    assert merged_path(path) == merged


def test_what_tells_of_the_machine_never_stands_in() -> None:
    assert {"uname", "arch", "ldconfig", "dpkg-architecture", "systemd-detect-virt"} <= _EMULATED
    assert not any(" " in name or "/" in name for name in _EMULATED)
    assert _may_stand_in("usr/bin/dpkg")
    assert _may_stand_in("usr/lib/systemd/systemd-sysusers")
    assert not _may_stand_in("usr/lib/systemd/systemd")


def test_packages_are_named_once_in_order() -> None:
    assert list(PACKAGES) == sorted(set(PACKAGES), key=PACKAGES.index)
    assert not {"libc6", "apt"} & set(PACKAGES)


def test_a_full_perl_is_known_by_its_library() -> None:
    assert is_libperl("libperl5.40")
    assert not is_libperl("perl-base")
    assert not is_libperl("libperl-dev")


def test_a_native_dpkg_answers_for_arm64_and_keeps_its_length(tmp_path: Path) -> None:
    program = tmp_path / "dpkg"
    program.write_bytes(b"\x7fELF\0amd64\0amd64-not-alone\0xamd64\0")
    _patch(program, b"\0amd64\0", b"\0arm64\0")
    assert program.read_bytes() == b"\x7fELF\0arm64\0amd64-not-alone\0xamd64\0"
    _patch(tmp_path / "absent", b"a", b"b")
    assert not (tmp_path / "absent").exists()


def test_programs_are_read_with_package_and_version(tmp_path: Path) -> None:
    write_json(tmp_path / "programs.json", {"/usr/bin/ls": ["coreutils", "9.7-3"]})
    assert read_programs(tmp_path) == {"/usr/bin/ls": ("coreutils", "9.7-3")}

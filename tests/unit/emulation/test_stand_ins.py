from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.emulation.stand_ins import StandIns
from builder.host.cache import write_json

SED, GREP = "/usr/bin/sed", "/usr/bin/grep"
PROGRAMS = {SED: ["sed", "4.9-2"], GREP: ["grep", "3.11-4"]}
VERSIONS = {"sed": "4.9-2", "grep": "3.11-4+b1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with sed installed; grep is still to come."""
    root = tmp_path / "root"
    for name in ("usr/bin", "var/lib/dpkg/info"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/sed").write_text("sed of arm64")
    os.utime(root / "usr/bin/sed", ns=(7, 7))
    install(root, "sed", "bin/sed")
    return root


def install(root: Path, package: str, path: str) -> None:
    digest = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
    (root / f"var/lib/dpkg/info/{package}.list").write_text(f"/{path}\n")
    (root / f"var/lib/dpkg/info/{package}.md5sums").write_text(f"{digest}  {path}\n")


def stand_ins(root: Path, versions: Mapping[str, str] = VERSIONS) -> StandIns:
    tools = root.parent / "tools"
    tools.mkdir(exist_ok=True)
    write_json(tools / "programs.json", PROGRAMS)
    return StandIns(tools=tools, root=root, versions=versions)


def test_a_packages_own_file_comes_with_its_time_and_one_to_come_with_none(root: Path) -> None:
    assert stand_ins(root).paths() == {SED: 7, GREP: 0}


def test_another_version_is_emulated_and_a_rebuild_of_one_architecture_is_none(root: Path) -> None:
    assert stand_ins(root, {"sed": "4.9-3", "grep": "3.11-4"}).paths() == {GREP: 0}


def test_a_package_that_changes_its_version_is_emulated(root: Path) -> None:
    assert stand_ins(root, {"sed": "", "grep": "3.11-4"}).paths() == {GREP: 0}


def test_a_file_that_was_replaced_is_emulated_even_with_the_same_time_and_size(root: Path) -> None:
    asked = stand_ins(root)
    assert SED in asked.paths()
    (root / "usr/bin/sed").write_text("sed of a fan")
    os.utime(root / "usr/bin/sed", ns=(7, 7))
    assert SED not in asked.paths()


def test_a_file_without_a_package_is_emulated_but_while_a_first_root_is_unpacked(root: Path) -> None:
    (root / "usr/bin/grep").write_text("whose?")
    os.utime(root / "usr/bin/grep", ns=(9, 9))
    assert GREP not in stand_ins(root).paths()
    assert stand_ins(root).paths(fresh=True)[GREP] == 9


def test_a_diverted_program_is_emulated(root: Path) -> None:
    (root / "var/lib/dpkg/diversions").write_text(
        "/usr/bin/grep\n/usr/bin/grep.distrib\n:\n/bin/sed\n/bin/sed.real\nx\n"
    )
    assert stand_ins(root).paths() == {}


def test_a_link_that_leads_elsewhere_is_emulated(root: Path) -> None:
    (root / "usr/bin/sed").unlink()
    (root / "usr/bin/sed").symlink_to("/opt/sed")
    (root / "opt").mkdir()
    (root / "opt/sed").write_text("another")
    assert SED not in stand_ins(root).paths()


def test_programs_that_an_author_could_tell_are_left_out(root: Path) -> None:
    assert stand_ins(root).paths(without=("se",)) == {GREP: 0}


def test_without_a_tools_tree_nothing_stands_in(root: Path) -> None:
    assert StandIns(tools=None, root=root, versions=VERSIONS).paths() == {}

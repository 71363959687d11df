from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from builder.errors import Mark
from builder.recipe.steps.base import Place
from builder.recipe.steps.fields import Mode, Owner, TargetPath, source_problem
from builder.recipe.steps.rootfiles import matches


def at(directory: Path) -> Place:
    return Place(directory=directory, mark=Mark(file=directory / "r.yaml", line=1, column=1), variables={})


@pytest.mark.parametrize("mode", ["0644", "644", "4755", "0000"])
def test_modes(mode: str) -> None:
    assert TypeAdapter(Mode).validate_python(mode) == mode


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (755, "in quotes: '0755'"),
        (644, "in quotes: '0644'"),
        (493, "in quotes: '0644'"),
        (True, "not an octal mode"),
        ("0o644", "not an octal mode"),
        ("0888", "not an octal mode"),
        ("u+x", "not an octal mode"),
        ("00644", "not an octal mode"),
    ],
)
def test_wrong_modes(mode: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Mode).validate_python(mode)


@pytest.mark.parametrize("owner", ["root:root", "1000:adm", "_apt:nogroup", "a-b:c_d"])
def test_owners(owner: str) -> None:
    assert TypeAdapter(Owner).validate_python(owner) == owner


@pytest.mark.parametrize("owner", ["root", "root:", ":root", "a:b:c", "Root:root", "root.root", "root:root\n"])
def test_wrong_owners(owner: str) -> None:
    with pytest.raises(ValidationError, match="write 'user:group'"):
        TypeAdapter(Owner).validate_python(owner)


@pytest.mark.parametrize(("path", "plain"), [("/etc/motd", "/etc/motd"), ("//etc/./motd/", "/etc/motd")])
def test_target_paths(path: str, plain: str) -> None:
    assert TypeAdapter(TargetPath).validate_python(path) == plain


@pytest.mark.parametrize("path", ["etc/motd", "/", "//", "/etc/../x", "", "/a\0b"])
def test_wrong_target_paths(path: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TargetPath).validate_python(path)


def test_sources_that_are_missing_or_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "overlays/base").mkdir(parents=True)
    (tmp_path / "overlays/base/motd").touch()
    here = at(tmp_path / "recipes")
    here.directory.mkdir()
    assert source_problem(here, "../overlays/base/motd") is None
    assert source_problem(here, str(tmp_path / "overlays/base/motd")) is None
    assert source_problem(here, "../overlays/base", directory=True) is None
    wrong = {
        ("../overlays/base/modt", False): ("no such file", "did you mean 'motd'?"),
        ("../overlay/base/motd", False): ("no such file", "did you mean 'overlays'?"),
        ("../zzzzzz", True): ("no such directory", f"looked for {tmp_path}/recipes/../zzzzzz"),
        ("../overlays/base", False): ("is not a file", "the overlay step lays down a whole directory"),
        ("../overlays/base/motd", True): ("is not a directory", ""),
    }
    for (source, directory), (message, hint) in wrong.items():
        problem = source_problem(here, source, directory=directory)
        assert problem
        assert (problem.message.endswith(message), problem.hint) == (True, hint), source


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/etc/*", "/etc/motd", True),
        ("/etc/*", "/etc/apt/x", False),
        ("/etc/*", "/etc", False),
        ("/etc/**", "/etc", True),
        ("/etc/**", "/etc/apt/x", True),
        ("/**/x", "/etc/apt/x", True),
        ("/**/x", "/x", True),
        ("/etc/**/x", "/etc/x/y", False),
        ("/etc/[ab]?", "/etc/bz", True),
        ("/etc/.*", "/etc/.x", True),
        ("/etc/*", "/etc/.x", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:  # noqa: FBT001
    assert matches(pattern, path) is expected


@given(st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5))
def test_a_path_matches_itself_and_any_depth(names: list[str]) -> None:
    path = "/" + "/".join(names)
    assert matches(path, path)
    assert matches("/**", path)
    assert matches(f"/**/{names[-1]}", path)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)

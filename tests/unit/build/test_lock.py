"""The lock: what is written is read again, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.build.lock import (
    Lock,
    _memo,
    parse_lock,
    question_of,
    read_fitting_lock,
    read_lock,
    recipe_artifacts,
    remembered,
    write_lock,
)
from builder.cli import main as cli
from builder.errors import InputError
from builder.host.cache import Cache, write_json
from builder.packages.apt import Deb, Resolution
from builder.recipe.load import Recipe, load_recipe

SHA = "5a" * 32
RECIPE = f"""\
name: fixture
description: asks for little
base:
  bootstrap: {{distribution: debian, suite: trixie, mirror: auto, include: [systemd-sysv]}}
boards: [pi4]
disk:
  boot: {{size: 256M, label: bootfs, mount: /boot/firmware}}
  root: {{size: auto, slack: 15%, label: rootfs, identify: partuuid, grow: true}}
layers:
  - name: tools
    steps:
      - packages: {{install: [nano]}}
      - run: {{script: "true"}}
      - download: {{url: "https://example.org/tool", sha256: {SHA}, path: /usr/bin/tool}}
"""
HEAD = "format: 2\nrecipe: x\nquestion: y\nrelease: []\nepoch: 1\nimage: ''\nsources: ''\n"
WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789+.:~%-", min_size=1, max_size=12)
DEB = st.builds(
    Deb,
    name=WORD,
    version=WORD,
    architecture=st.sampled_from(["arm64", "all"]),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    size=st.integers(0, 2**40),
    filename=WORD,
)
ANSWER = st.builds(
    Resolution,
    debs=st.lists(DEB, max_size=3).map(tuple),
    removes=st.lists(WORD, max_size=2).map(tuple),
)
LOCKS = st.builds(
    Lock,
    recipe=WORD,
    question=WORD,
    epoch=st.integers(0, 2**33),
    base=ANSWER,
    image=st.sampled_from(["", SHA]),
    sources=st.sampled_from(["", "Types: deb\nSuites: trixie\n\nTypes: deb\n"]),
    steps=st.dictionaries(WORD, ANSWER, max_size=3),
    artifacts=st.dictionaries(WORD, WORD, max_size=2),
    release=st.tuples(WORD, WORD),
)


def _recipe(directory: Path, text: str = RECIPE) -> Recipe:
    path = directory / "fixture.yaml"
    path.write_text(text)
    return load_recipe(path)


def _lock(recipe: Recipe) -> Lock:
    return Lock(
        recipe=recipe.name, question=question_of(recipe), epoch=1, base=Resolution(debs=()), image="", sources=""
    )


@given(LOCKS)
def test_a_lock_is_read_as_it_was_written(lock: Lock) -> None:
    assert parse_lock(lock.to_text(), Path("x.lock.yaml")) == lock


def test_a_lock_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    lock = _lock(_recipe(tmp_path))
    path = tmp_path / "fixture.lock.yaml"
    write_lock(path, replace(lock, epoch=7))
    write_lock(path, lock)
    assert read_lock(path) == lock
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fixture.lock.yaml", "fixture.yaml"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("install: [nano]", "install: [less]"),
        ("install: [nano]", "install: [nano], recommends: true"),
        ("suite: trixie", "suite: bookworm"),
        ("include: [systemd-sysv]", "include: []"),
        (SHA, "6b" * 32),
        ("boards:", "epoch: 1700000000\nboards:"),
        ("name: tools", "name: renamed"),
    ],
)
def test_a_lock_of_another_question_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "fixture.lock.yaml"
    write_lock(path, _lock(_recipe(tmp_path)))
    assert RECIPE.count(old) == 1
    changed = _recipe(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(InputError, match=r"does not fit .*its packages, base or artifacts have changed") as caught:
        read_fitting_lock(path, changed)
    assert f"pibuild lock {changed.path}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('script: "true"', 'script: "false"'),
        ("mirror: auto", "mirror: http://mirror.example.org/debian"),
        ("slack: 15%", "slack: 20%"),
        ("description: asks for little", "description: asks for no more"),
        ("layers:", "# a remark\nlayers:"),
    ],
)
def test_a_change_that_resolves_to_the_same_keeps_the_lock(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "fixture.lock.yaml"
    lock = _lock(_recipe(tmp_path))
    write_lock(path, lock)
    assert RECIPE.count(old) == 1
    assert read_fitting_lock(path, _recipe(tmp_path, RECIPE.replace(old, new))) == lock


def test_a_lock_fits_another_checkout_with_a_keyring_of_the_recipe_s_own(tmp_path: Path) -> None:
    asked = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.gpg").write_bytes(b"\x99key")
        asked.append(question_of(_recipe(tmp_path / name, RECIPE.replace("mirror: auto", "keyring: own.gpg"))))
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just words",
        b"[1, 2]",
        b"{: [",
        b"format: 1\n",
        b"format: 2\nrecipe: x\n",
        b"\xff\xfe\x00",
        b"format: 2\nrecipe: x\nquestion: y\nepoch: z\n",
        f"{HEAD}base: {{debs: [two words], removes: []}}\nsteps: {{}}\nartifacts: {{}}\n".encode(),
        f"{HEAD}base: {{debs: [], removes: []}}\nsteps: {{}}\nartifacts: {{}}\n".encode(),
    ],
)
def test_what_is_no_lock_is_a_message_and_exit_code_2(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tmp_path)
    path = tmp_path / "bad.lock.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.lock\.yaml: not a lock file: "):
        read_lock(path)
    assert cli.run_command(["plan", str(recipe.path), "--lock", str(path)]) == 2
    said = capsys.readouterr().err
    assert "not a lock file" in said
    assert "pibuild lock RECIPE writes one" in said


def test_a_lock_that_is_not_there_says_what_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["plan", str(_recipe(tmp_path).path), "--locked"]) == 2
    assert "fixture.lock.yaml: No such file or directory\n    hint: pibuild lock" in capsys.readouterr().err


def test_a_resolution_is_remembered_by_its_question(tmp_path: Path) -> None:
    recipe, cache = _recipe(tmp_path), Cache(tmp_path / "cache")
    assert remembered(recipe, cache) is None
    lock = _lock(recipe)
    write_json(_memo(recipe, cache), {"release": "r", "lock": lock.to_text()})
    assert remembered(recipe, cache) == lock
    assert remembered(_recipe(tmp_path, RECIPE.replace("[nano]", "[less]")), cache) is None


def test_artifacts_are_known_by_checksum(tmp_path: Path) -> None:
    found = recipe_artifacts(_recipe(tmp_path))
    assert {sha: artifact.url for sha, artifact in found.items()} == {SHA: "https://example.org/tool"}


def test_plan_of_an_unresolved_recipe_says_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIBUILD_CACHE", str(tmp_path / "cache"))
    recipe = _recipe(tmp_path)
    assert cli.run_command(["plan", str(recipe.path)]) == 0
    shown = capsys.readouterr()
    assert f"pibuild lock {recipe.path}" in shown.err
    assert "never built" in shown.out

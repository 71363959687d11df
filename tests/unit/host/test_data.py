"""What pibuild ships beside its code is found, and read alike, in a checkout and in an installed wheel."""

import json
import shutil
from pathlib import Path

import pytest

from builder.host import data
from builder.host.overlay import walk


def _as_in_a_wheel(tree: Path, share: Path) -> None:
    """Copy an overlay as a wheel carries it: no links, no directories of links alone, bytecode beside programs."""
    links = {}
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree.parents[1]).as_posix()
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_file():
            (share / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, share / name)
    (share / "links.json").write_text(json.dumps(links))


@pytest.mark.parametrize("name", ["golden", "node", "node-role", "models"])
def test_an_overlay_reads_alike_from_a_wheel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = data.OVERLAYS / name
    _as_in_a_wheel(ours, tmp_path)
    expected = [(one.path, one.kind, one.link) for one in walk(ours)]
    monkeypatch.setattr(data, "SHARE", tmp_path)
    data._links.cache_clear()
    for program in [*tmp_path.rglob("*.py")]:
        (program.parent / "__pycache__").mkdir(exist_ok=True)
        (program.parent / "__pycache__" / f"{program.stem}.pyc").touch()
    assert [(one.path, one.kind, one.link) for one in walk(tmp_path / "overlays" / name)] == expected
    somewhere = tmp_path / "overlays" / "x" / ".." / name  # as a recipe names it
    somewhere.parents[1].mkdir(exist_ok=True)
    assert [(one.path, one.kind, one.link) for one in walk(somewhere)] == expected


def test_bytecode_is_no_part_of_an_overlay(tmp_path: Path) -> None:
    (tmp_path / "lib/__pycache__").mkdir(parents=True)
    (tmp_path / "lib/__pycache__/tool.pyc").touch()
    (tmp_path / "lib/tool.py").touch()
    assert [one.path for one in walk(tmp_path)] == ["/lib", "/lib/tool.py"]


def test_recipes_are_known_by_name() -> None:
    names = data.shipped_recipes()
    assert names["golden"] == data.RECIPES / "golden.yaml"
    assert {"debian", "golden", "parts/login"} <= set(names)
    assert [data.is_name(word) for word in ("golden", "parts/login", "golden.yaml", "./golden", "/golden")] == [
        True,
        True,
        False,
        False,
        False,
    ]

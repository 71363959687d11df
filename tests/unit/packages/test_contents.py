"""Packages made to write outside the directory that they are unpacked in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.build.bootstrap import prepare_root, write_sources
from builder.errors import FetchError
from builder.host.hashing import file_digest
from builder.packages.apt import Deb
from builder.packages.contents import require_contained
from builder.recipe.schema import Bootstrap
from builder.run import run

pytestmark = pytest.mark.tools


def package(at: Path, name: str, *, files: tuple[str, ...] = (), links: Mapping[str, str] | None = None) -> Path:
    """Build a package file with so many files and symbolic links."""
    tree = at / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@example.com>\nDescription: x\n"
    )
    for path in files:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("from a package\n")
    for path, target in (links or {}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).symlink_to(target)
    run(["dpkg-deb", "--root-owner-group", "-b", tree, at / f"{name}_1_arm64.deb"])
    shutil.rmtree(tree)
    return at / f"{name}_1_arm64.deb"


@pytest.mark.parametrize(
    "links",
    [
        {"usr/share/x": "{outside}"},
        {"usr/share/x": "../../../../../../../../../../../../{outside}"},
        {"usr/share/x": "y", "usr/share/y": "{outside}"},
        {"usr/share/x": "z -> w", "usr/share/z -> w": "{outside}"},
        {"usr/share/x": "x"},
    ],
)
def test_nothing_is_written_through_links_out_of_the_root(tmp_path: Path, links: dict[str, str]) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    made = {path: target.format(outside=outside) for path, target in links.items()}
    files = [package(tmp_path, "a-links", links=made), package(tmp_path, "b-file", files=("usr/share/x/evil",))]
    debs = [
        Deb(
            name=file.name.partition("_")[0],
            version="1",
            architecture="arm64",
            sha256=file_digest(file),
            size=file.stat().st_size,
            filename=f"pool/{file.name}",
        )
        for file in files
    ]
    with pytest.raises(FetchError, match="usr/share/x/evil lies behind a link"):
        prepare_root(root, debs, tmp_path)
    assert list(outside.iterdir()) == []


def test_what_distributions_do_is_let_through(tmp_path: Path) -> None:
    one = package(
        tmp_path,
        "one",
        files=("usr/bin/x", "usr/share/doc/real/a -> b", "usr/lib/arch/y"),
        links={"etc/x": "/usr/bin/x", "usr/share/doc/one": "real", "lib64": "usr/lib", "usr/lib/up": "../share"},
    )
    two = package(tmp_path, "two", files=("usr/share/doc/one/copyright", "lib64/z", "usr/lib/up/w", "bin/old"))
    require_contained([one, two], links={"bin": "usr/bin"})


def test_sources_are_written_into_the_root_whatever_its_links_say(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "sources.list.d").mkdir(parents=True)
    (outside / "sources.list").write_text("the host's own\n")
    (root / "etc").mkdir(parents=True)
    (root / "etc/apt").symlink_to(outside)
    write_sources(root, Bootstrap(distribution="debian", suite="trixie"), "Types: deb\n")
    assert sorted(path.name for path in outside.rglob("*")) == ["sources.list", "sources.list.d"]
    assert (outside / "sources.list").read_text() == "the host's own\n"

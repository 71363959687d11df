"""Images made to harm who reads them: names that lead out of the tree, two files of one name, odd block sizes.

Every way of reading an image meets them, in process and as a command. A tree outside that the images aim at is compared
before and after.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.host.hashing import file_digest
from builder.image.attach import Method
from builder.image.ingest import ingest
from builder.run import Completed, run
from tests.images import DEBIAN, MIB, Link, make_image
from tests.system.images import described
from tests.system.privacy import private_mounts

pytestmark = pytest.mark.root
PROJECT = Path(__file__).parents[2]
METHODS: tuple[Method, ...] = ("auto", "loop", "files")
PLACEHOLDER = b"0123456789"
COMMANDS = ("inspect", "diff", "boot", "explode", "build")
RECIPE = """\
name: onimage
base: {{image: {{path: {image}, sha256: {sha256}}}}}
boards: [pi4]
disk:
  boot: {{size: 40M, label: system-boot}}
  root: {{size: auto, slack: 16M, label: writable, identify: label}}
layers:
  - name: more
    steps:
      - run: {{script: "true"}}
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A tree of the host that images aim at: nothing in it may change."""
    outside = tmp_path / "canary"
    outside.mkdir()
    (outside / "shell").write_text("the host's own\n")
    return outside


def hostile(at: Path, kind: str, canary: Path) -> Path:
    """Make an image with one directory that no system makes."""
    to = "../" * 12 + str(canary).lstrip("/") + "/shell"
    stand_in = (PLACEHOLDER * 26)[: len(to)].decode()
    what: dict[str, tuple[dict[str, bytes | Link], bytes, bytes]] = {
        "link and directory": (
            {"etc/x": Link(target=str(canary)), "etc/y/shell": b"#!/bin/sh\necho owned\n"},
            b"\x01\x02y\x00",
            b"\x01\x02x\x00",
        ),
        "link and file": (
            {"etc/x": Link(target=f"{canary}/shell"), "etc/y": b"#!/bin/sh\necho owned\n"},
            b"\x01\x01y\x00",
            b"\x01\x01x\x00",
        ),
        "way up": ({f"etc/{stand_in}": b"#!/bin/sh\necho owned\n"}, stand_in.encode(), to.encode()),
        "two dots": ({"etc/..here": b"x"}, b"\x06\x01..here", b"\x02\x01..here"),
        "zero": ({"etc/a0b": b"x"}, b"\x03\x01a0b", b"\x03\x01a\0b"),
    }
    files, made, wanted = what[kind]
    modes = {**DEBIAN.modes, "etc/y": 0o4755, "etc/y/shell": 0o4755}
    root = {**DEBIAN.root, **files}
    image = make_image(at, replace(DEBIAN, root=root, modes=modes, mke2fs=("-O", "^metadata_csum")))
    content = image.read_bytes()
    assert content.count(made) == 1
    image.write_bytes(content.replace(made, wanted))
    return image


KINDS = ("link and directory", "link and file", "way up", "two dots", "zero")


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_of_reading_follows_names_out(tmp_path: Path, canary: Path, kind: str) -> None:
    image = hostile(tmp_path / "bad.img", kind, canary)
    before = described(canary)
    for method in METHODS:
        tree, scratch = tmp_path / f"{method}-tree", tmp_path / f"{method}-scratch"
        tree.mkdir()
        scratch.mkdir()
        with private_mounts(), pytest.raises(InputError, match="'/etc' holds"):
            ingest(image, tree, scratch=scratch, method=method)
        assert not list(tree.iterdir())
        assert not list(scratch.glob("files/root/*"))
    assert described(canary) == before


def test_an_image_does_not_choose_how_it_is_read(tmp_path: Path, canary: Path) -> None:
    """A kernel with pages of 4 KiB does not mount blocks of 64 KiB: that ends the matter, whatever else could read."""
    layout = replace(DEBIAN, root_size=64 * MIB, mke2fs=("-F", "-F", "-b", "65536", "-O", "^has_journal"))
    image = make_image(tmp_path / "wide.img", layout)
    for method in ("auto", "loop"):
        tree, scratch = tmp_path / f"{method}-tree", tmp_path / f"{method}-scratch"
        tree.mkdir()
        scratch.mkdir()
        with private_mounts(), pytest.raises(InputError, match="the kernel refuses the image"):
            ingest(image, tree, scratch=scratch, method=method)
        assert not list(tree.iterdir())
    assert [path.name for path in canary.iterdir()] == ["shell"]


def test_every_number_of_a_user_comes_along_by_every_way_of_reading(tmp_path: Path) -> None:
    """Those above 2³¹ too, as containers and Active Directory have them."""
    numbers = {"a": 1 << 31, "b": (1 << 32) - 2, "c": 65534, "d": 1 << 16}
    orders = [order for name, number in numbers.items() for order in owned(f"/etc/{name}", number)]
    root = {**DEBIAN.root, **{f"etc/{name}": b"x" for name in numbers}}
    image = make_image(tmp_path / "numbers.img", replace(DEBIAN, root=root, debugfs=tuple(orders)))
    for method in METHODS:
        tree, scratch = tmp_path / f"{method}-tree", tmp_path / f"{method}-scratch"
        tree.mkdir()
        scratch.mkdir()
        with private_mounts():
            ingest(image, tree, scratch=scratch, method=method)
        found = {name: (tree / "etc" / name).stat() for name in numbers}
        assert {name: (one.st_uid, one.st_gid) for name, one in found.items()} == {
            name: (number, number) for name, number in numbers.items()
        }


def owned(path: str, number: int) -> list[str]:
    """Return what debugfs is told so that a file belongs to a user and a group."""
    return [f"set_inode_field {path} {field} {number}" for field in ("uid", "gid")]


def test_a_number_that_no_user_has_is_refused(tmp_path: Path) -> None:
    """(uid_t)-1 is no number to chown(2): a file would be root's, and nobody told."""
    layout = replace(DEBIAN, root={**DEBIAN.root, "etc/a": b"x"}, debugfs=tuple(owned("/etc/a", (1 << 32) - 1)))
    image = make_image(tmp_path / "none.img", layout)
    for method in METHODS:
        tree, scratch = tmp_path / f"{method}-tree", tmp_path / f"{method}-scratch"
        tree.mkdir()
        scratch.mkdir()
        with private_mounts(), pytest.raises(InputError, match="/etc/a"):
            ingest(image, tree, scratch=scratch, method=method)


@pytest.mark.parametrize("command", ["explode", "inspect", "build"])
def test_directories_in_a_circle_are_refused_soon(tmp_path: Path, command: str) -> None:
    image = make_image(tmp_path / "circle.img", DEBIAN)
    content = bytearray(image.read_bytes())
    at = content.index(b"OVERLAYS   \x10")
    content[at + 20 : at + 22] = content[at + 26 : at + 28] = bytes(2)
    image.write_bytes(content)
    done = pibuild(command, image, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "its directories lead in a circle" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.seconds < 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses(tmp_path: Path, canary: Path, command: str) -> None:
    image = hostile(tmp_path / "bad.img", "link and directory", canary)
    before = described(canary)
    done = pibuild(command, image, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "'/etc' holds two names 'x'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.seconds < 10
    assert described(canary) == before


def pibuild(command: str, image: Path, at: Path) -> Completed:
    """Give an image to a command of pibuild."""
    words: dict[str, list[str | Path]] = {
        "inspect": ["inspect", image],
        "diff": ["diff", image, image],
        "boot": ["boot", "--check-only", image],
        "explode": ["explode", "--node", "yellow1", "--image", image, "--dest", at / "netboot"],
        "build": ["build", at / "onimage.yaml", "--output", at / "output"],
    }
    if command == "build":
        (at / "onimage.yaml").write_text(RECIPE.format(image=image, sha256=file_digest(image)))
    env = {"PIBUILD_CACHE": str(at / "cache"), "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    return run([sys.executable, "-m", "builder", *words[command]], env=env, cwd=PROJECT, check=False, timeout=60)

"""`explode --dry-run` makes every check of the real run, says the same and ends the same, and changes nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.inventory.load import load_inventory
from builder.run import Completed, run
from tests.images import DEBIAN as PLAIN
from tests.images import FIRMWARE, Layout, make_image
from tests.system.test_explode import PROJECT, Lab

pytestmark = pytest.mark.root
DEBIAN = replace(PLAIN, root={**PLAIN.root, "usr/share/zoneinfo/Europe/Athens": b"TZif"})


@dataclass(frozen=True, slots=True)
class Place:
    """An inventory that may be edited, an image that nobody has brought in, and a directory to boot from."""

    at: Path

    @property
    def cluster(self) -> Path:
        return self.at / "cluster.yaml"

    @property
    def image(self) -> Path:
        return self.at / "debian.img"

    @property
    def dest(self) -> Path:
        return self.at / "netboot"

    @property
    def lab(self) -> Lab:
        return Lab(load_inventory(self.cluster), self.dest)

    def make(self, layout: Layout) -> None:
        make_image(self.image, layout)
        shutil.rmtree(self.at / "debian.work", ignore_errors=True)

    def edit(self, old: str, new: str) -> None:
        text = self.cluster.read_text()
        assert old in text
        self.cluster.write_text(text.replace(old, new, 1))

    def explode(self, *words: str | Path, attach: str = "auto") -> Completed:
        """Run the command for a node; `auto` mounts the image, in a mount namespace of its own."""
        argv = [sys.executable, "-m", "builder", "explode", "--node", "green1", "--attach", attach]
        places: list[str | Path] = ["--cluster", self.cluster]
        if "--image" not in words:
            places += ["--image", self.image]
        if "--dest" not in words:
            places += ["--dest", self.dest]
        return run([*argv, *places, *words], cwd=PROJECT, check=False)

    def contents(self) -> dict[str, tuple[int, int]]:
        paths = [path for path in sorted(self.at.rglob("*")) if "__pycache__" not in path.parts]
        return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in paths}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "own").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    shutil.copy(PROJECT / "cluster.yaml", tmp_path / "own/cluster.yaml")
    made = Place(tmp_path / "own")
    made.make(DEBIAN)
    return made


def no_image(place: Place) -> tuple[str | Path, ...]:
    place.image.write_text("root:x:0:0::/root:/bin/sh\n" * 100)
    return ()


def another_image_than_published(place: Place) -> tuple[str | Path, ...]:
    (place.at / "published").mkdir()
    place.image.rename(place.at / "published/image.img")
    manifest = {"image": "image.img", "sha256": "0" * 64}
    (place.at / "published/manifest.json").write_text(json.dumps(manifest))
    return ("--image", place.at / "published")


def a_damaged_superblock(place: Place) -> tuple[str | Path, ...]:
    with place.image.open("r+b") as image:
        image.seek((1 << 20) + DEBIAN.boot_size + 1024 + 24)
        image.write(b"\xff" * 4)
    return ()


def a_name_that_leads_out(place: Place) -> tuple[str | Path, ...]:
    where = replace(DEBIAN, debugfs=("symlink xxxxxxx /", "mkdir aaaaaaa"))
    place.make(where)
    data = place.image.read_bytes()
    place.image.write_bytes(data.replace(b"xxxxxxx", b"../../x").replace(b"aaaaaaa", b"../../x"))
    return ()


def a_shared_root_without_its_script(place: Place) -> tuple[str | Path, ...]:
    place.edit("- {name: green1,", "- {name: green1, root: shared,")
    return ()


def boot_files_nowhere(place: Place) -> tuple[str | Path, ...]:
    place.make(replace(DEBIAN, root={**DEBIAN.root, "etc/fstab": b"none\n"}))
    return ()


def a_board_that_would_stop(place: Place) -> tuple[str | Path, ...]:
    boot = {name: content for name, content in DEBIAN.boot.items() if name not in FIRMWARE}
    place.make(replace(DEBIAN, boot=boot))
    return ()


def a_board_without_netboot(place: Place) -> tuple[str | Path, ...]:
    place.edit("- {name: green1,", "- {name: green1, board: zero2w,")
    return ()


def a_template_with_an_error(place: Place) -> tuple[str | Path, ...]:
    (place.at / "overlays/node/etc").mkdir(parents=True)
    (place.at / "overlays/node/etc/motd.j2").write_text("{{ no_such_value }}")
    return ()


def a_file_where_nodes_would_boot_from(place: Place) -> tuple[str | Path, ...]:
    place.dest.write_text("no directory")
    return ("--dest", place.dest / "below")


def a_root_that_is_gone(place: Place) -> tuple[str | Path, ...]:
    lab = place.lab
    lab.explode(lab.image("a"), "green1")
    lab.netboot.hold("green1", "0123456789ab-0123")
    return ()


def a_record_that_is_none(place: Place) -> tuple[str | Path, ...]:
    lab = place.lab
    (row,) = lab.explode(lab.image("a"), "green1")
    (lab.netboot.records / "green1" / f"{row.after}.json").write_text("{")
    return ()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (no_image, 2),
        (another_image_than_published, 2),
        (a_damaged_superblock, 2),
        (a_name_that_leads_out, 2),
        (boot_files_nowhere, 2),
        (a_shared_root_without_its_script, 2),
        (a_template_with_an_error, 2),
        (a_board_that_would_stop, 6),
        (a_board_without_netboot, 6),
        (a_file_where_nodes_would_boot_from, 3),
        (a_root_that_is_gone, 4),
        (a_record_that_is_none, 4),
    ],
)
def test_a_dry_run_fails_as_the_real_run_does(
    place: Place, fault: Callable[[Place], tuple[str | Path, ...]], code: int
) -> None:
    words = fault(place)
    before = place.contents()
    dry = place.explode(*words, "-n")
    assert place.contents() == before
    real = place.explode(*words)
    assert (dry.returncode, real.returncode) == (code, code), f"{dry.stderr}\n{real.stderr}"
    assert said(dry) == said(real)
    assert "Traceback" not in dry.stderr
    assert list((place.at.parent / "tmp").glob("*/dry-run*")) == []


def said(ended: Completed) -> list[str]:
    """Return the failure, without what went on before it and with one word for what would be and what is."""
    lines = ended.stderr.replace("the others would be done", "the others are done").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    return lines[first:]


@pytest.mark.parametrize("attach", ["auto", "files"])
def test_a_dry_run_of_a_new_image_says_what_becomes_of_it(place: Place, attach: str) -> None:
    before = place.contents()
    dry = json.loads(place.explode("-n", "--json", attach=attach).stdout)
    assert place.contents() == before
    real = json.loads(place.explode("--json", attach=attach).stdout)
    wanted = ("node", "image", "before", "way")
    assert [[row[key] for key in wanted] for row in dry] == [[row[key] for key in wanted] for row in real]
    assert (dry[0]["action"], dry[0]["after"]) == ("ingest and make", "")
    place.make(replace(DEBIAN, root={**DEBIAN.root, "etc/new": b"new"}))
    (dry,), (real,) = (json.loads(place.explode(*words, "--json", attach=attach).stdout) for words in (("-n",), ()))
    assert (dry["after"], dry["changed"]) == (real["after"], real["changed"])  # it has an identity by now

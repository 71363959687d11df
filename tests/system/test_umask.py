"""What commands make has the same modes whatever the caller's umask, and wrong modes of earlier ones are mended."""

from __future__ import annotations

import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.netboot.layout import Netboot
from builder.run import run
from tests.clusters import variant
from tests.images import DEBIAN, make_image
from tests.system.conftest import Small

pytestmark = pytest.mark.root
PROJECT = Path(__file__).parents[2]
ENV = {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}

SYSTEM = replace(DEBIAN, root={**DEBIAN.root, "usr/share/zoneinfo/Europe/Athens": b"tz"})


def under(umask: str, argv: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> None:
    run(["sh", "-c", f'umask {umask}; exec "$@"', "sh", *argv], cwd=cwd, env=env or ENV)


def modes(top: Path) -> dict[str, str]:
    """Return the modes of all but links, by path, whatever a root's name."""
    return {
        re.sub(r"[0-9a-f]{12}-[0-9a-f]{8}", "NAME", str(path.relative_to(top))): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in (top, *top.rglob("*"))
        if not path.is_symlink() and "backups" not in path.parts
    }


def test_what_nodes_boot_from_and_servers_read_has_the_same_modes_under_every_umask(tmp_path: Path) -> None:
    cluster, image = variant(tmp_path), make_image(tmp_path / "image", SYSTEM)
    made = {}
    for umask in ("022", "077", "000"):
        place = tmp_path / "made"
        words: list[str | Path] = ["explode", "--node", "yellow3", "--image", image, "--attach", "files"]
        program = [sys.executable, "-m", "builder"]
        under(umask, [*program, *words, "--cluster", cluster, "--dest", place / "netboot"], tmp_path)
        (place / "root").mkdir()
        under(umask, [*program, "services", "apply", "--cluster", cluster, "--root", place / "root"], tmp_path)
        under(umask, [*program, "services", "render", "--cluster", cluster, "-o", place / "rendered"], tmp_path)
        made[umask] = modes(place)
        place.rename(tmp_path / umask)
    assert made["077"] == made["022"]
    assert made["000"] == made["022"]
    assert made["022"]["netboot/tftp/boot/yellow3"] == "0o755"
    assert made["022"]["root/etc/pibuild"] == "0o755"


def test_directories_that_an_earlier_umask_closed_are_opened(tmp_path: Path) -> None:
    cluster, image = variant(tmp_path), make_image(tmp_path / "image", SYSTEM)
    netboot, root = Netboot(tmp_path / "netboot"), tmp_path / "root"
    root.mkdir()
    explode: list[str | Path] = ["explode", "--node", "yellow3", "--image", image, "--attach", "files", "--fresh"]
    for _ in range(2):
        run([sys.executable, "-m", "builder", *explode, "--cluster", cluster, "--dest", netboot.dest], cwd=PROJECT)
        run([sys.executable, "-m", "builder", "services", "apply", "--cluster", cluster, "--root", root], cwd=PROJECT)
        closed = [
            netboot.dest,
            netboot.tftp,
            netboot.tftp / "boot",
            netboot.tftp / "boot/yellow3",
            root / "etc/pibuild",
        ]
        assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in closed] == ["0o755"] * len(closed)
        for path in closed:
            path.chmod(0o700)


@pytest.mark.network
def test_an_image_is_the_same_to_the_bit_under_every_umask(small: Small, tmp_path: Path) -> None:
    """Built from nothing under 077, it is the image of 022; layers with the modes of another umask are made again."""
    engine = small.engine.cold(tmp_path)
    under("077", engine.argv("--offline"), engine.recipe.parent, engine.env)
    assert engine.build("--offline")["published"]["digest"] == small.digest
    assert not [path for path, mode in modes(engine.output).items() if mode not in ("0o755", "0o644")]
    last = next(key for key, name in engine.layers.items() if name == small.report["layers"][-1]["name"])
    (engine.cache / "layers" / last).chmod(0o700)
    (engine.cache / "layers" / last / "fs").chmod(0o700)
    report = engine.build("--offline")
    assert [layer["name"] for layer in report["layers"] if layer["made"]] == [small.report["layers"][-1]["name"]]
    assert report["published"]["digest"] == small.digest

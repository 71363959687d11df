"""What emulation costs: the same layers made with native tools and fully emulated, and packages installed natively.

The packages are downloaded before anything is measured. Times of layers are those that the build itself reports.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.builds import Bench, Result
from bench.measure import measure
from builder import console
from builder.run import find_tool

WAYS = ("native-tools", "full")
SUITE = "trixie"
# 80 packages with python, a kernel, and the making of an initramfs, each a layer
WORK = """\
name: work
base:
  bootstrap:
    distribution: debian
    suite: trixie
    include: [systemd-sysv, udev, kmod, initramfs-tools, zstd, ca-certificates]
boards: [pi4]
disk:
  boot: {size: 256M, label: bootfs, mount: /boot/firmware}
  root: {size: auto, slack: 15%, label: rootfs, identify: partuuid}
layers:
  - name: python
    steps:
      - packages: {install: [python3, python3-flask, gunicorn, podman, git, vim, fuse-overlayfs]}
  - name: kernel
    steps:
      - packages: {install: [linux-image-arm64]}
  - name: initramfs
    steps:
      - run: {script: update-initramfs -u}
"""
_ARM64_ONLY = re.compile(r"^(raspi-|linux-image-)")


def both_ways(bench: Bench, recipe: Path, ways: tuple[str, ...] = WAYS) -> Iterator[Result]:
    """Build a recipe each way with all packages here and no layer cached: a row for the whole and for every layer."""
    _build(bench, recipe, "auto")
    for way in ways:
        shutil.rmtree(bench.cache / "layers")
        with console.progress(f"{recipe.stem}, {way}"):
            seconds, report = _build(bench, recipe, way)
        yield Result(name=f"{recipe.stem}, {way}", seconds=seconds, note="downloads cached, image included")
        for layer in report["layers"]:
            yield Result(name=f"  {layer['name']}", seconds=layer["seconds"])
        yield Result(name="  publish", seconds=report["publish_seconds"])


def _build(bench: Bench, recipe: Path, way: str) -> tuple[float, dict[str, Any]]:
    shutil.rmtree(bench.output, ignore_errors=True)
    argv: list[str | Path] = [*bench.command, "build", recipe, "--json", "--emulation", way, "--output", bench.output]
    built = measure([*argv, *bench.options], env={"PIBUILD_CACHE": str(bench.cache)}, cwd=Path.cwd())
    report: dict[str, Any] = json.loads(built.stdout)
    return built.seconds, report


def packages_of(lock_text: str) -> list[str]:
    """Return the names of a lock's packages that an amd64 root can have too, the kernel replaced by amd64's."""
    names = re.findall(r"^ *- (\S+) \S+ \S+ [0-9a-f]{64} ", lock_text, re.MULTILINE)
    return [*sorted({name for name in names if not _ARM64_ONLY.match(name)}), "linux-image-amd64"]


def native_packages(bench: Bench) -> Result:
    """Install the packages of the last image for amd64, with nothing emulated: the speed to come close to."""
    (lock,) = bench.output.glob("*/latest/lock.yaml")
    names = packages_of(lock.read_text())
    archives = bench.directory / "archives"
    archives.mkdir(exist_ok=True)
    argv: list[str | Path] = [
        find_tool("mmdebstrap", package="mmdebstrap"),
        "--architectures=amd64",
        "--variant=essential",
        "--components=main,non-free-firmware",
        '--aptopt=Apt::Install-Recommends "false"',
        "--skip=download/empty,essential/unlink,cleanup/apt/cache",
        f'--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -a {archives}/. "$1/var/cache/apt/archives/"',
        f'--customize-hook=cp -u "$1"/var/cache/apt/archives/*.deb {archives}/',
        f"--include={','.join(names)}",
        SUITE,
        # not kept: an interrupted mmdebstrap leaves the host's /dev/shm mounted in its root, which nobody may then remove
        "/dev/null",
    ]
    for _ in ("with downloads", "without"):
        made = measure(argv)
    return Result(
        name="the same packages, amd64",
        seconds=made.seconds,
        memory=made.memory,
        note=f"mmdebstrap, {len(names)} packages, downloads cached, no image",
    )


def results(bench: Bench) -> Iterator[Result]:
    """Measure the recipe and the single pieces of work each way, and the recipe's packages natively."""
    bench.prepare()
    work = bench.directory / "work.yaml"
    work.write_text(WORK)
    yield from both_ways(bench, bench.directory / "bench.yaml")
    with console.progress("the same packages, amd64"):
        native = native_packages(bench)
    yield native
    yield from both_ways(bench, work)

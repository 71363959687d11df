"""What emulation costs: the same layers made with native tools and fully emulated, and the packages natively for amd64.

The packages are downloaded before anything is measured. Times of layers are those that the build itself reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.builds import Bench, Report
from bench.measure import Measured, measure
from bench.results import Result, ratio, row
from builder import console
from builder.host.scratch import remove_tree
from builder.run import find_tool

SUITE = "trixie"
# Pieces of work on top of the recipe: 80 packages with python, and the making of an initramfs. The recipe's own layer
# `kernel` is the third: a kernel package and nothing else.
PIECES = """\
name: pieces
extends: [{recipe}]
layers:
  - name: python
    steps:
      - packages:
          install: [python3, python3-flask, gunicorn, podman, git, vim, python3-requests, python3-yaml, python3-jinja2]
  - name: initramfs
    steps:
      - run: {{script: update-initramfs -u}}
"""
_PIECES = {"python": "80 packages with python", "initramfs": "update-initramfs -u"}
_ARM64_ONLY = re.compile(r"^(raspi-|linux-image-)")
_DEB = re.compile(r"^ *- (\S+) \S+ \S+ [0-9a-f]{64} ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root made from package files: the build, and what it says. `seconds` and `cpu` are without the image's."""

    measured: Measured
    cpu: float
    report: Report

    @property
    def seconds(self) -> float:
        """Seconds until the root was there."""
        return self.measured.seconds - float(self.report["publish_seconds"])

    def row(self, name: str, note: str) -> Result:
        """Return its row."""
        return Result(name=name, seconds=self.seconds, cpu=self.cpu, memory=self.measured.memory, note=note)


def make_root(bench: Bench) -> Root:
    """Build with package files and native tools here and nothing else: lists, resolution and layers anew."""
    if not (bench.cache / "archives").exists():
        with console.progress("cold build (brings the packages)"):
            bench.build(recipe=bench.recipe)
    forget(bench, "layers", "lists", "resolutions")
    with console.progress(f"{bench.recipe.stem}, native tools"):
        built, report = bench.build("--emulation", "native-tools", recipe=bench.recipe)
    forget(bench)
    image, _ = bench.build("--emulation", "native-tools", recipe=bench.recipe)
    return Root(measured=built, cpu=built.cpu - image.cpu, report=report)


def forget(bench: Bench, *names: str) -> None:
    """Remove parts of the cache, and every published image."""
    for directory in (bench.output, *(bench.cache / name for name in names)):
        if directory.exists():
            remove_tree(directory)


def emulation(bench: Bench) -> Iterator[Result]:
    """Build the recipe with native tools, both ways for comparison, and install its packages natively for amd64."""
    root = make_root(bench)
    layers = sum(layer["seconds"] for layer in root.report["layers"])
    note = "package files and native tools cached, no layer, no list"
    yield root.row("native tools: root", note)
    yield Result(name="  lists, resolving, opening", seconds=root.seconds - layers)
    yield from (Result(name=f"  {layer['name']}", seconds=layer["seconds"]) for layer in root.report["layers"])
    yield Result(name="native tools: image", seconds=root.report["publish_seconds"])
    with console.progress("the same packages, natively for amd64"):
        native = native_packages(bench)
    yield row("the same packages, amd64", native, note="mmdebstrap, kernel and initramfs included, no image")
    yield ratio("native tools / native amd64", root.seconds, native.seconds, most=1.5)
    yield ratio("  the same, processor time", root.cpu, native.cpu)
    forget(bench, "layers")
    with console.progress(f"{bench.recipe.stem}, both ways"):
        built, report = bench.build("--emulation", "native-tools", "--verify-emulation", recipe=bench.recipe)
    yield from both_ways(report, rest=root.seconds - layers)
    yield ratio("  processor time: full / native tools", built.cpu - root.measured.cpu, root.cpu)


def both_ways(report: Report, *, rest: float) -> Iterator[Result]:
    """Return the rows of a build that was verified. `rest` are the seconds that both ways take besides layers."""
    for layer in report["layers"]:
        yield ratio(f"  {layer['name']}: full / native tools", layer["full_seconds"], layer["seconds"])
    fast, full = (sum(layer[field] for layer in report["layers"]) for field in ("seconds", "full_seconds"))
    yield ratio("all layers: full / native tools", full, fast, least=6)
    both = rest + report["publish_seconds"]
    yield ratio("whole build with image: full / native tools", full + both, fast + both, least=6)
    yield Result(name="differences between the two", note=f"{len(report['differences'])}")


def pieces(bench: Bench) -> Iterator[Result]:
    """Measure single pieces of work each way: 80 packages with python, an initramfs."""
    recipe = bench.directory / "pieces.yaml"
    recipe.write_text(PIECES.format(recipe=bench.recipe.resolve()))
    with console.progress("80 packages, initramfs: native tools"):
        _, fast = bench.build("--emulation", "native-tools", recipe=recipe)
    layers = {layer["name"]: layer for layer in fast["layers"]}
    for name in _PIECES:
        remove_tree(bench.cache / "layers" / layers[name]["key"])
    with console.progress("80 packages, initramfs: full"):
        _, full = bench.build("--emulation", "full", recipe=recipe)
    slow = {layer["name"]: layer["seconds"] for layer in full["layers"]}
    for name, title in _PIECES.items():
        yield ratio(f"{title}: full / native tools", slow[name], layers[name]["seconds"])


def packages_of(lock_text: str) -> list[str]:
    """Return the names of a lock's packages, sorted."""
    return sorted(set(_DEB.findall(lock_text)))


def for_amd64(names: list[str]) -> list[str]:
    """Return those packages that an amd64 root can have too, the kernel replaced by amd64's."""
    return [*(name for name in names if not _ARM64_ONLY.match(name)), "linux-image-amd64"]


def lock_of(bench: Bench) -> str:
    """Return the text of the lock that the recipe was last built with."""
    return (bench.output / bench.recipe.stem / "latest/lock.yaml").read_text()


def native_packages(bench: Bench) -> Measured:
    """Install the packages of the recipe for amd64, with nothing emulated: the speed to come close to."""
    names = for_amd64(packages_of(lock_of(bench)))
    archives = bench.directory / "amd64"
    archives.mkdir(exist_ok=True)
    argv: list[str | Path] = [
        find_tool("mmdebstrap", package="mmdebstrap"),
        "--architectures=amd64",
        "--variant=essential",
        "--format=null",
        "--components=main,non-free-firmware",
        '--aptopt=Apt::Install-Recommends "false"',
        "--skip=download/empty,essential/unlink,cleanup/apt/cache",
        f'--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -a {archives}/. "$1/var/cache/apt/archives/"',
        f'--customize-hook=cp -u "$1"/var/cache/apt/archives/*.deb {archives}/',
        f"--include={','.join(names)}",
        SUITE,
        "/dev/null",
    ]
    measure(argv)  # with the downloads
    return measure(argv)

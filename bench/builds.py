"""What a build costs, through the command line that people use.

All benchmarks share one cache directory of their own and run in this order: cold first, then what the cache should
save. The recipe is the one asked for, with one small layer on top whose content is a variable, so that `--set` changes
the last layer and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Measured, measure, occupied
from bench.results import Result, row
from builder import console
from builder.host.scratch import remove_tree
from builder.image.open import open_image

_ON_TOP = """\
name: bench
extends: [{recipe}]
variables:
  bench_stamp: {{type: string, default: first, description: what the last layer says}}
layers:
  - name: bench
    steps:
      - files:
          - path: /etc/bench
            content: "{{{{ bench_stamp }}}}"
"""
_OPAQUE = "trusted.overlay.opaque"  # overlayfs: a directory that hides those of its name below
Report = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where one run of the benchmarks happens; `given` is an image to explode in place of the one built here."""

    directory: Path
    recipe: Path
    options: tuple[str, ...] = ()
    given: Path | None = None
    cluster: Path = Path("cluster.yaml")
    command: tuple[str, ...] = field(default=(sys.executable, "-m", "builder"))

    @property
    def cache(self) -> Path:
        """The cache of the builds; empty when the benchmarks begin."""
        return self.directory / "cache"

    @property
    def output(self) -> Path:
        """Where images are published."""
        return self.directory / "output"

    @property
    def on_top(self) -> Path:
        """The recipe with the layer on top."""
        return self.directory / "bench.yaml"

    def prepare(self) -> None:
        """Write the recipe with the layer on top."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.on_top.write_text(_ON_TOP.format(recipe=self.recipe.resolve()))

    def build(self, *more: str, recipe: Path | None = None) -> tuple[Measured, Report]:
        """Build, in a process of its own; return what it took and what it says. Raises CommandError when it fails."""
        argv = ["build", str(recipe or self.on_top), "--output", str(self.output), *self.options, *more, "--json"]
        built = self.pibuild(*argv)
        return built, json.loads(built.stdout)

    def pibuild(self, *words: str | Path) -> Measured:
        """Run pibuild with the cache of the benchmarks."""
        return measure([*self.command, *words], env={"PIBUILD_CACHE": str(self.cache)}, cwd=Path.cwd())

    def image(self) -> Path:
        """Return a published image, built now unless there is one."""
        if self.given:
            return self.given
        latest = self.output / "bench" / "latest"
        if not (latest.exists() and (self.cache / "layers").exists()):
            with console.progress("cold build (others need its cache)"):
                self.build()
        return latest


def cold(bench: Bench) -> Iterator[Result]:
    """Build with nothing cached: bootstrap, every package downloaded, every layer run, the image written."""
    for directory in (bench.cache, bench.output):
        if directory.exists():
            remove_tree(directory)
    built, report = bench.build()
    note = f"empty cache, downloads included; {phases(report)}"
    yield row("cold build", built, note=note)


def unchanged(bench: Bench) -> Iterator[Result]:
    """Build the same recipe again."""
    bench.image()
    built, _ = bench.build()
    yield row("no-change build", built, most_cpu=1)


def last_layer(bench: Bench) -> Iterator[Result]:
    """Build with one file of the last layer changed, to the finished and compressed image."""
    bench.image()
    built, report = bench.build("--set", "bench_stamp=second")
    note = f"to the compressed image; {phases(report)}"
    yield row("last-layer change", built, most=20, note=note)


def publish(bench: Bench) -> Iterator[Result]:
    """Build with every layer cached and no image there."""
    bench.image()
    shutil.rmtree(bench.output)
    built, _ = bench.build()
    yield row("publish alone", built, most_cpu=8, note="every layer cached")


def layers_only(bench: Bench) -> Iterator[Result]:
    """Build with everything fetched already and no layer cached: what building itself takes."""
    bench.image()
    remove_tree(bench.cache / "layers")
    shutil.rmtree(bench.output)
    built, report = bench.build()
    note = f"no layer cached; {phases(report)}"
    yield row("rebuild, downloads cached", built, note=note)


def disk(bench: Bench) -> Iterator[Result]:
    """Count what the cache and the published images take on disk after the builds above."""
    bench.image()
    for what, where in (("cache", bench.cache), ("published images", bench.output)):
        yield Result(name=f"disk: {what}", disk=occupied(where))


def parts(bench: Bench) -> Iterator[Result]:
    """Count what each layer brings into the image: its files that no later layer replaces or takes away."""
    bench.image()
    _, report = bench.build()
    names = [layer["name"] for layer in report["layers"]]
    sizes = shares([bench.cache / "layers" / layer["key"] / "fs" for layer in report["layers"]])
    for name, size in zip(names, sizes, strict=True):
        yield Result(name=f"in the image: {name}", disk=size, note=f"{size / 1e6:.1f} MB")


def initramfs(bench: Bench) -> Iterator[Result]:
    """Look at what every node that boots over the network loads before its kernel runs."""
    with open_image(bench.image()) as image:
        found = image.boot.find("/initrd.img") if image.boot else None
    if found is not None:
        note = f"{found.size / 1e6:.2f} MB, over TFTP at each boot"
        yield Result(name="initramfs", disk=found.size, most_disk=10_000_000, note=note)


def phases(report: Report) -> str:
    """Return the seconds of the phases of a build: the layers it made, the image, and the rest."""
    made = [layer for layer in report["layers"] if layer["made"]]
    layers = sum(layer["seconds"] for layer in made)
    rest = report["seconds"] - layers - report["publish_seconds"]
    return f"{len(made)} layers {layers:.1f} s, image {report['publish_seconds']:.1f} s, the rest {rest:.1f} s"


def shares(layers: Sequence[Path]) -> list[int]:
    """Return the bytes on disk that each of some overlay layers, the lowest first, has in the tree they make."""
    sizes: list[int] = []
    seen: set[str] = set()  # paths that a layer above decides: those below are not in the tree
    hidden: set[str] = set()  # paths below which nothing of lower layers shows
    for layer in reversed(layers):
        total, above = 0, (frozenset(seen), frozenset(hidden))
        inodes: set[int] = set()
        for directory, names, files in os.walk(layer):
            inside = os.path.relpath(directory, layer)
            if inside in above[1]:
                names.clear()
                continue
            if _OPAQUE in os.listxattr(directory):
                hidden.add(inside)
            for name in (*names, *files):
                path, facts = os.path.normpath(f"{inside}/{name}"), (Path(directory) / name).lstat()
                if path in above[0] or path in above[1]:
                    continue
                if not stat.S_ISDIR(facts.st_mode):
                    hidden.add(path)
                seen.add(path)
                if facts.st_ino not in inodes:
                    total += facts.st_blocks * 512  # stat(2): st_blocks counts 512 bytes
                    inodes.add(facts.st_ino)
        sizes.append(total)
    return sizes[::-1]

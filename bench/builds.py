"""What a build costs, through the command line that people use.

All benchmarks share one cache directory of their own and run in this order: cold first, then what the cache should
save. The recipe is the one asked for, with one small layer on top whose content is a variable, so that `--set` changes
the last layer and nothing else.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Measured, measure, occupied
from builder import console

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. `seconds` and `memory` (bytes, peak) are None where they are not what the benchmark measures."""

    name: str
    seconds: float | None = None
    memory: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where the builds of one run of the benchmarks happen."""

    directory: Path
    recipe: Path
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = field(default=(sys.executable, "-m", "builder"))

    @property
    def cache(self) -> Path:
        """The layer cache; empty when the benchmarks begin."""
        return self.directory / "cache"

    @property
    def output(self) -> Path:
        """Where images are published."""
        return self.directory / "output"

    def prepare(self) -> None:
        """Write the recipe with the layer on top."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "bench.yaml").write_text(_ON_TOP.format(recipe=self.recipe.resolve()))

    def build(self, *more: str) -> Measured:
        """Build, in a process of its own. Raises CommandError when it fails."""
        argv: list[str | Path] = [
            *self.command,
            "build",
            self.directory / "bench.yaml",
            "--output",
            self.output,
            *self.options,
            *more,
        ]
        return measure(argv, env={"PIBUILD_CACHE": str(self.cache)}, cwd=Path.cwd())


def cold(bench: Bench) -> Result:
    """Build with nothing cached: bootstrap, every package downloaded, every layer run, the image written."""
    built = bench.build()
    return Result(name="cold build", seconds=built.seconds, memory=built.memory, note="empty cache, downloads included")


def unchanged(bench: Bench) -> Result:
    """Build the same recipe again."""
    built = bench.build()
    return Result(name="no-change build", seconds=built.seconds, memory=built.memory, note="must stay under 5 s")


def last_layer(bench: Bench) -> Result:
    """Build with one file of the last layer changed."""
    built = bench.build("--set", "bench_stamp=second")
    return Result(name="last-layer change", seconds=built.seconds, memory=built.memory, note="one layer and publishing")


def publish(bench: Bench) -> Result:
    """Build with every layer cached and no image there."""
    shutil.rmtree(bench.output)
    built = bench.build()
    return Result(name="publish alone", seconds=built.seconds, memory=built.memory, note="every layer cached")


def layers_only(bench: Bench) -> Result:
    """Build with everything fetched already and no layer cached: what building itself takes."""
    shutil.rmtree(bench.cache / "layers")
    shutil.rmtree(bench.output)
    built = bench.build()
    return Result(name="rebuild, downloads cached", seconds=built.seconds, memory=built.memory, note="no layer cached")


def disk(bench: Bench) -> Result:
    """Count what the cache and the published images take on disk after the builds above."""
    cache, output = occupied(bench.cache), occupied(bench.output)
    return Result(name="disk used", note=f"cache {console.size(cache)}, published {console.size(output)}")


BENCHMARKS: dict[str, Callable[[Bench], Result]] = {
    "cold": cold,
    "unchanged": unchanged,
    "last-layer": last_layer,
    "publish": publish,
    "rebuild": layers_only,
    "disk": disk,
}


def results(bench: Bench, names: tuple[str, ...]) -> Iterator[Result]:
    """Run benchmarks in their order, the cold build always first because the others need its cache."""
    bench.prepare()
    if "cold" not in names and not bench.cache.exists():
        with console.progress("cold build (the others need its cache)"):
            cold(bench)
    for name, benchmark in BENCHMARKS.items():
        if name in names:
            with console.progress(name):
                result = benchmark(bench)
            yield result

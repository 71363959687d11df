"""`python -m bench`: measure builds and what becomes of images, and print a table; see `make bench`."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from bench import boot, builds, emulation, explode, peers, start
from bench.builds import Bench
from bench.results import COLUMNS, Result
from builder import __version__, console
from builder.errors import PibuildError
from builder.host.mounts import enter_namespaces
from builder.table import Table

Benchmark = Callable[[Bench], Iterable[Result]]
# in the order they run: cold first, as the others take what it leaves in the cache
ALWAYS: dict[str, Benchmark] = {
    "cold": builds.cold,
    "start": start.start,
    "unchanged": builds.unchanged,
    "resolving": start.resolving,
    "parts": builds.parts,
    "initramfs": builds.initramfs,
    "last-layer": builds.last_layer,
    "publish": builds.publish,
    "explode": explode.explode,
    "fleet": explode.fleet,
    "boot": boot.boot,
    "rebuild": builds.layers_only,
    "disk": builds.disk,
}
ALSO: dict[str, dict[str, Benchmark]] = {
    "emulation": {"emulation": emulation.emulation, "pieces": emulation.pieces},
    "peers": {"mkosi": peers.mkosi},
}
BENCHMARKS: dict[str, Benchmark] = {**ALWAYS, **ALSO["emulation"], **ALSO["peers"]}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option(
    "--recipe", type=click.Path(exists=True, path_type=Path), default=Path("recipes/golden.yaml"), show_default=True
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice(list(ALSO)),
    help="Also measure what emulation costs (most of an hour), or mkosi on the same task; repeatable.",
)
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Work here and keep it; default: thrown away."
)
@click.option("--image", type=click.Path(exists=True, path_type=Path), help="Explode this one, not one built for it.")
@click.option("--option", "options", multiple=True, help="One more option for every build; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")
def bench(  # noqa: PLR0913 - options are parameters
    *,
    names: tuple[str, ...],
    recipe: Path,
    also: tuple[str, ...],
    directory: Path | None,
    image: Path | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what builds of a recipe cost, and what follows: all benchmarks, or those named.

    Needs root and the package archive. One that fails is a row, and the next one runs.
    """
    enter_namespaces()
    work = directory or Path(tempfile.mkdtemp(prefix="pibuild-bench-", dir="/var/tmp"))
    chosen = names or (*ALWAYS, *(name for group in also for name in ALSO[group]))
    found: list[Result] = []
    failed: list[PibuildError] = []
    try:
        measured = Bench(directory=work, recipe=recipe, options=options, given=image)
        found += results(measured, chosen, failed)
    finally:
        if directory is None:
            shutil.rmtree(work)
        report(found, as_json=as_json)
    for error in failed:
        console.fail(error)
    sys.exit(max((error.exit_code for error in failed), default=0))


def results(bench: Bench, names: Iterable[str], failed: list[PibuildError]) -> Iterator[Result]:
    """Run benchmarks in their order; what fails becomes a row, and its error is added to `failed`."""
    bench.prepare()
    wanted = set(names)
    for name, benchmark in BENCHMARKS.items():
        if name not in wanted:
            continue
        try:
            console.note(f"{name} …")
            yield from benchmark(bench)
        except PibuildError as error:
            failed.append(error)
            yield Result(name=name, note=f"failed: {error.message.splitlines()[0]}")


def report(found: list[Result], *, as_json: bool) -> None:
    """Print what was found, with the machine and its load beside it."""
    load = ", ".join(f"{figure:.1f}" for figure in os.getloadavg())
    machine = f"{os.cpu_count()} processors, Linux {platform.release()} {platform.machine()}, pibuild {__version__}"
    if as_json:
        rows = [{**dataclasses.asdict(result), "met": result.met} for result in found]
        console.print_json({"machine": machine, "load": load, "results": rows})
        return
    table = Table(columns=COLUMNS, empty="nothing was measured")
    console.print_table(table, [result.cells() for result in found], title=f"{machine}, load {load}")


if __name__ == "__main__":
    bench()

"""`python -m bench`: measure builds and print a table; see `make bench`."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import click

from bench import emulation, peers
from bench.builds import BENCHMARKS, Bench, Result, results
from builder import __version__, console
from builder.errors import PibuildError


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option(
    "--recipe", type=click.Path(exists=True, path_type=Path), default=Path("recipes/golden.yaml"), show_default=True
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice(["emulation", "peers"]),
    help="Also measure what emulation costs (most of an hour), or other builders on the same task; repeatable.",
)
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Work here and keep it; default: thrown away."
)
@click.option("--option", "options", multiple=True, help="One more option for every build; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")
def bench(
    *,
    names: tuple[str, ...],
    recipe: Path,
    also: tuple[str, ...],
    directory: Path | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what builds of a recipe cost: all benchmarks, or those named.

    Needs root and the package archive. A full run takes as long as three cold builds.
    """
    work = directory or Path(tempfile.mkdtemp(prefix="pibuild-bench-", dir="/var/tmp"))
    found: list[Result] = []
    try:
        found += results(Bench(directory=work, recipe=recipe, options=options), names or tuple(BENCHMARKS))
        if "emulation" in also:
            found += emulation.results(Bench(directory=work / "emulation", recipe=recipe, options=options))
        if "peers" in also:
            found += peers.results(work / "peers")
    except PibuildError as error:
        console.fail(error)
        sys.exit(error.exit_code)
    finally:
        if directory is None:
            shutil.rmtree(work)
        _report(found, as_json=as_json)


def _report(found: list[Result], *, as_json: bool) -> None:
    machine = f"{os.cpu_count()} processors, Linux {platform.release()} {platform.machine()}, pibuild {__version__}"
    if as_json:
        console.print_json({"machine": machine, "results": [dataclasses.asdict(result) for result in found]})
        return
    rows = [
        (
            result.name,
            "" if result.seconds is None else f"{result.seconds:.1f}",
            "" if result.memory is None else console.size(result.memory),
            result.note,
        )
        for result in found
    ]
    console.print_table(("benchmark", "seconds", "peak memory", "note"), rows, title=machine)


if __name__ == "__main__":
    bench()

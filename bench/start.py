"""What a command takes before it does anything, the median of several, and what resolving packages takes."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.builds import Bench
from bench.measure import measure
from bench.results import Result, row

_TIMES = 9


def start(bench: Bench) -> Iterator[Result]:
    """Run commands that read the inventory at most, beside the interpreter that does nothing."""
    with tempfile.TemporaryDirectory(prefix="pibuild-bench-") as empty:
        cluster = ("--cluster", str(bench.cluster))
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "pibuild --version": [*bench.command, "--version"],
            "pibuild --help": [*bench.command, "--help"],
            "pibuild node list": [*bench.command, "node", "list", *cluster],
            "pibuild services diff": [*bench.command, "services", "diff", "--root", empty, *cluster],
        }
        for name, command in commands.items():
            env = {"PIBUILD_CACHE": str(bench.cache)}
            first, *others = [measure(command, env=env, cwd=Path.cwd()) for _ in range(_TIMES + 1)]
            cpu = statistics.median(one.cpu for one in others)
            note = f"{cpu * 1000:.0f} ms of processor time, the first time {first.cpu * 1000:.0f}"
            seconds = statistics.median(one.seconds for one in others)
            yield Result(name=name, seconds=seconds, cpu=cpu, memory=others[0].memory, note=note)


def resolving(bench: Bench) -> Iterator[Result]:
    """Resolve the recipe's packages with the archive's lists here and no answer remembered."""
    bench.image()
    shutil.rmtree(bench.cache / "resolutions", ignore_errors=True)
    resolved = bench.pibuild("lock", bench.on_top, "--output", bench.directory / "lock.yaml")
    note = "the lists are here, no answer is; start and reading are part of it"
    yield row("resolving", resolved, most_cpu=2, note=note)

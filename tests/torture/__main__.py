"""`python -m tests.torture 1000`: kill commands at random moments; print what was lost and left (`make torture`)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from builder import console
from builder.errors import PibuildError
from builder.host import mounts
from builder.run import run
from builder.table import Table
from tests import machine
from tests.torture import making, netboot, running
from tests.torture.harness import Left, Loss, Room, Victim, full, killed, measure, twice

VICTIMS: tuple[type[Victim], ...] = (
    netboot.Explode,
    netboot.Rollback,
    netboot.NodeGc,
    netboot.Apply,
    making.Build,
    making.Gc,
    making.Publish,
    making.Rotate,
    running.Boot,
    running.Lab,
    running.FleetServer,
)
# what a trial is: of a hundred
TRIALS: dict[str, tuple[int, Callable[[Room, Victim], None]]] = {
    "kills": (86, killed),
    "full": (7, full),
    "twice": (7, twice),
}


@click.command()
@click.argument("trials", type=click.IntRange(min=1))
@click.option("--seed", type=int, help="Repeat a run; default: another one each time.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([victim.name for victim in VICTIMS]),
    help="Only these commands; repeatable.",
)
@click.option("--size", default=1500, show_default=True, help="MiB of memory for the disk.")
def torture(trials: int, seed: int | None, only: tuple[str, ...], size: int) -> None:
    """Torture pibuild TRIALS times. The exit code is 1 when something was lost or left."""
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    mounts.enter_namespaces()
    machine.adopt_orphans()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pibuild-torture-") as name:
        home = Path(name)
        home.chmod(0o755)
        with _disk(home, size):
            room = Room(home=home, chance=random.Random(seed))  # noqa: S311 - moments, not secrets
            (home / "tmp").mkdir()
            os.environ |= {"TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
            try:
                _torture(room, trials, [victim for victim in VICTIMS if not only or victim.name in only])
            finally:
                _end_servers()
                _report(room, seed, time.monotonic() - begun)
    sys.exit(1 if room.faults else 0)


@contextlib.contextmanager
def _disk(at: Path, size: int) -> Iterator[None]:
    """Mount a small disk in memory. Logs of servers may still be open at its end: it goes with this process."""
    mounts.mount("torture", at, "tmpfs", data=f"size={size}m,mode=755")
    try:
        yield
    finally:
        run(["umount", "--lazy", at])


def _torture(room: Room, trials: int, victims: list[type[Victim]]) -> None:
    ready: dict[str, Victim] = {}
    for number in range(1, trials + 1):
        (chosen,) = room.chance.choices(victims, [victim.weight for victim in victims])
        kinds = {name: weight for name, (weight, _) in TRIALS.items() if name == "kills" or chosen.whole}
        (kind,) = room.chance.choices(list(kinds), list(kinds.values()))
        try:
            if chosen.name not in ready:
                ready[chosen.name] = chosen(room)  # type: ignore[call-arg]
                measure(room, ready[chosen.name])
            room.count(chosen.name, kind)
            TRIALS[kind][1](room, ready[chosen.name])
        except (Loss, Left, PibuildError) as fault:
            room.count(chosen.name, "left" if isinstance(fault, Left) else "lost")
            room.faults.append(f"{number}: {chosen.name}, {kind}: {fault}")
            console.note(room.faults[-1])
            ready.pop(chosen.name, None)  # begin anew: one fault is one
        if number % 50 == 0:
            console.note(f"{number} of {trials}: {len(room.faults)} faults")


def _end_servers() -> None:
    """Kill all that runs in these namespaces, of which this is the first process."""
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(-1, signal.SIGKILL)
            while True:
                os.wait()


def _report(room: Room, seed: int, seconds: float) -> None:
    columns = ("kills", "full", "twice", "lost", "left")
    rows = [(name, *(figures[column] for column in columns)) for name, figures in sorted(room.figures.items())]
    totals = [sum(figures[column] for figures in room.figures.values()) for column in columns]
    headings = ("command", "killed", "disk full", "two at once", "losses", "leftovers")
    console.print_table(Table(columns=headings, empty="nothing was run"), [*rows, ("all", *totals)])
    console.say(f"seed {seed}, {seconds:.0f} s")


if __name__ == "__main__":
    torture()

"""How a command is started, killed and looked after.

Everything happens in namespaces of the torture's own, on a small file system in memory: every process there is its own,
and the disk can be filled. Commands are forked from a process that has imported them: several a second.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.cli import main as cli
from tests import machine

WHOLE = 120.0  # seconds that a command may take to its end
FULL = 3
GO_ON = {"lab"}  # meant to go on without the command that began it: the next run takes it down


class Loss(Exception):  # noqa: N818 - what was found, not a fault of ours
    """Something that was there is gone or half, or the next run does not work."""


class Left(Exception):  # noqa: N818 - as above
    """Something stays behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line of pibuild, or another piece of work in a process of its own."""

    words: tuple[str | Path, ...] = ()
    work: Callable[[], None] | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self, log: Path) -> int:
        """Start it; return its process."""
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            self._be(log)
        return child

    def _be(self, log: Path) -> None:
        code = 70
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, opened in enumerate((nothing, descriptor, descriptor)):
                os.dup2(opened, number)
            os.environ.update(self.env)
            if self.work is not None:
                self.work()
                code = 0
            else:
                sys.argv = ["pibuild", *map(str, self.words)]
                cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001 - it is told in the log, and by the exit code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def to_its_end(self, log: Path, *, may: tuple[int, ...] = (0,)) -> int:
        """Run it; return its exit code. Raises Loss for one that is not expected."""
        return ended(self.start(log), log, may=may)


def ended(process: int, log: Path, *, may: tuple[int, ...]) -> int:
    """Wait for a command; return its exit code. Raises Loss for another one than `may` be."""
    until = time.monotonic() + WHOLE
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            kill(process)
            raise Loss(f"no end after {WHOLE:.0f} s: {said(log)}")
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    text = said(log)
    if code not in may or "Traceback" in text or "internal error" in text:
        raise Loss(f"exit code {code}: {text}")
    return code


def said(log: Path) -> str:
    """Return the end of what a command has said."""
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""


def kill(process: int) -> None:
    """SIGKILL a process, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)


class Victim(Protocol):
    """A command that is tortured. All raise Loss or Left for what is not as it should be."""

    name: str
    weight: int  # of all trials
    span: float  # seconds within which it is killed; 0 = as long as it takes
    whole: bool  # whether it is run with a full disk and twice at once, too

    def command(self) -> Command:
        """Make everything ready for a run that has something to do, and return the command."""

    def check(self) -> None:
        """Look, after a run that ended anyhow, whether all is as before or as it was to be."""

    def again(self) -> None:
        """Run to the end, and look whether all is as it was to be and nothing is left."""


@dataclass(slots=True, kw_only=True)
class Room:
    """Where it happens, and what happened: by victim, figures by what they count."""

    home: Path
    chance: random.Random
    servers: set[int] = field(default_factory=set)
    figures: dict[str, dict[str, int]] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    places: int = 0

    @property
    def log(self) -> Path:
        return self.home / "log"

    def place(self, name: str) -> Path:
        """Return a new directory."""
        self.places += 1
        made = self.home / f"{self.places}-{name}"
        made.mkdir()
        return made

    def count(self, name: str, what: str) -> None:
        """Count a trial, or what was found in one."""
        row = self.figures.setdefault(name, dict.fromkeys(("kills", "full", "twice", "lost", "left"), 0))
        row[what] += 1

    def processes(self) -> list[str]:
        """Return what runs in these namespaces beside this process and the servers."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            if int(entry.name) in {os.getpid(), *self.servers}:
                continue
            with contextlib.suppress(OSError, IndexError):
                stat = (entry / "stat").read_text(errors="replace").rpartition(")")
                if stat[2].split()[0] == "Z":
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(int(entry.name), os.WNOHANG)
                else:
                    found.append(f"process {entry.name} ({stat[0].partition('(')[2]})")
        return found

    def traces(self) -> frozenset[str]:
        """Return mounts, handlers, and loop devices of files here. Network namespaces of pibuild end with processes."""
        mine = (trace for trace in machine.traces() if trace.startswith(("mount", "loop", "binfmt")))
        return frozenset(trace for trace in mine if not trace.startswith("loop") or str(self.home) in trace)

    def check_left(self, before: frozenset[str]) -> None:
        """Raise Left for what a killed command leaves for longer than the kernel needs."""
        until = time.monotonic() + 5
        while left := [*self.processes(), *(self.traces() - before)]:
            if time.monotonic() > until:
                raise Left("; ".join(left))
            time.sleep(0.005)

    def check_swept(self) -> None:
        """Raise Left for private temporary directories that outlived the next run."""
        left = [str(path) for path in (self.home / "tmp").glob("pibuild-*/*")]
        if left:
            raise Left("; ".join(left))


def killed(room: Room, victim: Victim) -> None:
    """Kill a command at a random moment of its run, look, and run the next one."""
    command, before = victim.command(), room.traces()
    process = command.start(room.log)
    time.sleep(room.chance.uniform(0, room.took[victim.name]))
    kill(process)
    if victim.name not in GO_ON:
        room.check_left(before)
    victim.check()
    victim.again()
    room.check_left(before)


def twice(room: Room, victim: Victim) -> None:
    """Start a command twice at once: both end well, or one says that another one is at work."""
    command, before = victim.command(), room.traces()
    logs = [room.log.with_name(f"log.{number}") for number in range(2)]
    started = [command.start(log) for log in logs]
    codes = [ended(process, log, may=(0, 2, 3)) for process, log in zip(started, logs, strict=True)]
    if 0 not in codes:
        raise Loss(f"none of two at once ended well: {' | '.join(map(said, logs))}")
    victim.check()
    victim.again()
    room.check_left(before)


def full(room: Room, victim: Victim) -> None:
    """Run a command with little room on the disk: it ends well, or says so; then with room."""
    command, before = victim.command(), room.traces()
    with filled(room.home, leave=int(2 ** room.chance.uniform(10, 24))):
        code = command.to_its_end(room.home.parent / "log", may=(0, FULL))
        text = said(room.home.parent / "log")
        if code and "full" not in text and "No space left" not in text:
            raise Loss(f"a full disk is not told: {text}")
    victim.check()
    victim.again()
    room.check_left(before)


@contextlib.contextmanager
def filled(place: Path, *, leave: int) -> Iterator[None]:
    """Leave so many bytes on a disk while the block runs."""
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(place).free - leave))
    try:
        yield
    finally:
        filler.unlink()


def measure(room: Room, victim: Victim) -> None:
    """Run a victim to its end once, which says how long that takes."""
    if victim.span:
        room.took[victim.name] = victim.span
        return
    command = victim.command()
    begun = time.monotonic()
    command.to_its_end(room.log)
    room.took[victim.name] = time.monotonic() - begun
    victim.again()

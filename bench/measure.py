"""Run a command and measure it: seconds, processor time and memory with all its children; and what files occupy."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.run import Argv, run

_PERIOD = 0.1  # seconds between two looks at /proc
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a command took: `seconds` of the clock, `cpu` seconds of processors, which depend less on what else runs.

    `memory` is the largest sum of anonymous resident bytes of the process tree that was seen, without processes that
    ran before. The page cache and shared file pages are left out: they are the machine's to give back.
    """

    seconds: float
    cpu: float
    memory: int
    stdout: str


def measure(argv: Argv, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Measured:
    """Run a command to its end. Raises CommandError when it fails."""
    begun, used = time.monotonic(), _children()
    with _peak_memory() as peak:
        ended = run(argv, env=env, cwd=cwd)
    return Measured(seconds=time.monotonic() - begun, cpu=_children() - used, memory=peak[0], stdout=ended.stdout)


def _children() -> float:
    """Return the processor seconds of all children that have ended, and theirs."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def occupied(*paths: Path) -> int:
    """Return the bytes that files take on disk (not their length; a hard link once), through all directories."""
    seen: dict[tuple[int, int], int] = {}
    for path in paths:
        for directory, _, names in os.walk(path):
            for name in (".", *names):
                facts = os.lstat(Path(directory) / name)
                seen[facts.st_dev, facts.st_ino] = facts.st_blocks * 512  # stat(2): st_blocks counts 512 bytes
    return sum(seen.values())


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    peak, ended, others = [0], threading.Event(), _descendants(os.getpid())

    def watch() -> None:
        while not ended.wait(_PERIOD):
            peak[0] = max(peak[0], sum(map(_anonymous, _descendants(os.getpid()) - others)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended in between
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = set(), list(children.get(root, ()))
    while todo:
        found.add(process := todo.pop())
        todo += children.get(process, ())
    return found


def _anonymous(process: int) -> int:
    """Return a process's resident bytes less those of files: fields 2 and 3 of /proc/PID/statm, in pages (proc(5))."""
    try:
        resident, shared = (Path("/proc") / str(process) / "statm").read_text().split()[1:3]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * _PAGE

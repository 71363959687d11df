"""What a build's launcher log says: which programs ran emulated or native, how often and for how long.

A line is `SECONDS.MILLISECONDS PROCESS HOW …`; HOW is `native` or `qemu`, followed by the parent process, the program
and its first arguments, or `end`. Process numbers begin anew with every program run in a root (launcher.c writes it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_MOST = 20


@dataclass(slots=True, kw_only=True)
class Execution:
    """One program from its start to its end, or to the next one that the same process became. Times are seconds."""

    how: str
    program: str
    parent: int
    begun: float
    ended: float = 0.0
    children: float = 0.0

    @property
    def own(self) -> float:
        """The time in which none of its logged children ran."""
        return max(0.0, self.ended - self.begun - self.children)


@dataclass(slots=True, kw_only=True)
class Cost:
    """All executions of one program one way. `seconds` leaves out what their children took."""

    how: str
    program: str
    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Reader:
    running: dict[int, Execution] = field(default_factory=dict)
    finished: list[Execution] = field(default_factory=list)

    def end(self, process: int, now: float) -> None:
        ended = self.running.pop(process, None)
        if ended is not None:
            ended.ended = now
            self.finished.append(ended)
            if ended.parent in self.running:
                self.running[ended.parent].children += now - ended.begun


_LINE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})? [0-9]{1,10} \S+( [0-9]{1,10} |$)")


def read_log(path: Path) -> list[Execution]:
    """Return the executions in a log; one without an end (its root ended before) ends where the next root begins."""
    reader, now = _Reader(), 0.0
    for line in path.read_text(errors="replace").splitlines():
        words = line.split(" ", 5)
        if not _LINE.match(line):  # cut short; or written by a program of the root, which can reach the log
            continue
        now, process, how = float(words[0]), int(words[1]), words[2]
        if how != "end" and len(words) > 4 and words[3] == "1":  # noqa: PLR2004 - a root's first program: process 1 starts it
            for other in sorted(reader.running, reverse=True):
                reader.end(other, now)
        reader.end(process, now)
        if how != "end" and len(words) > 4:  # noqa: PLR2004 - a whole line
            reader.running[process] = Execution(how=how, program=words[4], parent=int(words[3]), begun=now)
    for other in sorted(reader.running, reverse=True):
        reader.end(other, now)
    return reader.finished


def sum_up(executions: Iterable[Execution]) -> list[Cost]:
    """Return what each program cost, the dearest first."""
    costs: dict[tuple[str, str], Cost] = {}
    for execution in executions:
        key = (execution.how, execution.program)
        cost = costs.setdefault(key, Cost(how=execution.how, program=execution.program))
        cost.count += 1
        cost.seconds += execution.own
    return sorted(costs.values(), key=lambda cost: -cost.seconds)


def rows(costs: Iterable[Cost]) -> list[tuple[str, str, str, str]]:
    """Return the dearest as rows of a table: how, program, count, seconds."""
    return [(c.how, c.program, str(c.count), f"{c.seconds:.1f}") for c in list(costs)[:_MOST]]

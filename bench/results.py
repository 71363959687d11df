"""What a benchmark found: rows with a figure each and, where there is one, the target beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure import Measured
from builder import console

COLUMNS = ("benchmark", "seconds", "cpu", "ratio", "target", "peak memory", "disk", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. Fields are None where they are not what the benchmark measures.

    `cpu` is processor seconds; `memory` (peak) and `disk` are bytes; `ratio` is what the name says over what. `least`
    and `most` are the target: of the ratio where there is one, else of the seconds; `most_cpu` and `most_disk` those of
    processor seconds and of bytes.
    """

    name: str
    seconds: float | None = None
    cpu: float | None = None
    ratio: float | None = None
    memory: int | None = None
    disk: int | None = None
    least: float | None = None
    most: float | None = None
    most_cpu: float | None = None
    most_disk: int | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The target as text, and whether it was missed; "" without one."""
        bounds = [f">= {self.least:g}"] if self.least is not None else []
        bounds += [f"<= {self.most:g}"] if self.most is not None else []
        bounds += [f"<= {self.most_cpu:g} cpu"] if self.most_cpu is not None else []
        bounds += [f"<= {self.most_disk / 1e6:g} MB"] if self.most_disk is not None else []
        return " ".join(bounds) + ("" if self.met in (True, None) else ", missed")

    @property
    def met(self) -> bool | None:
        """Whether the figure is within the target; None without a target or a figure."""
        figure = self.seconds if self.ratio is None else self.ratio
        bounds = ((figure, self.most), (self.cpu, self.most_cpu), (self.disk, self.most_disk))
        held = [found <= most for found, most in bounds if found is not None and most is not None]
        held += [figure >= self.least] if figure is not None and self.least is not None else []
        return all(held) if held else None

    def cells(self) -> Sequence[str]:
        """Return the row of a table, in the order of COLUMNS."""
        return (
            self.name,
            "" if self.seconds is None else f"{self.seconds:.1f}",
            "" if self.cpu is None else f"{self.cpu:.1f}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            self.target,
            "" if self.memory is None else console.size(self.memory),
            "" if self.disk is None else console.size(self.disk),
            self.note,
        )


def row(
    name: str,
    measured: Measured,
    *,
    most: float | None = None,
    most_cpu: float | None = None,
    disk: int | None = None,
    note: str = "",
) -> Result:
    """Return the row of a command that was measured."""
    return Result(
        name=name,
        seconds=measured.seconds,
        cpu=measured.cpu,
        memory=measured.memory,
        disk=disk,
        most=most,
        most_cpu=most_cpu,
        note=note,
    )


def ratio(name: str, over: float, under: float, *, least: float | None = None, most: float | None = None) -> Result:
    """Return the row of one duration over another, both in seconds."""
    return Result(name=name, ratio=over / under, least=least, most=most, note=f"{over:.1f} s / {under:.1f} s")

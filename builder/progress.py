"""What goes on: pieces of work within each other, the step they are at, and transfers with their rate.

Nothing here prints: `console` shows it as one line on a terminal, as lines with times in a log, or as events in JSON
(docs/terminal.md).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


def size(count: float) -> str:
    """Return a byte count for people, in powers of 1024: `1.2 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":  # noqa: PLR2004 - the base of the units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """Return a time for people: `42 s`, `3 min 5 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004 - seconds of an hour
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far a transfer is: bytes, bytes a second, seconds; None is what nobody knows."""

    received: int
    total: int | None
    rate: float | None
    remaining: float | None

    def words(self) -> str:
        """Return them for people."""
        parts = [f"{size(self.received)} of {size(self.total)}" if self.total else size(self.received)]
        parts += [f"{size(self.rate)}/s"] if self.rate else []
        parts += [f"{duration(self.remaining)} left"] if self.remaining is not None else []
        return ", ".join(parts)


@dataclass(slots=True, kw_only=True)
class Transfer:
    """Bytes on their way. `measure` says how many have come; whoever gets them sets `total` when it is known."""

    what: str
    measure: Callable[[], int]
    total: int | None = None
    begun: float = field(default_factory=time.monotonic)
    before: int = 0

    def figures(self) -> Figures:
        """Return how far it is. A file that was moved to its place counts as whole."""
        try:
            received = self.measure()
        except (OSError, ValueError):  # the file has its final name, or is closed: the end of the transfer
            received = self.total or self.before
        seconds = time.monotonic() - self.begun
        rate = (received - self.before) / seconds if seconds > 0.5 and received > self.before else None  # noqa: PLR2004
        left = (self.total - received) / rate if rate and self.total and self.total >= received else None
        return Figures(received=received, total=self.total, rate=rate, remaining=left)


@dataclass(slots=True, kw_only=True)
class Piece:
    """A piece of work: what, since when, which of how many (0: one alone), and the step it is at."""

    what: str
    number: int = 0
    of: int = 0
    begun: float = field(default_factory=time.monotonic)
    step: str = ""

    @property
    def name(self) -> str:
        """`layer 3 of 12, kernel`."""
        first, _, rest = self.what.partition(" ")
        return f"{first} {self.number} of {self.of}, {rest}" if self.of else self.what


@dataclass(slots=True)
class Work:
    """All that goes on now. Safe to be read by one thread while others change it."""

    begun: float = field(default_factory=time.monotonic)
    pieces: list[Piece] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.begun

    @contextlib.contextmanager
    def piece(self, piece: Piece) -> Iterator[Piece]:
        """Have a piece of work going on for the block."""
        with self.lock:
            self.pieces.append(piece)
        try:
            yield piece
        finally:
            with self.lock:
                self.pieces.remove(piece)

    @contextlib.contextmanager
    def transfer(self, transfer: Transfer) -> Iterator[Transfer]:
        """Have a transfer going on for the block."""
        with self.lock:
            self.transfers.append(transfer)
        try:
            yield transfer
        finally:
            with self.lock:
                self.transfers.remove(transfer)

    def on_their_way(self) -> list[tuple[str, Figures]]:
        """Return the transfers that go on, and how far they are."""
        with self.lock:
            going = list(self.transfers)
        return [(each.what, each.figures()) for each in going]

    def line(self) -> str:
        """Return all of it on one line."""
        with self.lock:
            pieces = list(self.pieces)
        parts = []
        if pieces:
            current = pieces[-1]
            parts = [current.name, *([current.step] if current.step else [])]
            parts.append(duration(time.monotonic() - current.begun))
        parts += [f"{what} {figures.words()}" for what, figures in self.on_their_way()]
        return " · ".join(parts)

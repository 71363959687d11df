"""The one module that prints.

Results and JSON go to stdout; progress, notes and failures to stderr. Nothing is interpreted as markup: a path with
brackets is printed as it is. When stderr is no terminal, progress becomes plain lines with times, or events in JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TextIO

from builder.errors import PibuildError
from builder.printable import one_line, printable
from builder.progress import Piece, Transfer, Work, size
from builder.table import Table, in_full, laid_out

__all__ = [
    "begin",
    "everything_shown",
    "fail",
    "note",
    "passed",
    "print_json",
    "print_table",
    "progress",
    "say",
    "say_failures_as_json",
    "show_progress",
    "size",
    "step",
    "transfer",
    "warn",
    "working",
]

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251 - the one place

Way = Literal["auto", "plain", "json"]
_LINES = {"note", "warning", "failed"}  # without a time before them
_EVERY = {"json": 1.0, "plain": 30.0, "auto": 30.0}  # seconds between two reports of how far work is


@dataclasses.dataclass(slots=True)
class _Shown:
    """How this process shows what goes on. `going`: something keeps it up to date."""

    way: Way = "auto"
    json_failures: bool = False
    going: bool = False
    wide: bool = False


_SHOWN, _WORK = _Shown(), Work()


@functools.cache
def _terminal(*, errors: bool) -> Console:
    """Return what draws on a terminal; a third of the start of a command, so only where there is one."""
    from rich.console import Console  # noqa: TID251 - the one place

    return Console(stderr=errors, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print(text: str, stream: TextIO, style: str = "") -> None:
    text = printable(text)
    if stream.isatty():
        _terminal(errors=stream is sys.stderr).print(text, style=style or None)
        return
    stream.write(f"{text}\n")
    stream.flush()


def begin() -> None:
    """Forget how an earlier command of this process showed things, and count its time from now."""
    _SHOWN.way, _SHOWN.json_failures, _SHOWN.wide = "auto", False, False
    _WORK.begun = time.monotonic()


def say(text: str) -> None:
    """Print a result line on stdout."""
    _print(text, sys.stdout)


def note(text: str) -> None:
    """Print a line about what goes on, on stderr."""
    _tell("note", {"text": text}, text)


def warn(text: str) -> None:
    """Print a warning that nobody should miss, on stderr."""
    _tell("warning", {"text": text}, f"warning: {text}", style="yellow")


def fail(error: PibuildError) -> None:
    """Print a failure and its hint, on stderr."""
    _tell("failed", {"error": error.as_json()}, f"error: {error}", style="red")


def print_json(value: Any) -> None:
    """Print a value for programs on stdout: indented JSON, keys in the order given."""
    stream = sys.stdout
    stream.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(table: Table, rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print rows for people on stdout; a table without any is its words for that.

    On a terminal no value is broken: columns are left out, or rows become blocks. In a file, in a pipe and after
    `everything_shown` every row is one line, however long.
    """
    if not rows:
        say(f"{title}: {table.empty}" if title else table.empty)
        return
    narrow = sys.stdout.isatty() and not _SHOWN.wide
    width = _terminal(errors=False).width if narrow else None
    lines, left_out = (in_full(table, rows), ()) if width is None else laid_out(table, rows, width)
    say("\n".join([title, *lines] if title else lines))
    if left_out:
        note(f"not shown: {', '.join(left_out)} (--wide)")


def everything_shown() -> None:
    """From now on tables have all their columns, however narrow the terminal is."""
    _SHOWN.wide = True


def show_progress(way: Way) -> None:
    """Choose how progress is shown from now on: by what stderr is, as lines, or as JSON for programs."""
    _SHOWN.way = way


def say_failures_as_json() -> None:
    """From now on a failure is an event in JSON on stderr."""
    _SHOWN.json_failures = True


@contextlib.contextmanager
def progress(what: str, *, number: int = 0, of: int = 0) -> Iterator[None]:
    """Show that a piece of work goes on, number `number` of `of`; on leaving, one line with the seconds it took.

    Call it with one thread: what is shown is brought up to date by another one until the outermost block is left.
    """
    piece = Piece(what=what, number=number, of=of)
    with _WORK.piece(piece), _kept_up_to_date():
        _tell("begin", {"what": what, **_numbered(piece)}, f"{piece.name} …", terminal=False)
        yield
    seconds = time.monotonic() - piece.begun
    _tell("end", {"what": what, **_numbered(piece), "seconds": round(seconds, 3)}, f"{piece.name}: {seconds:.1f} s")


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Keep what is shown up to date between the pieces of work in the block."""
    with _kept_up_to_date():
        yield


def passed(what: str, why: str, *, number: int = 0, of: int = 0) -> None:
    """Say that a piece of work need not be done, and why."""
    piece = Piece(what=what, number=number, of=of)
    _tell("passed", {"what": what, **_numbered(piece), "why": why}, f"{piece.name}: {why}")


def step(what: str) -> None:
    """Say at which step the current piece of work is."""
    if _WORK.pieces:
        piece = _WORK.pieces[-1]
        piece.step = what
        _tell("step", {"what": piece.what, "step": what}, f"{piece.name}: {what}", terminal=False)


@contextlib.contextmanager
def transfer(what: str, measure: Callable[[], int], *, total: int | None = None) -> Iterator[None]:
    """Show how many bytes have come, for the block. `measure` is asked by another thread, and may raise OSError."""
    with _WORK.transfer(Transfer(what=what, measure=measure, total=total, before=measure())), _kept_up_to_date():
        yield


def _numbered(piece: Piece) -> dict[str, int]:
    return {"number": piece.number, "of": piece.of} if piece.of else {}


def _tell(event: str, facts: Mapping[str, Any], line: str, *, terminal: bool = True, style: str = "") -> None:
    """Show something that happened: an event for programs; a line for people, on a terminal where it is to stay."""
    if _SHOWN.way == "json" or (event == "failed" and _SHOWN.json_failures):
        text = json.dumps({"event": event, "elapsed": round(_WORK.elapsed, 3), **facts}, default=str)
        stream = sys.stderr
        stream.write(f"{text}\n")
        stream.flush()
    elif event in _LINES:
        _print(line, sys.stderr, style=style)
    elif _on_terminal():
        if terminal:
            _print(line, sys.stderr)
    else:
        _print(f"[{_WORK.elapsed:7.1f} s] {line}", sys.stderr)


def _on_terminal() -> bool:
    return _SHOWN.way == "auto" and sys.stderr.isatty()


@contextlib.contextmanager
def _kept_up_to_date() -> Iterator[None]:
    if _SHOWN.going:
        yield
        return
    _SHOWN.going = True
    try:
        with _live_line() if _on_terminal() else _repeated():
            yield
    finally:
        _SHOWN.going = False


def _live_line() -> AbstractContextManager[object]:
    from rich.live import Live  # noqa: TID251 - the one place
    from rich.spinner import Spinner  # noqa: TID251 - the one place
    from rich.text import Text  # noqa: TID251 - the one place

    spinner = Spinner("dots")

    def line() -> Spinner:
        spinner.update(text=Text(one_line(_WORK.line()), no_wrap=True, overflow="ellipsis"))
        return spinner

    return Live(get_renderable=line, console=_terminal(errors=True), transient=True, refresh_per_second=8)


@contextlib.contextmanager
def _repeated() -> Iterator[None]:
    """Say how far transfers are, every second to programs, and every half minute how far all is to people."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_EVERY[_SHOWN.way]):
            if _SHOWN.way != "json":
                _tell("still", {}, _WORK.line())
                continue
            for what, figures in _WORK.on_their_way():
                _tell("transfer", {"what": what, **dataclasses.asdict(figures)}, "")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

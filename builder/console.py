"""The one module that prints.

Results and JSON go to stdout; progress, notes and failures to stderr. Nothing is interpreted as markup: a path with
brackets is printed as it is. When stderr is no terminal, progress becomes plain lines.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from builder.errors import PibuildError
from builder.table import Table, in_full, laid_out

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251 - the one place

_WIDE: ContextVar[bool] = ContextVar("wide", default=False)
# what moves a terminal's cursor, or begins an order to it, is not printed (ECMA-48: C0 but for tab and newline, C1)
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))


@functools.cache
def _terminal(*, errors: bool) -> Console:
    """Return what draws on a terminal; a third of the start of a command, so only where there is one."""
    from rich.console import Console  # noqa: TID251 - the one place

    return Console(stderr=errors, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print(text: str, stream: TextIO, style: str = "") -> None:
    text = text.translate(_CONTROL)
    if stream.isatty():
        _terminal(errors=stream is sys.stderr).print(text, style=style or None)
        return
    stream.write(f"{text}\n")
    stream.flush()


def say(text: str) -> None:
    """Print a result line on stdout."""
    _print(text, sys.stdout)


def note(text: str) -> None:
    """Print a line about what goes on, on stderr."""
    _print(text, sys.stderr)


def warn(text: str) -> None:
    """Print a warning that nobody should miss, on stderr."""
    _print(f"warning: {text}", sys.stderr, style="yellow")


def fail(error: PibuildError) -> None:
    """Print a failure and its hint, on stderr."""
    _print(f"error: {error}", sys.stderr, style="red")


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
    narrow = sys.stdout.isatty() and not _WIDE.get()
    width = _terminal(errors=False).width if narrow else None
    lines, left_out = (in_full(table, rows), ()) if width is None else laid_out(table, rows, width)
    say("\n".join([title, *lines] if title else lines))
    if left_out:
        note(f"not shown: {', '.join(left_out)} (--wide)")


def everything_shown() -> None:
    """From now on tables have all their columns, however narrow the terminal is."""
    _WIDE.set(True)


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """Show that a long piece of work goes on; on leaving, one line with the seconds it took."""
    begun = time.monotonic()
    if sys.stderr.isatty():
        from rich.text import Text  # noqa: TID251 - the one place

        with _terminal(errors=True).status(Text(f"{doing} …")):
            yield
    else:
        note(f"{doing} …")
        yield
    note(f"{doing}: {time.monotonic() - begun:.1f} s")


def size(count: int) -> str:
    """Return a byte count for people, in powers of 1024: `1.2 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":  # noqa: PLR2004 - the base of the units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError

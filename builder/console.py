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
from typing import TYPE_CHECKING, Any, TextIO

from builder.errors import PibuildError

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251 - the one place

_CONTROL = dict.fromkeys((7, 8, 11, 12, 13))  # what moves a terminal's cursor is not printed


@functools.cache
def _terminal(*, errors: bool) -> Console:
    """Return what draws on a terminal; a third of the start of a command, so only where there is one."""
    from rich.console import Console  # noqa: TID251 - the one place

    return Console(stderr=errors, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print(text: str, stream: TextIO, style: str = "") -> None:
    if stream.isatty():
        _terminal(errors=stream is sys.stderr).print(text, style=style or None)
        return
    stream.write(f"{text.translate(_CONTROL)}\n")
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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print rows for people on stdout. Cells named ok/failed and the like are left to the words, not colours alone.

    In a file or a pipe every row is one line, however long.
    """
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
        say("\n".join([title, *lines] if title else lines))
        return
    from rich.table import Table  # noqa: TID251 - the one place
    from rich.text import Text  # noqa: TID251 - the one place

    heading = Text(title) if title else None
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in cells[0]:
        table.add_column(Text(column), overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    _terminal(errors=False).print(table, soft_wrap=False)


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

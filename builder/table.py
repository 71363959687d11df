"""How rows lie on a terminal: as a table where they fit, in blocks where they do not. No value is ever broken.

Between words a column of prose may go on in the next line. What else is too wide loses columns, those first that its
table names as dispensable; where that is not enough, every row becomes a block of `column  value` lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from builder.printable import one_line

GAP = 2
_PROSE = 24  # narrower prose is harder to read than a block
Row = Sequence[object]
_Widths = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its columns, and what of it a narrow terminal may change.

    `drop` are columns that are left out, in that order, where not all fit; `prose` are sentences, which may be wrapped
    between words; `empty` is what is said in its place when there are no rows.
    """

    columns: tuple[str, ...]
    empty: str
    drop: tuple[str, ...] = ()
    prose: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = {*self.drop, *self.prose} - set(self.columns)
        if unknown or self.columns[0] in self.drop:
            raise ValueError(f"no such columns, or the first one: {unknown or self.columns[0]}")


def in_full(table: Table, rows: Sequence[Row]) -> list[str]:
    """Return the heading and one line a row, however long."""
    cells = [table.columns, *(tuple(map(_cell, row)) for row in rows)]
    return [_line(row, _widths(cells)) for row in cells]


def laid_out(table: Table, rows: Sequence[Row], width: int) -> tuple[list[str], tuple[str, ...]]:
    """Return lines of at most `width` characters, longer values apart, and the columns that were left out."""
    cells = [tuple(map(_cell, row)) for row in rows]
    for count in range(len(table.drop) + 1):
        left_out = table.drop[:count]
        kept = [index for index, name in enumerate(table.columns) if name not in left_out]
        shown = [tuple(row[index] for index in kept) for row in (table.columns, *cells)]
        widths = _fitted(shown, table.prose, width)
        if widths:
            return [line for row in shown for line in _wrapped(row, widths)], left_out
    return _blocks(table, cells, width), ()


def _cell(value: object) -> str:
    """Return a value on one line: a path is told whole, of a text what would move the cursor is a blank."""
    if isinstance(value, PurePath):
        return one_line(value)
    return one_line(" ".join(str(value).splitlines()).replace("\t", " "))


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _line(row: Sequence[str], widths: _Widths) -> str:
    return (" " * GAP).join(map(str.ljust, row, widths)).rstrip()


def _fitted(rows: Sequence[Sequence[str]], prose: Sequence[str], width: int) -> list[int]:
    """Return the columns' widths, prose made as narrow as it has to be; [] where they do not fit."""
    widths = _widths(rows)
    for index, name in enumerate(rows[0]):
        over = sum(widths) + GAP * (len(widths) - 1) - width
        if over > 0 and name in prose:
            longest = max((len(word) for row in rows for word in row[index].split()), default=0)
            least = min(widths[index], max(longest, _PROSE))
            widths[index] = max(least, widths[index] - over)
    return widths if sum(widths) + GAP * (len(widths) - 1) <= width else []


def _wrapped(row: Sequence[str], widths: _Widths) -> list[str]:
    parts = [_words(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = max(map(len, parts))
    padded = [[*part, *[""] * (lines - len(part))] for part in parts]
    return [_line(line, widths) for line in zip(*padded, strict=True)]


def _words(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(table: Table, rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a block a row: the first value as its heading, then the others that say something, each with its name."""
    label = max((len(name) for name in table.columns[1:]), default=0) + GAP
    lines = []
    for row in rows:
        lines.append(row[0])
        for name, value in zip(table.columns[1:], row[1:], strict=True):
            if not value:
                continue
            room = width - GAP - label
            parts = _words(value, room) if name in table.prose and room >= _PROSE else [value]
            if max(map(len, parts)) <= room:
                first, *more = parts
                lines += [f"{'':{GAP}}{name:{label}}{first}", *(f"{'':{GAP + label}}{line}" for line in more)]
            else:  # a line of its own, from its beginning where it needs that
                indent = 2 * GAP if len(value) + 2 * GAP <= width else 0
                lines += [f"{'':{GAP}}{name}", " " * indent + value]
    return [line.rstrip() for line in lines]

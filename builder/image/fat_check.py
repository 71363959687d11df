"""Check that the directories of a FAT file system form no circle, before mtools follows them.

A directory that leads back to one above it, or to itself, is followed by every reader until a disk is full. Here each
cluster of a directory is seen once, and what files say of their sizes counts together: some hundred kilobytes are read.
The format is Microsoft's "FAT: General Overview of On-Disk Format" 1.03.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from builder.errors import InputError, Problem

_DEEPEST = 64  # directories; a path has 260 characters at the most
_MOST = 50_000  # names; the biggest boot partition of a distribution has some 500
_MOST_BYTES = 64 << 20  # of directories: those many names, the long ones' parts included
_CIRCLE = "its directories lead in a circle"
_ENTRY, _FIRST = 32, 2  # bytes of a name; the number of the first cluster
_DELETED, _LABEL, _DIRECTORY = 0xE5, 0x08, 0x10
_FAT12, _FAT16 = 4085, 65525  # fewer clusters than that
_HINT = "no system makes such a file system: do not use this image, or fetch it again"


class NoEndError(InputError):
    """What would be followed for ever, or until a disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Where a FAT file system has what, in bytes from its beginning; clusters are numbered from 2."""

    bits: int
    fat: int
    top: int
    top_size: int
    top_cluster: int
    data: int
    cluster: int
    clusters: int

    @property
    def size(self) -> int:
        """Of all content."""
        return self.clusters * self.cluster


@dataclass(slots=True, kw_only=True)
class _Walk:
    """A walk through the directories: what was seen so far."""

    file: IO[bytes]
    offset: int
    shape: _Shape
    name: str
    seen: set[int] = field(default_factory=set)
    names: int = 0
    content: int = 0

    def run(self) -> None:
        """Look into every directory."""
        pending = [(0, 0)]
        while pending:
            first, depth = pending.pop()
            if depth > _DEEPEST:
                raise self.problem("its directories lie too deep within each other")
            pending += [(inner, depth + 1) for inner in self.directories(first)]

    def directories(self, first: int) -> Iterator[int]:
        """Yield the first clusters of a directory's directories, and count what else it holds."""
        for at in range(0, len(entries := self.content_of(first)) - _ENTRY + 1, _ENTRY):
            kind, attributes = entries[at], entries[at + 11]
            if kind == 0:
                return
            if kind == _DELETED or attributes & _LABEL or kind == ord("."):  # a long name's parts are labels, too
                continue
            high, low, size = struct.unpack_from("<H4xHI", entries, at + 20)
            self.names += 1
            if self.names > _MOST:
                raise self.problem(f"it has more than {_MOST} names")
            if attributes & _DIRECTORY:
                inner = low | (high << 16 if self.shape.bits == 32 else 0)  # noqa: PLR2004 - FAT32
                if inner == 0:  # the top
                    raise self.problem(_CIRCLE)
                yield inner
                continue
            self.content += size
            if self.content > self.shape.size:
                raise self.problem("its files are, all in all, bigger than it is")

    def content_of(self, first: int) -> bytes:
        """Return a directory's entries; 0 is the top."""
        if first == 0 and self.shape.top_size:
            return self.read(self.shape.top, self.shape.top_size)
        first = first or self.shape.top_cluster
        size = self.shape.cluster
        return b"".join(self.read(self.shape.data + (at - _FIRST) * size, size) for at in self.chain(first))

    def chain(self, cluster: int) -> Iterator[int]:
        """Yield the clusters of a directory. Raises InputError for one that a directory had before."""
        while _FIRST <= cluster < self.shape.clusters + _FIRST:
            if cluster in self.seen:
                raise self.problem(_CIRCLE)
            self.seen.add(cluster)
            if len(self.seen) * self.shape.cluster > _MOST_BYTES:
                raise self.problem("its directories are bigger than any system's")
            yield cluster
            cluster = self.following(cluster)

    def following(self, cluster: int) -> int:
        bits = self.shape.bits
        at = cluster * bits // 8
        number = int.from_bytes(self.read(self.shape.fat + at, 4), "little")
        if bits == 12:  # noqa: PLR2004 - FAT12
            return (number >> 4 if cluster & 1 else number) & 0xFFF
        return number & (0xFFFF if bits == 16 else 0x0FFFFFFF)  # noqa: PLR2004 - FAT16

    def read(self, at: int, size: int) -> bytes:
        self.file.seek(self.offset + at)
        return self.file.read(size)

    def problem(self, what: str) -> NoEndError:
        return NoEndError(Problem(message=f"{self.name}: {what}", hint=_HINT))


def check_fat(image: Path, offset: int, name: str) -> None:
    """Raise InputError for a FAT file system at `offset` bytes that has no end; `name` is for people."""
    with image.open("rb") as file:
        file.seek(offset)
        shape = _shape(file.read(512))
        if shape is None:
            what = "its FAT file system has sizes that make no sense"
            raise InputError(Problem(message=f"{name}: {what}", hint=_HINT))
        _Walk(file=file, offset=offset, shape=shape, name=name).run()


def _shape(boot: bytes) -> _Shape | None:
    """Return the shape that a boot sector gives, None for one that gives none."""
    sector, per_cluster, reserved, fats, entries, small = struct.unpack_from("<HBHBHH", boot.ljust(512, b"\0"), 11)
    short_fat, large, long_fat, top_cluster = struct.unpack_from("<H8xII4xI", boot.ljust(512, b"\0"), 22)
    fat_size = short_fat or long_fat
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or not fats or not fat_size or not reserved:
        return None
    top_sectors = -(-entries * _ENTRY // sector)
    data = reserved + fats * fat_size + top_sectors
    clusters = ((small or large) - data) // per_cluster
    if clusters <= 0:
        return None
    bits = 32 if not short_fat else 12 if clusters < _FAT12 else 16
    return _Shape(
        bits=bits,
        fat=reserved * sector,
        top=(reserved + fats * fat_size) * sector,
        top_size=entries * _ENTRY,
        top_cluster=top_cluster,
        data=data * sector,
        cluster=per_cluster * sector,
        clusters=clusters,
    )

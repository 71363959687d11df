"""Block maps in bmaptool's format, version 2.0: which blocks of an image have to be written, with checksums.

Unmapped are the blocks that no file system uses, which is read from the file systems themselves. Not every block of
zeros: bmaptool leaves an unmapped block of the card as it was, so zeros that a file, an inode table or a FAT relies on
have to be written. And not the holes of the image file, which are the business of the file system it lies on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from builder.errors import HostError
from builder.image.fat_write import used_end
from builder.image.partitions import FAT32_LBA, LINUX, MIB, Partition, Table
from builder.run import find_tool, run

BLOCK = 4096
_CHUNK = MIB // 4  # what stays in the processor's cache for the second sum
_SUM = "0" * 64
_FACTS = 3  # of what debugfs prints of a file system


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Blocks of 4096 bytes from `first` to `last`, both included."""

    first: int
    last: int


def used_ranges(image: Path, table: Table) -> tuple[Range, ...]:
    """Return the blocks that are in use: the partition table's and those of each file system, joined and in order.

    A partition of an unknown kind counts as used from end to end.
    """
    ranges = [Range(first=0, last=0)]
    for partition in table.partitions:
        ranges += _used(image, partition)
    return _joined(ranges)


def _used(image: Path, partition: Partition) -> Iterable[Range]:
    begin = partition.start // BLOCK
    if partition.type == FAT32_LBA:
        return [Range(first=begin, last=(used_end(image, partition.start) - 1) // BLOCK)]
    if partition.type == LINUX:
        return (Range(first=begin + each.first, last=begin + each.last) for each in _used_ext4(image, partition))
    return [Range(first=begin, last=(partition.end - 1) // BLOCK)]


def _used_ext4(image: Path, partition: Partition) -> Iterator[Range]:
    """Yield the ranges between the free blocks, which debugfs(8) lists.

    dumpe2fs would print ranges, but since e2fsprogs 1.47.1 takes `image?offset=n` for the tag of a disk.
    """
    told = _debugfs(image, partition, "stats -h")
    facts = dict(re.findall(r"^(Block size|Block count|Free blocks): +(\d+)$", told, re.MULTILINE))
    if len(facts) != _FACTS or int(facts["Block size"]) != BLOCK:
        raise HostError(f"{image}: no ext4 with blocks of {BLOCK} bytes", hint="the image is not this program's")
    count, expected = int(facts["Block count"]), int(facts["Free blocks"])
    listed = _debugfs(image, partition, f"ffb {expected} 0") if expected else ""
    free = sorted({int(word) for word in listed.partition(":")[2].split()})
    if len(free) != expected:
        raise HostError(f"{image}: debugfs lists {len(free)} free blocks, and counts {expected}")
    following = 0
    for block in free:
        if block > following:
            yield Range(first=following, last=block - 1)
        following = block + 1
    if following < count:
        yield Range(first=following, last=count - 1)


def _debugfs(image: Path, partition: Partition, request: str) -> str:
    return run(
        [find_tool("debugfs", package="e2fsprogs"), "-R", request, f"{image.name}?offset={partition.start}"],
        what="reading the root file system's block bitmaps",
        cwd=image.absolute().parent,
    ).stdout


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    joined: list[Range] = []
    for each in sorted(ranges, key=lambda each: each.first):
        if joined and each.first <= joined[-1].last + 1:
            joined[-1] = Range(first=joined[-1].first, last=max(joined[-1].last, each.last))
        else:
            joined.append(each)
    return tuple(joined)


def make_bmap(image: Path, ranges: Iterable[Range]) -> tuple[str, str]:
    """Return the block map of an image as XML, and the SHA-256 of the image, read once for both.

    The map has the SHA-256 of every range, and its own, taken over the text with 64 zeros in its place (bmaptool's
    BmapCreate.py).
    """
    size = image.stat().st_size
    ranges = tuple(ranges)
    blocks = -(-size // BLOCK)
    mapped = sum(each.last - each.first + 1 for each in ranges)
    digest, sums = _sums(image, ranges)
    lines = [f'        <Range chksum="{sum_}"> {_text(each)} </Range>' for each, sum_ in zip(ranges, sums, strict=True)]
    text = "\n".join(
        [
            '<?xml version="1.0" ?>',
            '<bmap version="2.0">',
            f"    <ImageSize> {size} </ImageSize>",
            f"    <BlockSize> {BLOCK} </BlockSize>",
            f"    <BlocksCount> {blocks} </BlocksCount>",
            f"    <MappedBlocksCount> {mapped} </MappedBlocksCount>",
            "    <ChecksumType> sha256 </ChecksumType>",
            f"    <BmapFileChecksum> {_SUM} </BmapFileChecksum>",
            "    <BlockMap>",
            *lines,
            "    </BlockMap>",
            "</bmap>",
            "",
        ]
    )
    return text.replace(f" {_SUM} ", f" {hashlib.sha256(text.encode()).hexdigest()} ", 1), digest


def _text(each: Range) -> str:
    return str(each.first) if each.first == each.last else f"{each.first}-{each.last}"


def _sums(image: Path, ranges: Sequence[Range]) -> tuple[str, list[str]]:
    """Return the SHA-256 of a whole file and those of its ranges, in order; each piece is read once for both."""
    size = image.stat().st_size
    whole, sums = hashlib.sha256(), []
    with image.open("rb", buffering=0) as file, memoryview(bytearray(_CHUNK)) as buffer:
        at = 0
        for each in ranges:
            begin, end = each.first * BLOCK, min((each.last + 1) * BLOCK, size)
            _feed(file, begin - at, buffer, whole)
            part = hashlib.sha256()
            _feed(file, end - begin, buffer, whole, part)
            sums.append(part.hexdigest())
            at = end
        _feed(file, size - at, buffer, whole)
    return whole.hexdigest(), sums


def _feed(file: FileIO, count: int, buffer: memoryview, *sums: hashlib._Hash) -> None:
    while count:
        had = file.readinto(buffer[: min(len(buffer), count)])
        if not had:
            raise HostError("the image ends before its last block", hint="something else writes to it")
        for each in sums:
            each.update(buffer[:had])
        count -= had

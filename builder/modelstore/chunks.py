"""Where to cut a model so that its next version shares what did not change.

A GGUF file is cut at its tensors and at the large values of its header (the vocabulary): a changed header, which moves
every byte after it, or a changed tensor leaves the others' chunks as they are. Any other file is cut at fixed lengths.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

from builder.errors import InputError, Problem
from builder.host.named_file import open_named
from builder.modelstore.manifest import Chunk

LONGEST = 64 << 20  # of a GGUF file's chunk; larger tensors are split
FIXED = 8 << 20  # of another file's chunk
_LARGE = 64 << 10  # a header's value from this size on is a chunk of its own
_BLOCK = 1 << 20

# The format: docs/gguf.md of ggml (ggml-org/ggml)
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # 1 had shorter counts, and has not been written since 2023
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type to bytes
# type of a tensor to the values of a block and its bytes, of those that files hold most: type_traits in ggml.c
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)}
_BLOCKS |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)}
_BLOCKS |= {24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2)}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = b"general.alignment"
_USUAL_ALIGNMENT = 32
_DEEPEST = 8  # arrays in arrays
_MOST = 100_000  # of tensors, and of pairs
_MOST_VALUES = 4_000_000  # that have a length of their own, in all arrays: vocabularies have some 100,000
_LONGEST_NAME = 1 << 16  # of a key or a tensor: the format's own bound
_MOST_DIMENSIONS = 8


class _BrokenHeaderError(Exception):
    """A GGUF header that ends too early or contradicts itself."""


class _Header:
    """A GGUF header while it is read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size
        self.alignment = _USUAL_ALIGNMENT
        self.values = 0

    def number(self, form: str) -> int:
        read = self.file.read(struct.calcsize(form))
        if len(read) < struct.calcsize(form):
            raise _BrokenHeaderError("it ends within its header")
        return int(struct.unpack(form, read)[0])

    def skip(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise _BrokenHeaderError("it ends within its header")
        self.file.seek(count, 1)

    def text(self) -> bytes:
        length = self.number("<Q")
        if length > _LONGEST_NAME:
            raise _BrokenHeaderError(f"a name of {length} bytes")
        if length > self.size - self.file.tell():
            raise _BrokenHeaderError("it ends within its header")
        return self.file.read(length)

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in _SCALARS:
            self.skip(_SCALARS[kind])
        elif kind == _STRING:
            self.skip(self.number("<Q"))
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in _SCALARS:
                self.skip(count * _SCALARS[inner])
            else:
                self.values += count
                if self.values > _MOST_VALUES:
                    raise _BrokenHeaderError(f"arrays of more than {_MOST_VALUES} values")
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            raise _BrokenHeaderError(f"a value of the unknown type {kind}")

    def pair(self) -> None:
        key, kind = self.text(), self.number("<I")
        if key != _ALIGNMENT:
            self.value(kind)
        elif kind == _UINT32:
            self.alignment = self.number("<I")
        if self.alignment < 1:
            raise _BrokenHeaderError("its alignment is zero")

    def tensor(self) -> tuple[int, int]:
        """Read what is said of a tensor; return where it begins after the header, and the bytes it has at least."""
        self.text()
        values, dimensions = 1, self.number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise _BrokenHeaderError(f"a tensor of {dimensions} dimensions")
        for _ in range(dimensions):
            values *= self.number("<Q")
        block, size = _BLOCKS.get(self.number("<I"), (1, 0))
        return self.number("<Q"), values // block * size


def gguf_boundaries(file: IO[bytes], size: int) -> list[int] | None:
    """Return where a GGUF file's parts begin, sorted, the first at 0; None for one of another format or version.

    `size` is the file's, in bytes. Raises InputError for one that is broken off or contradicts itself.
    """
    file.seek(0)
    header = _Header(file, size)
    if file.read(4) != _MAGIC or size < 24 or header.number("<I") not in _VERSIONS:  # noqa: PLR2004 - magic to counts
        return None
    try:
        return sorted(_parts(header))
    except _BrokenHeaderError as broken:
        problem = Problem(message=f"not a whole GGUF file: {broken}", hint="compare its checksum with its origin's")
        raise InputError(problem) from broken


def _parts(header: _Header) -> set[int]:
    tensors, pairs = header.number("<Q"), header.number("<Q")
    if max(tensors, pairs) > _MOST:
        raise _BrokenHeaderError(f"{tensors} tensors and {pairs} values")
    found = {0}
    for _ in range(pairs):
        begin = header.file.tell()
        header.pair()
        if header.file.tell() - begin >= _LARGE:
            found |= {begin, header.file.tell()}
    spans = [header.tensor() for _ in range(tensors)]
    data = -(-header.file.tell() // header.alignment) * header.alignment
    end = max((data + offset + size for offset, size in spans), default=0)
    if end > header.size:
        raise _BrokenHeaderError(f"its tensors end at {end} and it at {header.size}")
    return {each for each in found | {data + offset for offset, _ in spans} if each < header.size}


def pieces(boundaries: Sequence[int], size: int, longest: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each chunk: from boundary to boundary, split where that is longer than `longest`."""
    for begin, end in pairwise([*boundaries, size]):
        for offset in range(begin, end, longest):
            yield offset, min(longest, end - offset)


def cut(path: Path, *, longest: int = LONGEST, fixed: int = FIXED) -> tuple[str, tuple[Chunk, ...]]:
    """Return the sha256 of a model's file, and its chunks in order, from one reading. Raises InputError."""
    size = path.stat().st_size
    if size == 0:
        raise InputError(Problem(message=f"{path} is empty"))
    whole, chunks, left = hashlib.sha256(), [], 0
    with open_named(path) as file:
        boundaries = gguf_boundaries(file, size)
        file.seek(0)
        for offset, length in pieces(boundaries or [0], size, longest if boundaries else fixed):
            own = hashlib.sha256()
            left = length
            while left and (block := file.read(min(left, _BLOCK))):
                own.update(block)
                whole.update(block)
                left -= len(block)
            chunks.append(Chunk(sha256=own.hexdigest(), off=offset, len=length))
        if left or file.read(1):
            raise InputError(Problem(message=f"{path} changed while it was read", hint="publish it when it is whole"))
    return whole.hexdigest(), tuple(chunks)

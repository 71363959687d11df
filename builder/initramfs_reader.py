"""Look into an initramfs: concatenated cpio archives, each plain or compressed.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, and lib/decompress.c for the magics.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import PibuildError
from builder.run import CommandError, find_tool, run
from builder.scratch import temporary

_HEADER = 110  # bytes of a newc header: the magic and 13 numbers of 8 hex digits
_NEWC = (b"070701", b"070702")
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    b"BZh": "bzip2",
    b"\x5d\0\0": "lzma",
}
_TOOLS = {"zstd": ("zstd", "zstd"), "lz4": ("lz4", "lz4")}
_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)")


class BrokenInitramfsError(PibuildError):
    """An initramfs that the kernel could not unpack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Initramfs:
    """What an initramfs holds. `compressions` of its archives in order (`none` for a plain one), `files` their entries.

    `modules` are the kernel versions it has module directories for; `init` says whether it has an /init to start.
    """

    compressions: tuple[str, ...]
    files: int
    modules: tuple[str, ...]
    init: bool


def read_initramfs(data: bytes) -> Initramfs:
    """Unpack an initramfs and say what is in it. Raises BrokenInitramfsError, HostError for a missing decompressor."""
    compressions: list[str] = []
    names: list[str] = []
    while data := data.lstrip(b"\0"):
        if data.startswith(_NEWC):
            compressions.append("none")
        else:
            kind = next((kind for magic, kind in _MAGICS.items() if data.startswith(magic)), None)
            if kind is None:
                at = "after the first archive" if compressions else "at its beginning"
                raise BrokenInitramfsError(f"no cpio archive and no known compression {at}: {data[:6].hex(' ')}")
            compressions.append(kind)
            unpacked, rest = _decompress(kind, data)
            if not unpacked.startswith(_NEWC):
                raise BrokenInitramfsError(f"no cpio archive inside its {kind}")
            names.extend(_names(unpacked)[0])
            data = rest
            continue
        inside, end = _names(data)
        names.extend(inside)
        data = data[end:]
    if not compressions:
        raise BrokenInitramfsError("it is empty")
    modules = {match[1] for name in names if (match := _MODULES.match(name))}
    return Initramfs(
        compressions=tuple(compressions), files=len(names), modules=tuple(sorted(modules)), init="init" in names
    )


def _decompress(kind: str, data: bytes) -> tuple[bytes, bytes]:
    """Return the content and what follows the compressed part."""
    if kind in _TOOLS:
        return _decompress_with_tool(kind, data), b""
    try:
        if kind == "gzip":
            gzip = zlib.decompressobj(wbits=31)
            unpacked, done, rest = gzip.decompress(data), gzip.eof, gzip.unused_data
        else:
            other = bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor()
            unpacked = other.decompress(data)
            done, rest = other.eof, other.unused_data
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise BrokenInitramfsError(f"its {kind} is damaged: {error}") from error
    if not done:
        raise BrokenInitramfsError(f"its {kind} is cut short")
    return unpacked, rest


def _decompress_with_tool(kind: str, data: bytes) -> bytes:
    tool, package = _TOOLS[kind]
    with temporary("initramfs") as scratch:
        packed, unpacked = scratch / "packed", scratch / "unpacked"
        packed.write_bytes(data)
        try:
            run([find_tool(tool, package=package), "-d", "-q", *_into(kind, packed, unpacked)])
        except CommandError as error:
            said = error.completed.stderr.strip().replace(str(packed), "it")
            raise BrokenInitramfsError(f"its {kind} is damaged: {said}") from error
        return unpacked.read_bytes()


def _into(kind: str, packed: Path, unpacked: Path) -> tuple[str | Path, ...]:
    return ("-o", unpacked, packed) if kind == "zstd" else (packed, unpacked)


def _names(data: bytes) -> tuple[list[str], int]:
    """Return the names in the cpio archive at the beginning of `data`, without leading `./`, and where it ends."""
    names: list[str] = []
    at = 0
    for name, at in _entries(data):
        if name == "TRAILER!!!":
            return names, at
        names.append(name.removeprefix("./").lstrip("/"))
    raise BrokenInitramfsError(f"its cpio archive is cut short after {len(names)} files, {at} bytes")


def _entries(data: bytes) -> Iterator[tuple[str, int]]:
    """Yield the name of every entry and the place of the next, as long as they are complete."""
    at = 0
    while at + _HEADER <= len(data) and data[at : at + 6] in _NEWC:
        try:
            size, name_size = (int(data[at + place : at + place + 8], 16) for place in (54, 94))
        except ValueError:
            return
        content = (at + _HEADER + name_size + 3) & ~3
        end = (content + size + 3) & ~3
        if content + size > len(data):
            return
        yield data[at + _HEADER : at + _HEADER + name_size - 1].decode(errors="replace"), end
        at = end

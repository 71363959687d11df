"""Look into an initramfs: concatenated cpio archives, each plain or compressed.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, and lib/decompress.c for the magics.
"""

from __future__ import annotations

import bz2
import lzma
import re
import signal
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import PibuildError
from builder.host.scratch import temporary
from builder.run import CommandError, find_tool, run

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
_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)(?:/(?:.*/)?([^/]+)\.ko(?:\.(?:xz|zst|gz))?$)?")
_HEX = re.compile(rb"[0-9A-Fa-f]{8}")
_LONGEST_NAME = 4096  # PATH_MAX, of the kernel's init/initramfs.c
_SOMETHING = re.compile(rb"[^\0]")
# What no initramfs comes near and any computer can hold: a Pi unpacks it into its memory.
_MOST_BYTES = 384 << 20
_MOST_FILES = 100_000
_MOST_ARCHIVES = 64


class BrokenInitramfsError(PibuildError):
    """An initramfs that the kernel could not unpack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Initramfs:
    """What an initramfs holds. `compressions` of its archives in order (`none` for a plain one), `files` their entries.

    `modules` are the kernel versions it has module directories for, `drivers` the modules of each version, by name with
    `_` for `-`; `init` says whether it has an /init to start.
    """

    compressions: tuple[str, ...]
    files: int
    modules: tuple[str, ...]
    init: bool
    drivers: Mapping[str, frozenset[str]] = field(default_factory=dict)


def read_initramfs(data: bytes) -> Initramfs:
    """Unpack an initramfs and say what is in it. Raises BrokenInitramfsError, HostError for a missing decompressor.

    What would unpack to more than a board can hold counts as broken, before it is unpacked.
    """
    compressions: list[str] = []
    names: list[str] = []
    room, at = _MOST_BYTES, 0
    while found := _SOMETHING.search(data, at):
        at = found.start()
        if len(compressions) == _MOST_ARCHIVES:
            raise BrokenInitramfsError(f"it is made of more than {_MOST_ARCHIVES} archives")
        if data.startswith(_NEWC, at):
            compressions.append("none")
            at = _names(data, at, names)
            continue
        kind = next((kind for magic, kind in _MAGICS.items() if data.startswith(magic, at)), None)
        if kind is None:
            where = "after the first archive" if compressions else "at its beginning"
            raise BrokenInitramfsError(
                f"no cpio archive and no known compression {where}: {data[at : at + 6].hex(' ')}"
            )
        compressions.append(kind)
        unpacked, left = _decompress(kind, data[at:], room)
        room -= len(unpacked)
        if not unpacked.startswith(_NEWC):
            raise BrokenInitramfsError(f"no cpio archive inside its {kind}")
        _names(unpacked, 0, names)
        at = len(data) - left
    if not compressions:
        raise BrokenInitramfsError("it is empty")
    return _summary(tuple(compressions), names)


def _summary(compressions: tuple[str, ...], names: list[str]) -> Initramfs:
    drivers: dict[str, set[str]] = {}
    for match in filter(None, map(_MODULES.match, names)):
        drivers.setdefault(match[1], set()).update({match[2].replace("-", "_")} if match[2] else ())
    return Initramfs(
        compressions=compressions,
        files=len(names),
        modules=tuple(sorted(drivers)),
        init="init" in names,
        drivers={version: frozenset(found) for version, found in drivers.items()},
    )


def _decompress(kind: str, data: bytes, room: int) -> tuple[bytes, int]:
    """Return the content, and how many bytes follow the compressed part."""
    if kind in _TOOLS:
        return _decompress_with_tool(kind, data, room), 0
    try:
        if kind == "gzip":
            gzip = zlib.decompressobj(wbits=31)
            unpacked = gzip.decompress(data, room + 1)
            done, rest = gzip.eof, gzip.unused_data
        else:
            other = bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor(memlimit=_MOST_BYTES // 2)
            unpacked = other.decompress(data, room + 1)
            done, rest = other.eof, other.unused_data
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise BrokenInitramfsError(f"its {kind} is damaged: {error}") from error
    if len(unpacked) > room:
        raise _too_big(kind)
    if not done:
        raise BrokenInitramfsError(f"its {kind} is cut short")
    return unpacked, len(rest)


def _too_big(kind: str) -> BrokenInitramfsError:
    return BrokenInitramfsError(f"its {kind} unpacks to more than {_MOST_BYTES >> 20} MiB, which no board can hold")


def _decompress_with_tool(kind: str, data: bytes, room: int) -> bytes:
    tool, package = _TOOLS[kind]
    limit = find_tool("prlimit", package="util-linux")
    with temporary("initramfs") as scratch:
        packed, unpacked = scratch / "packed", scratch / "unpacked"
        packed.write_bytes(data)
        try:
            command = [find_tool(tool, package=package), "-d", "-q", *_into(kind, packed, unpacked)]
            run([limit, f"--fsize={room + 1}", "--core=0", *command])
        except CommandError as error:
            if error.completed.returncode == -signal.SIGXFSZ:
                raise _too_big(kind) from error
            said = error.completed.stderr.strip().replace(str(packed), "it")
            raise BrokenInitramfsError(f"its {kind} is damaged: {said}") from error
        return unpacked.read_bytes()


def _into(kind: str, packed: Path, unpacked: Path) -> tuple[str | Path, ...]:
    return ("-o", unpacked, packed) if kind == "zstd" else (packed, unpacked)


def _names(data: bytes, start: int, names: list[str]) -> int:
    """Add the names in the cpio archive that begins at `start`, without leading `./`; return where it ends."""
    first, at = len(names), start
    for name, at in _entries(data, start):
        if name == "TRAILER!!!":
            return at
        if len(names) == _MOST_FILES:
            raise BrokenInitramfsError(f"it has more than {_MOST_FILES} files")
        names.append(name.removeprefix("./").lstrip("/"))
    raise BrokenInitramfsError(f"its cpio archive is cut short after {len(names) - first} files, {at - start} bytes")


def _entries(data: bytes, at: int) -> Iterator[tuple[str, int]]:
    """Yield the name of every entry and the place of the next, as long as they are complete."""
    while at + _HEADER <= len(data) and data[at : at + 6] in _NEWC:
        numbers = data[at + 54 : at + 62], data[at + 94 : at + 102]
        if not all(_HEX.fullmatch(number) for number in numbers):
            return
        size, name_size = (int(number, 16) for number in numbers)
        if at + _HEADER + name_size + size > len(data) or name_size > _LONGEST_NAME:
            return
        content = (at + _HEADER + name_size + 3) & ~3
        end = (content + size + 3) & ~3
        yield data[at + _HEADER : at + _HEADER + name_size - 1].decode(errors="replace"), end
        at = end

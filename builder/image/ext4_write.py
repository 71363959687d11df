"""Write an ext4 file system from a tree into an image, without mounting anything and with the same bits every time.

mke2fs makes it empty and one debugfs process fills it from a script that this module writes: in an order of its own,
with inode numbers known beforehand, and with E2FSPROGS_FAKE_TIME as the only clock. `mke2fs -d` is not used: it carries
access and change times over from the source, so a re-copied tree gives other bits, and it can leave nothing out.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError, InputError, Problem
from builder.host.tree import Entry, nonzero_blocks
from builder.image.ext4_script import FIRST_INODE, make_script
from builder.image.partitions import MIB, align
from builder.run import Completed, find_tool, run

BLOCK = 4096
_INODE = 256
_GROUP = 8 * BLOCK  # blocks in a group: one block of bitmap
_INODE_RATIO = 16384
_CONFIG = Path(__file__).parent / "mke2fs.conf"
_SCANNED = 16 * MIB  # files from this size on are searched for blocks of zeros, which take no room
_FAST_SYMLINK = 60  # bytes of i_block
_DIRECTORY_BLOCK = BLOCK - 12 - 264  # less the checksum and the most that can stay unused at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ext4:
    """An ext4 file system to write: `offset` and `size` in bytes within the image, `epoch` its only time."""

    offset: int
    size: int
    label: str
    uuid: uuid.UUID
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a tree takes in ext4: blocks of 4096 bytes, and inodes."""

    blocks: int
    inodes: int


def select(entries: Sequence[Entry], *, exclude: Sequence[str] = ()) -> tuple[Entry, ...]:
    """Return the entries that an image carries: all but the content of the directories in `exclude` (relative paths),
    sockets, which mean nothing in a file system nobody has booted, and a lost+found at the top, which mke2fs makes.
    """  # noqa: D205 - one sentence
    below = tuple(f"{path.strip('/')}/" for path in (*exclude, "lost+found"))
    return tuple(
        entry
        for entry in entries
        if not entry.path.startswith(below) and entry.kind != "socket" and entry.path != "lost+found"
    )


def measure(source: Path, entries: Sequence[Entry]) -> Usage:
    """Return an upper bound of what the entries take; it depends on content alone, not on how the source is stored."""
    blocks, inodes = 0, FIRST_INODE
    names: dict[str, int] = {}
    for entry in entries:
        names[entry.parent] = names.get(entry.parent, 24) + 12 + len(os.fsencode(entry.name))
        if entry.link not in ("", entry.path):
            continue
        inodes += 1
        if entry.kind == "file":
            data = nonzero_blocks(source / entry.path) if entry.size >= _SCANNED else -(-entry.size // BLOCK)
            blocks += data + (1 + data // 128 if entry.size >= _SCANNED else 0)  # room for extents of a sparse file
        elif entry.kind == "symlink" and len(os.fsencode(entry.target)) >= _FAST_SYMLINK:
            blocks += 1
        blocks += bool(entry.xattrs)
    directories = [entry for entry in entries if entry.kind == "directory"]
    blocks += sum(1 + names.get(entry.path, 0) // _DIRECTORY_BLOCK for entry in directories)
    return Usage(blocks=blocks, inodes=inodes)


def size_for(usage: Usage, *, slack_percent: int, slack_bytes: int) -> int:
    """Return the bytes of a file system that holds the tree and the slack beside it; a multiple of 1 MiB."""
    slack = usage.blocks * slack_percent // 100 + -(-slack_bytes // BLOCK)
    wanted = usage.blocks + slack + 4 * MIB // BLOCK
    size = wanted
    while (room := size - _overhead(size, usage)) < wanted:
        size += wanted - room
    return align(size * BLOCK, MIB)


def _inodes(blocks: int, usage: Usage) -> int:
    return max(blocks * BLOCK // _INODE_RATIO, usage.inodes * 5 // 4)


def _journal(blocks: int) -> int:
    """Return the MiB of the journal: mke2fs's own choice at the two sizes that matter, made here so that it stays."""
    return 64 if blocks >= 1024 * MIB // BLOCK else 16 if blocks >= 128 * MIB // BLOCK else 4


def _overhead(blocks: int, usage: Usage) -> int:
    """Return the blocks that are no file's: inode tables, bitmaps, journal, superblocks with room for descriptors."""
    groups = -(-blocks // _GROUP)
    tables = -(-_inodes(blocks, usage) * _INODE // BLOCK) + groups * (2 + 16)
    descriptors = 1 + min(1024, groups * 1024 // 64 + 1) + groups * 64 // BLOCK + 1
    backups = sum(1 for group in range(groups) if group < 2 or _is_power(group))  # noqa: PLR2004 - sparse_super
    return tables + descriptors * backups + _journal(blocks) * MIB // BLOCK


def _is_power(number: int) -> bool:
    """Whether a number is a power of 3, 5 or 7: the groups of sparse_super that hold a copy of the superblock."""
    return any(number == base**exponent for base in (3, 5, 7) for exponent in range(1, 20))


def write_ext4(
    image: Path,
    ext4: Ext4,
    source: Path,
    entries: Sequence[Entry],
    usage: Usage,
    *,
    override: Mapping[str, bytes] | None = None,
) -> None:
    """Write the entries of `source` into the image, where there must be nothing but zeros.

    `entries` come from `walk` through `select`, `usage` from `measure`; `override` has content to write for some paths
    instead of the tree's.
    Modification times after the epoch become the epoch, all other times are the epoch. Raises InputError when the tree
    does not fit or holds a name that debugfs cannot take, HostError or CommandError when a tool fails.
    """
    _check_fits(ext4, usage)
    environment = {
        "MKE2FS_CONFIG": str(_CONFIG),
        "E2FSPROGS_FAKE_TIME": str(ext4.epoch),
        "SOURCE_DATE_EPOCH": str(ext4.epoch),
    }
    run(_mke2fs(image, ext4, usage), what="making the root file system", cwd=image.absolute().parent, env=environment)
    at = f"{image.name}?offset={ext4.offset}"
    with tempfile.TemporaryDirectory(prefix=".ext4-", dir=image.parent) as scratch:
        script = make_script(
            source.absolute(), entries, override=override or {}, epoch=ext4.epoch, scratch=Path(scratch).absolute()
        )
        file = Path(scratch).absolute() / "script"
        file.write_bytes(script.text)
        filled = run(
            [find_tool("debugfs", package="e2fsprogs"), "-w", "-f", file, at],
            what="filling the root file system",
            cwd=image.absolute().parent,
            env=environment,
        )
    _check_filled(filled, script.announced)
    run(
        [find_tool("e2fsck", package="e2fsprogs"), "-f", "-n", at],
        what="checking the root file system",
        cwd=image.absolute().parent,
        env=environment,
    )


def _mke2fs(image: Path, ext4: Ext4, usage: Usage) -> list[str | Path]:
    blocks = ext4.size // BLOCK
    extended = {
        "offset": ext4.offset,
        "hash_seed": uuid.uuid5(ext4.uuid, "hash_seed"),
        "root_owner": "0:0",
        "assume_storage_prezeroed": 1,
    }
    options = ",".join(
        ["nodiscard", *(f"{name}={value}" for name, value in extended.items())]
    )  # -E twice: the last wins
    return [
        *(find_tool("mke2fs", package="e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", str(_INODE)),
        *("-N", str(_inodes(blocks, usage)), "-J", f"size={_journal(blocks)}", "-m", "1"),
        *("-L", ext4.label, "-U", str(ext4.uuid), "-E", options, image.name, f"{ext4.size // 1024}k"),
    ]


def _check_fits(ext4: Ext4, usage: Usage) -> None:
    needed = size_for(usage, slack_percent=0, slack_bytes=0)
    if ext4.size < needed:
        raise InputError(
            Problem(
                message=f"a root file system of {ext4.size // MIB} MiB is too small: the tree needs {needed // MIB}",
                hint=f"set disk.root.size to auto, or to more than {needed // MIB}M",
            )
        )


def _check_filled(filled: Completed, announced: Sequence[int]) -> None:
    """Raise HostError unless every command did what was reckoned: debugfs exits with 0 whatever happens."""
    said = [line for line in filled.stderr.splitlines() if line and not line.startswith("debugfs 1.")]
    if said:
        raise HostError(
            "filling the root file system: debugfs says:\n" + "\n".join(said[:20]), hint="is the disk full? df -h"
        )
    allocated = [int(number) for number in re.findall(r"^Allocated inode: (\d+)$", filled.stdout, re.MULTILINE)]
    if allocated != list(announced):
        raise HostError(
            "filling the root file system: debugfs numbers inodes unlike any release this was written for",
            hint="e2fsprogs 1.47 is known to work",
        )

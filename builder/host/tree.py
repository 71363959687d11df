"""Walk, digest and compare file trees: all that an image has to carry, nothing of the file system a tree lies on.

Sizes of directories, inode numbers, link counts of names outside the tree, access and change times are left out: they
differ between two copies of one tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from builder.host.hashing import file_digest

Kind = Literal["file", "directory", "symlink", "fifo", "socket", "character", "block"]

_KINDS: Mapping[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")  # overlayfs's own bookkeeping in an upper directory
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in a tree.

    `path` is relative to the root, `.` for the root itself. `mode` holds the permission bits (07777). `size` is that of
    a regular file in bytes, else 0; `mtime` is in whole seconds. `device` is (major, minor) of a device node. `link` is
    the first name, in the order of `walk`, of the same inode where the tree holds more than one, else empty. `xattrs`
    are sorted by name.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    device: tuple[int, int] | None = None
    target: str = ""
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()

    @property
    def parent(self) -> str:
        """The path of the directory it lies in; `.` at the top."""
        return self.path.rpartition("/")[0] or "."

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs at one path: a field of Entry, `content`, or `missing` with the kind on the side that has it."""

    path: str
    what: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what} {self.left or '-'} | {self.right or '-'}"


def walk(root: Path) -> tuple[Entry, ...]:
    """Return every name in the tree, the root first, a directory's names in byte order; symlinks are not followed.

    Raises OSError where something cannot be read.
    """
    inodes: dict[str, tuple[int, int]] = {}
    entries = list(_walk(os.fspath(root), ".", inodes))
    names: dict[tuple[int, int], list[str]] = {}
    for path, inode in inodes.items():
        names.setdefault(inode, []).append(path)
    first = {path: paths[0] for paths in names.values() if len(paths) > 1 for path in paths}
    return tuple(replace(entry, link=first[entry.path]) if entry.path in first else entry for entry in entries)


def _walk(directory: str, path: str, inodes: dict[str, tuple[int, int]]) -> Iterator[Entry]:
    if path == ".":
        yield _entry(directory, path, os.lstat(directory))
    with os.scandir(directory) as found:
        children = sorted(found, key=lambda child: os.fsencode(child.name))
    for child in children:
        status = child.stat(follow_symlinks=False)
        relative = child.name if path == "." else f"{path}/{child.name}"
        is_directory = stat.S_ISDIR(status.st_mode)
        if status.st_nlink > 1 and not is_directory:
            inodes[relative] = (status.st_dev, status.st_ino)
        yield _entry(child.path, relative, status)
        if is_directory:
            yield from _walk(child.path, relative, inodes)


def _entry(at: str, path: str, status: os.stat_result) -> Entry:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    is_device = kind in ("character", "block")
    names = sorted(name for name in os.listxattr(at, follow_symlinks=False) if not name.startswith(_OVERLAY_XATTRS))
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind == "file" else 0,
        mtime=int(status.st_mtime // 1),
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
        target=os.readlink(at) if kind == "symlink" else "",  # noqa: PTH115 - as a str, unnormalised
        xattrs=tuple((name, os.getxattr(at, name, follow_symlinks=False)) for name in names),
    )


def digest(root: Path, *, ignore: Collection[str] = ()) -> str:
    """Return the SHA-256 over all entries and contents of a tree, as 64 hex digits, but for fields in `ignore`."""
    total = hashlib.sha256()
    for entry in walk(root):
        content = file_digest(root / entry.path) if entry.kind == "file" else ""
        facts = {**_facts(entry), "content": content}
        line = json.dumps({name: value for name, value in facts.items() if name not in ignore}, sort_keys=True)
        total.update(f"{line}\n".encode())
    return total.hexdigest()


def compare(left: Path, right: Path, *, ignore: Collection[str] = ()) -> tuple[Difference, ...]:
    """Return what differs between two trees, by path; `ignore` names fields of Entry that do not matter."""
    mine = {entry.path: entry for entry in walk(left)}
    theirs = {entry.path: entry for entry in walk(right)}
    differences: list[Difference] = []
    for path in sorted(mine.keys() | theirs.keys(), key=os.fsencode):
        one, other = mine.get(path), theirs.get(path)
        if one is None or other is None:
            kinds = (one.kind if one else "", other.kind if other else "")
            differences.append(Difference(path=path, what="missing", left=kinds[0], right=kinds[1]))
            continue
        differences += _field_differences(one, other, ignore)
        if one.kind == other.kind == "file" and one.size == other.size and "content" not in ignore:
            sums = (file_digest(left / path), file_digest(right / path))
            if sums[0] != sums[1]:
                differences.append(Difference(path=path, what="content", left=sums[0], right=sums[1]))
    return tuple(differences)


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "path": os.fsencode(entry.path).hex() if not entry.path.isprintable() else entry.path,
        "kind": entry.kind,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime,
        "device": entry.device,
        "target": os.fsencode(entry.target).hex() if not entry.target.isprintable() else entry.target,
        "link": os.fsencode(entry.link).hex() if not entry.link.isprintable() else entry.link,
        "xattrs": [(name, value.hex()) for name, value in entry.xattrs],
    }


def _field_differences(one: Entry, other: Entry, ignore: Collection[str]) -> Sequence[Difference]:
    mine, theirs = _facts(one), _facts(other)
    return [
        Difference(path=one.path, what=field, left=str(mine[field]), right=str(theirs[field]))
        for field in mine
        if field not in ignore and mine[field] != theirs[field]
    ]


def nonzero_blocks(path: Path, *, block: int = 4096) -> int:
    """Return how many blocks of a file hold anything but zeros, wherever the file itself has holes."""
    zero = bytes(block)
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            view = memoryview(chunk)
            count += sum(view[at : at + block] != zero[: len(view) - at] for at in range(0, len(view), block))
    return count

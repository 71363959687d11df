"""The debugfs script that fills a fresh ext4 file system from a tree (debugfs(8)).

debugfs gives a new inode the lowest free number from its directory's group on; in a fresh file system that is the next
number, so that the script can name every inode by number. What debugfs then says it allocated is compared with that.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import HostError, InputError, Problem
from builder.host.tree import Entry, Kind

FIRST_INODE = 12  # EXT2_GOOD_OLD_FIRST_INO is 11: mke2fs's lost+found
_ROOT_INODE = 2  # EXT2_ROOT_INO
_MAX_LINE = 8000  # debugfs reads a script with fgets into BUFSIZ (8192) bytes
_NEW_HOLE = 4096 - 12  # bytes for names in a directory's block of 4096: it ends with its checksum
_FIRST_HOLE = _NEW_HOLE - 12 - 12  # `.` and `..`
_LOST_FOUND = 20
_SIGNED_HASH = 1  # EXT2_FLAGS_SIGNED_HASH; left alone, it follows the `char` of the machine that builds
_TYPES: Mapping[Kind, int] = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
_NODES: Mapping[Kind, str] = {"fifo": "p", "character": "c", "block": "b"}
_GIVEN_MODE: Mapping[Kind, int] = {"directory": 0o755, "symlink": 0o777}  # what debugfs gives a new one


@dataclass(frozen=True, slots=True, kw_only=True)
class FillScript:
    """`text` is for `debugfs -w -f`; `announced` are the inode numbers that debugfs will print, in order."""

    text: bytes
    announced: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where file contents come from: the tree, `override` by path, and a directory for values without a file."""

    tree: Path
    override: Mapping[str, bytes]
    scratch: Path

    def content_of(self, entry: Entry) -> Path:
        if entry.path in self.override:
            return self.kept(self.override[entry.path])
        return self.tree / entry.path

    def kept(self, value: bytes) -> Path:
        file = self.scratch / hashlib.sha256(value).hexdigest()
        if not file.exists():
            file.write_bytes(value)
        return file


def make_script(
    source: Path, entries: Sequence[Entry], *, override: Mapping[str, bytes], epoch: int, scratch: Path
) -> FillScript:
    """Return the script that writes `entries`, and the content of `override` in the place of what the tree has there.

    A path in `override` that the tree has not becomes a file of root's with mode 0644. A directory's names stand
    together, directories come from the top down, modification times last. Raises InputError for a name that debugfs
    cannot take (a line break, or too long), HostError for one whose directory is missing.
    """
    sources = _Sources(tree=source, override=override, scratch=scratch)
    ordered = _in_order(entries, override, epoch)
    first = _first_names(ordered)
    inodes = _inode_numbers(ordered, first)
    lines = [f"set_super_value flags {_SIGNED_HASH}"]
    announced = []
    at, holes = ".", [_FIRST_HOLE - _LOST_FOUND]
    for entry in ordered:
        if entry.path != "." and entry.parent != at:
            at, holes = entry.parent, [_FIRST_HOLE]
            lines.append(f"cd <{inodes[at]}>")
        is_new_block = entry.path != "." and _takes_new_block(entry.name, holes)
        if first[entry.path] != entry.path:
            lines += [f"expand_dir <{inodes[at]}>"] if is_new_block else []  # `ln` alone does not do it by itself
            lines.append(f"ln <{inodes[entry.path]}> {_quoted(entry.name)}")
            continue
        lines += _make(entry, inodes[entry.path], sources)
        if entry.kind == "file" or entry.kind in _NODES:
            announced.append(inodes[entry.path])
    lines += _link_counts(first, inodes)
    lines += _times(ordered, inodes, epoch)
    return FillScript(text=_joined(lines), announced=tuple(announced))


def _in_order(entries: Sequence[Entry], override: Mapping[str, bytes], epoch: int) -> list[Entry]:
    """Return the entries to write, the children of a directory together and after the directory itself."""
    known = {entry.path: entry for entry in entries}
    for path in override:
        old = known.get(path)
        is_file = old is not None and old.kind == "file"
        plain = Entry(path=path, kind="file", mode=0o644, uid=0, gid=0, size=0, mtime=epoch)
        known[path] = replace(old, link="", mtime=epoch) if old and is_file else plain
    directories = {path for path, entry in known.items() if entry.kind == "directory"}
    for entry in known.values():
        if entry.path != "." and entry.parent not in directories:
            raise HostError(f"{entry.path}: the tree has no directory for it", hint="what made the tree is incomplete")
    return sorted(known.values(), key=_place)


def _place(entry: Entry) -> tuple[list[bytes], bytes]:
    parts = os.fsencode(entry.path).split(b"/")
    return (parts[:-1], parts[-1]) if entry.path != "." else ([], b"")


def _first_names(ordered: Iterable[Entry]) -> dict[str, str]:
    """Return for every path the first path, in the order of the script, that has the same inode; often itself."""
    first: dict[str, str] = {}
    groups: dict[str, str] = {}
    for entry in ordered:
        first[entry.path] = groups.setdefault(entry.link, entry.path) if entry.link else entry.path
    return first


def _inode_numbers(ordered: Iterable[Entry], first: Mapping[str, str]) -> dict[str, int]:
    numbers = {".": _ROOT_INODE}
    following = FIRST_INODE
    for entry in ordered:
        if entry.path == ".":
            continue
        if first[entry.path] == entry.path:
            numbers[entry.path] = following
            following += 1
        else:
            numbers[entry.path] = numbers[first[entry.path]]
    return numbers


def _takes_new_block(name: str, holes: list[int]) -> bool:
    """Put a name into the first block of its directory with room for it; return whether that is a new one.

    `holes` are the free bytes of the directory's blocks. An entry is 8 bytes and the name, a multiple of 4
    (ext2fs_link).
    """
    size = 8 + -(-len(os.fsencode(name)) // 4) * 4
    for index, hole in enumerate(holes):
        if hole >= size:
            holes[index] -= size
            return False
    holes.append(_NEW_HOLE - size)
    return True


def _make(entry: Entry, inode: int, sources: _Sources) -> Iterator[str]:
    """Yield the commands that make an inode under its first name, with owner, mode and extended attributes."""
    name = _quoted(entry.name)
    if entry.kind == "directory" and entry.path != ".":
        yield f"mkdir {name}"
    elif entry.kind == "symlink":
        yield f"symlink {name} {_quoted(entry.target)}"
    elif entry.kind == "file":
        yield f"write {_quoted(str(sources.content_of(entry)))} {name}"
    elif entry.kind in _NODES:
        yield " ".join(("mknod", name, _NODES[entry.kind], *(str(number) for number in entry.device or ())))
    if entry.mode != _GIVEN_MODE.get(entry.kind):
        yield f"sif <{inode}> mode 0{_TYPES[entry.kind] | entry.mode:o}"
    if entry.uid:
        yield f"sif <{inode}> uid {entry.uid}"
    if entry.gid:
        yield f"sif <{inode}> gid {entry.gid}"
    for key, value in entry.xattrs:
        yield f"ea_set -f {_quoted(str(sources.kept(value)))} <{inode}> {_quoted(key)}"


def _link_counts(first: Mapping[str, str], inodes: Mapping[str, int]) -> Iterator[str]:
    """Yield the link counts of inodes with several names: debugfs's `ln` leaves them at one."""
    counts: dict[str, int] = {}
    for name in first.values():
        counts[name] = counts.get(name, 0) + 1
    yield from (f"sif <{inodes[name]}> links_count {count}" for name, count in counts.items() if count > 1)


def _times(ordered: Iterable[Entry], inodes: Mapping[str, int], epoch: int) -> Iterator[str]:
    """Yield the modification times before the epoch; debugfs's clock, which is all the others, stands at the epoch."""
    for entry in ordered:
        if entry.mtime < epoch and entry.link in ("", entry.path):
            yield f"sif <{inodes[entry.path]}> mtime @{max(entry.mtime, 0)}"


def _quoted(text: str) -> str:
    """Return a word for libss's parser: double quotes around it, and two for one within."""
    return '"' + text.replace('"', '""') + '"'


def _joined(lines: Iterable[str]) -> bytes:
    encoded = [os.fsencode(line) for line in lines]
    for line in encoded:
        if len(line) > _MAX_LINE or b"\n" in line or b"\r" in line:
            raise InputError(
                Problem(
                    message=f"a name in the tree cannot be written into an ext4 image: {os.fsdecode(line[:200])!r}",
                    hint="rename what has a line break in its name, or more than 4000 characters in its path",
                )
            )
    return b"\n".join(encoded) + b"\n"

"""Read an ext2, ext3 or ext4 file system inside an image: no mount, no root, no copy.

The layout is that of the kernel's Documentation/filesystems/ext4. debugfs can do all of this too, but walking a tree of
65 000 files with it takes 6 s and gives neither link targets nor contents, which would have to be dumped to disk first;
this takes under 2 s and hashes in place. Of the libraries on the package index, one pins the exact versions of three
others and needs 7 s for that walk, the other is under the AGPL.
"""

from __future__ import annotations

import contextlib
import mmap
import stat as st
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InputError, Problem
from builder.image.filesystem import Entry, FileSystem, Kind, pieces

_MAGIC = 0xEF53
_EXTENT_MAGIC = 0xF30A
_EXTENTS_FLAG = 0x80000
_INLINE_DATA_FLAG = 0x10000000
_ROOT_INODE = 2
_NOBODY = (1 << 32) - 1  # (uid_t)-1: "no change" to chown(2)
_DEPTH = 5  # of an extent tree
_UNWRITTEN = 32768  # an extent longer than this is allocated but holds zeros, its length is the rest
_FAST_SYMLINK = 60  # shorter targets stand in the inode
_64BIT = 0x80
_LIMITS = {st.S_IFDIR: 1 << 28, st.S_IFLNK: 4095}  # bytes; a damaged size would fill the memory
_PATH_LIMIT = 4095  # PATH_MAX of linux/limits.h without its NUL
_NAME_LIMIT = 1_000_000  # names in one file system: each takes memory here
_XATTR_LIMIT = 1 << 16  # XATTR_SIZE_MAX of linux/limits.h
_NO_OWNER = (1 << 32) - 1  # chown(2) would take it for "as it is"
# filetype, recover, extents, 64bit, mmp, flex_bg, ea_inode, dirdata, csum_seed, largedir, inline_data (each file asked)
_UNDERSTOOD = 0x2 | 0x4 | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000
_XATTR_MAGIC = 0xEA020000
_ACL = "system.posix_acl_"
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}
_KINDS: Mapping[int, Kind] = {
    st.S_IFREG: "file",
    st.S_IFDIR: "directory",
    st.S_IFLNK: "symlink",
    st.S_IFCHR: "character",
    st.S_IFBLK: "block",
    st.S_IFIFO: "fifo",
    st.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    links: int
    flags: int
    block: bytes
    at: int
    acl: int


def is_ext(data: mmap.mmap, offset: int) -> bool:
    """Say whether an ext file system begins `offset` bytes into the image."""
    return data[offset + 1080 : offset + 1082] == _MAGIC.to_bytes(2, "little")


@contextlib.contextmanager
def opened_ext4(image: Path, offset: int, name: str) -> Iterator[Ext4Reader]:
    """Open the ext file system `offset` bytes into an image file; `name` says in messages which it is."""
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        yield Ext4Reader(data, offset, name)


class Ext4Reader(FileSystem):
    """An ext file system at `offset` bytes in a mapped image. Raises InputError for what it cannot read."""

    kind = "ext4"

    def __init__(self, data: mmap.mmap, offset: int, name: str) -> None:
        """`name` says in messages which file system of which image it is."""
        self._data = data
        self._offset = offset
        self.name = name
        self._directories: dict[int, tuple[str, dict[str, Entry]]] = {}
        self._names_left = _NAME_LIMIT
        block = offset + 1024
        if len(data) < block + 1024 or not is_ext(data, offset):
            raise self._broken("no ext file system")
        (self._inodes, blocks, _reserved, free, _free_inodes, first, log_size) = struct.unpack_from("<7I", data, block)
        self._per_group, self._inodes_per_group = struct.unpack_from("<I4xI", data, block + 0x20)
        self._inode_size, incompatible = struct.unpack_from("<H6xI", data, block + 0x58)
        if incompatible & ~_UNDERSTOOD:
            raise self._broken(
                f"it uses features that cannot be read here (incompat 0x{incompatible & ~_UNDERSTOOD:x})"
            )
        self.dirty = bool(incompatible & 0x4)  # the journal holds what the file system does not yet
        wide = bool(incompatible & _64BIT)
        if wide:
            blocks |= struct.unpack_from("<I", data, block + 0x150)[0] << 32
            free |= struct.unpack_from("<I", data, block + 0x158)[0] << 32
        self._descriptor_size = max(32, struct.unpack_from("<H", data, block + 0xFE)[0]) if wide else 32
        self._inode_size = self._inode_size or 128
        self._block_size = 1024 << min(log_size, 7)
        self._descriptors = offset + (first + 1) * self._block_size
        odd = log_size > 6 or not 128 <= self._inode_size <= self._block_size or first > 1  # noqa: PLR2004
        if odd or not self._inodes_per_group or len(data) < offset + blocks * self._block_size:
            raise self._broken("the image ends before the file system does, or its superblock is damaged")
        self.uuid = str(uuid.UUID(bytes=bytes(data[block + 0x68 : block + 0x78])))
        self.label = data[block + 0x78 : block + 0x88].split(b"\0")[0].decode(errors="replace")
        self.size, self.free = blocks * self._block_size, free * self._block_size

    def _broken(self, what: str) -> InputError:
        return InputError(
            Problem(message=f"{self.name}: {what}", hint="check it with `e2fsck -fn`, or fetch the image again")
        )

    def _inode(self, number: int) -> _Inode:
        if not 1 <= number <= self._inodes:
            raise self._broken(f"inode {number} lies outside the file system")
        group, index = divmod(number - 1, self._inodes_per_group)
        descriptor = self._descriptors + group * self._descriptor_size
        try:
            table = struct.unpack_from("<I", self._data, descriptor + 8)[0]
            if self._descriptor_size >= 64:  # noqa: PLR2004 - with a 64-bit half
                table |= struct.unpack_from("<I", self._data, descriptor + 0x28)[0] << 32
            at = self._offset + table * self._block_size + index * self._inode_size
            mode, uid, size, atime, _ctime, mtime, _dtime, gid, links = struct.unpack_from("<HHIIIIIHH", self._data, at)
            flags = struct.unpack_from("<I", self._data, at + 0x20)[0]
            acl, size_high = struct.unpack_from("<II", self._data, at + 0x68)
            acl_high, uid_high, gid_high = struct.unpack_from("<HHH", self._data, at + 0x76)
            wide = self._inode_size > 128 and struct.unpack_from("<H", self._data, at + 0x80)[0] >= 16  # noqa: PLR2004
            more_m, more_a = struct.unpack_from("<II", self._data, at + 0x88) if wide else (0, 0)
        except (struct.error, OverflowError) as error:  # far outside, or too far for a position
            raise self._broken(f"inode {number} lies outside the image") from error
        return _Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=size | size_high << 32,
            atime=_nanoseconds(atime, more_a),
            mtime=_nanoseconds(mtime, more_m),
            links=links,
            flags=flags,
            block=self._data[at + 0x28 : at + 0x64],
            at=at,
            acl=acl | acl_high << 32,
        )

    def _entry(self, path: str, inode: _Inode) -> Entry:
        kind = _KINDS.get(st.S_IFMT(inode.mode))
        if kind is None:
            raise self._broken(f"{path} has the unknown file type 0{inode.mode:o}")
        if _NOBODY in (inode.uid, inode.gid):
            raise self._broken(f"{path} belongs to {_NOBODY}, which is no user's number nor a group's")
        return Entry(
            path=path,
            kind=kind,
            mode=inode.mode & 0o7777,
            uid=inode.uid,
            gid=inode.gid,
            size=inode.size if kind in ("file", "symlink") else 0,
            mtime=inode.mtime // 1_000_000_000,
            target=self._target(inode) if kind == "symlink" else "",
            inode=inode.number,
            links=inode.links,
            device=_device(inode.block) if kind in ("character", "block") else (0, 0),
        )

    def _target(self, inode: _Inode) -> str:
        fast = inode.size < _FAST_SYMLINK and not inode.flags & _EXTENTS_FLAG
        raw = inode.block[: inode.size] if fast else b"".join(self._content(inode))
        if not raw or b"\0" in raw:
            raise self._broken(f"inode {inode.number} is a symbolic link to nothing that can be named")
        return raw.decode(errors="surrogateescape")

    @property
    def top(self) -> Entry:
        """The root directory."""
        entry = self._entry("/", self._inode(_ROOT_INODE))
        if not entry.directory:
            raise self._broken("its root is no directory")
        return entry

    def children(self, directory: Entry) -> Mapping[str, Entry]:
        """Return the entries of a directory by name, in the order of the names; kept for the next time."""
        path, known = self._directories.get(directory.inode, (directory.path, None))
        if path != directory.path:
            raise self._broken(f"{directory.path} and {path} are one directory")
        if known is not None:
            return known
        prefix = directory.path.rstrip("/")
        found: dict[str, Entry] = {}
        for name, number in sorted(self._names(directory)):
            text = name.decode(errors="surrogateescape")
            if text in found:
                raise self._hostile(directory, f"two names {text!r}")
            found[text] = self._entry(f"{prefix}/{text}", self._inode(number))
        self._directories[directory.inode] = (directory.path, found)
        return found

    def _hostile(self, directory: Entry, what: str) -> InputError:
        hint = "no system makes such a directory: do not use this image"
        return InputError(Problem(message=f"{self.name}: {directory.path!r} holds {what}", hint=hint))

    def _names(self, directory: Entry) -> Iterator[tuple[bytes, int]]:
        """Yield (name, inode), every name one that cannot lead elsewhere. `.` and `..` are not read but known.

        Index blocks of hashed directories look like empty entries and fall out.
        """
        room = _PATH_LIMIT - len(directory.path.encode(errors="surrogateescape"))
        dots = set()
        for name, number in self._records(directory):
            if name in (b".", b"..") and name not in dots:
                dots.add(name)
                continue
            if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
                raise self._hostile(directory, f"the name {name.decode(errors='surrogateescape')!r}")
            self._names_left -= 1
            if len(name) >= room:
                raise self._hostile(directory, f"a path of more than {_PATH_LIMIT} bytes")
            if self._names_left < 0:
                raise self._hostile(directory, f"more names than the {_NAME_LIMIT} that one file system may have here")
            yield name, number

    def _records(self, directory: Entry) -> Iterator[tuple[bytes, int]]:
        inode = self._inode(directory.inode)
        content = b"".join(self._content(inode))
        at = 4 if inode.flags & _INLINE_DATA_FLAG else 0  # there the parent's number stands in the place of both dots
        while at + 8 <= len(content):
            number, length, name_length = struct.unpack_from("<IHB", content, at)
            if length < 8 or at + length > len(content):  # noqa: PLR2004 - the header alone
                raise self._broken(f"the directory {directory.path} is damaged")
            if number:
                yield content[at + 8 : at + 8 + name_length], number
            at += length

    def chunks(self, file: Entry) -> Iterator[bytes]:
        """Yield the content of a file, read in place."""
        if file.kind == "file":
            yield from self._content(self._inode(file.inode))

    def times(self, entry: Entry) -> tuple[int, int]:
        """Return when it was read and written, in nanoseconds since 1970."""
        inode = self._inode(entry.inode)
        return inode.atime, inode.mtime

    def data(self, file: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield the content of a file without its holes: (position, bytes), in order."""
        yield from self._data_of(self._inode(file.inode))

    def _content(self, inode: _Inode) -> Iterator[bytes]:
        """Yield the content in order, holes and unwritten extents as zeros."""
        if inode.size > self.size:
            raise self._oversized(inode)
        done = 0
        for position, piece in self._data_of(inode):
            yield from (bytes(length) for _, length in pieces(done, position - done))
            yield piece
            done = position + len(piece)
        yield from (bytes(length) for _, length in pieces(done, inode.size - done))

    def _oversized(self, inode: _Inode) -> InputError:
        return self._broken(f"inode {inode.number} claims {inode.size} bytes, more than the file system has")

    def _data_of(self, inode: _Inode) -> Iterator[tuple[int, bytes]]:
        limit = _LIMITS.get(st.S_IFMT(inode.mode))
        if limit is not None and inode.size > limit:
            raise self._broken(f"inode {inode.number} claims {inode.size} bytes, more than its kind may have")
        if inode.flags & _INLINE_DATA_FLAG:
            yield 0, (inode.block + self._attributes_of(inode).get("system.data", b""))[: inode.size]
            return
        done = 0
        runs = self._extents(inode.block) if inode.flags & _EXTENTS_FLAG else self._mapped(inode)
        for logical, physical, count in runs:
            begin, end = logical * self._block_size, min((logical + count) * self._block_size, inode.size)
            if not count or begin < done or (physical + count) * self._block_size > self.size:
                raise self._broken(f"the block map of inode {inode.number} is damaged")
            if begin >= inode.size:
                return
            if physical:
                start = self._offset + physical * self._block_size
                yield from (
                    (begin + at - start, self._data[at : at + length]) for at, length in pieces(start, end - begin)
                )
            done = end

    def _extents(self, node: bytes, below: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Yield (first logical block, first physical block or 0 for zeros, number of blocks).

        `below` is the depth that the node above asks for; a node that holds nothing has none above it.
        """
        magic, entries, _maximum, depth = struct.unpack_from("<4H", node)
        placed = depth <= _DEPTH if below is None else depth == below and entries
        if magic != _EXTENT_MAGIC or not placed or 12 + entries * 12 > len(node):
            raise self._broken("an extent tree is damaged")
        for at in range(12, 12 + entries * 12, 12):
            if depth == 0:
                logical, count, high, low = struct.unpack_from("<IHHI", node, at)
                unwritten = count > _UNWRITTEN
                yield logical, 0 if unwritten else high << 32 | low, count - _UNWRITTEN if unwritten else count
            else:
                _logical, low, high = struct.unpack_from("<IIH", node, at)
                yield from self._extents(self._block(high << 32 | low), depth - 1)

    def _block(self, number: int) -> bytes:
        start = self._offset + number * self._block_size
        if (number + 1) * self._block_size > self.size:
            raise self._broken(f"block {number} lies outside the file system")
        return self._data[start : start + self._block_size]

    def _mapped(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        """Yield runs of one block of the old block map: 12 direct blocks, then indirect, double and triple."""
        if inode.size > self.size:
            raise self._oversized(inode)
        pointers = struct.unpack("<15I", inode.block)
        blocks = -(-inode.size // self._block_size)
        yield from ((logical, pointers[logical], 1) for logical in range(min(12, blocks)))
        first = 12
        for level, pointer in enumerate(pointers[12:], start=1):
            span = (self._block_size // 4) ** level
            if first < blocks and pointer:
                yield from self._indirect(pointer, level, first, blocks)
            first += span

    def _indirect(self, pointer: int, level: int, first: int, blocks: int) -> Iterator[tuple[int, int, int]]:
        span = (self._block_size // 4) ** (level - 1)
        for index, number in enumerate(struct.unpack(f"<{self._block_size // 4}I", self._block(pointer))):
            logical = first + index * span
            if logical >= blocks:
                return
            if number and level > 1:
                yield from self._indirect(number, level - 1, logical, blocks)
            elif number:
                yield logical, number, 1

    def xattrs(self, entry: Entry) -> Mapping[str, bytes]:
        """Return the extended attributes by their full names, values as getxattr(2) gives them."""
        found = self._attributes_of(self._inode(entry.inode))
        found.pop("system.data", None)
        return {name: _acl(value) if name.startswith(_ACL) else value for name, value in sorted(found.items())}

    def _attributes_of(self, inode: _Inode) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if self._inode_size > 128:  # noqa: PLR2004 - with room behind the old inode
            body = self._data[inode.at + 128 : inode.at + self._inode_size]
            extra = struct.unpack_from("<H", body)[0]
            if extra + 4 <= len(body) and struct.unpack_from("<I", body, extra)[0] == _XATTR_MAGIC:
                found |= self._attributes(body[extra + 4 :], 0)
        if inode.acl:
            block = self._block(inode.acl)
            if struct.unpack_from("<I", block)[0] == _XATTR_MAGIC:
                found |= self._attributes(block, 32)
        return found

    def _attributes(self, area: bytes, at: int) -> dict[str, bytes]:
        """Parse attribute entries from `at` on; the offsets of their values count from the beginning of `area`."""
        found = {}
        while at + 16 <= len(area) and area[at : at + 4] != b"\0\0\0\0":
            length, prefix, offset, value_inode, size = struct.unpack_from("<BBHII", area, at)
            name = _XATTR_PREFIXES.get(prefix, f"{prefix}.") + area[at + 16 : at + 16 + length].decode(errors="replace")
            if value_inode:
                inode = self._inode(value_inode)
                if inode.size > _XATTR_LIMIT:
                    raise self._broken(f"the extended attribute {name} claims {inode.size} bytes")
                found[name] = b"".join(self._content(inode))
            else:
                found[name] = area[offset : offset + size]
            at += (16 + length + 3) & ~3
        return found


def _acl(value: bytes) -> bytes:
    """Return an ACL as the kernel gives it (linux/posix_acl_xattr.h) from what the disk holds (fs/ext4/acl.h)."""
    found, at = [struct.pack("<I", 2)], 4
    while at + 4 <= len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        named = tag in (0x02, 0x08) and at + 8 <= len(value)  # ACL_USER, ACL_GROUP
        found.append(
            struct.pack("<HHI", tag, permissions, *struct.unpack_from("<I", value, at + 4) if named else (_NO_OWNER,))
        )
        at += 8 if named else 4
    return b"".join(found)


def _nanoseconds(seconds: int, extra: int) -> int:
    """Return ns since 1970 from the signed 32-bit field and the word that widens it: two bits of epoch, 30 of ns."""
    signed = seconds - (1 << 32) if seconds >= 1 << 31 else seconds
    return (signed + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


def _device(block: bytes) -> tuple[int, int]:
    """Return (major, minor): old encoding in the first word or new one in the second (kernel: new_decode_dev)."""
    old, new = struct.unpack_from("<II", block)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

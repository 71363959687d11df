"""Take the files out of the partitions of an image without mounting them: debugfs for ext4, mtools for FAT.

`debugfs rdump` alone loses hard links, extended attributes, set-user-id bits, device nodes, holes and fractions of a
second; what debugfs says of every inode (`ls -p`, `stat`, `ea_get`) puts them back.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import HostError
from builder.run import find_tool, run

_ROOT_INODE = 2  # Documentation/filesystems/ext4/special_inodes.rst
_SECTOR = 512
_LISTED = re.compile(r"/(\d+)/(\d{6})/(\d+)/(\d+)/(.*)/(\d*)/")  # inode, octal mode, uid, gid, name, size
_TIME = re.compile(r" (a|m)time: 0x([0-9a-f]{8})(?::([0-9a-f]{8}))? ")  # seconds; nanoseconds << 2 | epoch
_XATTR = re.compile(r"  ([a-z]+\.\S+) \(\d+\)")
_DEVICE = re.compile(r"Device major/minor number: (\d+):(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """One name in a directory, and the owner and mode of its inode."""

    path: str  # relative to the root, "" for the root itself
    inode: int
    mode: int
    uid: int
    gid: int


@dataclass(slots=True, kw_only=True)
class _Inode:
    """What `debugfs stat` says beyond the listing. Times in ns since 1970, `blocks` of 512 bytes."""

    atime: int = 0
    mtime: int = 0
    blocks: int = 0
    device: int = 0
    xattrs: list[str] = field(default_factory=list)


def extract_ext4(image: Path, offset: int, into: Path, *, scratch: Path) -> None:
    """Copy an ext file system at `offset` bytes of an image into the empty directory `into`, with all its inodes hold.

    Needs root (owners, device nodes, capabilities). Raises HostError where debugfs cannot read the file system.
    """
    source = f"{image}?offset={offset}"
    _debugfs(source, [f'rdump / "{into}"'], scratch)
    names = list(_list_tree(source, scratch))
    inodes = _read_inodes(source, sorted({name.inode for name in names}), scratch)
    _link_and_make(into, names, inodes)
    values = _read_xattrs(source, inodes, scratch)
    for name in reversed(names):  # a directory comes after what it holds, which would change its times
        _restore(into / name.path, name, inodes[name.inode], values.get(name.inode, {}))


def _debugfs(source: str, requests: Sequence[str], scratch: Path) -> str:
    """Run debugfs with a list of requests. It always exits with 0; what it complains of stands on stderr."""
    script = scratch / "debugfs.requests"
    script.write_text("".join(f"{request}\n" for request in requests))
    done = run([find_tool("debugfs", package="e2fsprogs"), "-f", script, source], what="reading the root partition")
    script.unlink()
    complaints = done.stderr.strip().splitlines()[1:]  # the first line is the version
    if complaints:
        said = "\n".join(complaints[:10])
        raise HostError(f"{source}: debugfs cannot read the file system\n{said}", hint="check it with `e2fsck -fn`")
    return done.stdout


def _list_tree(source: str, scratch: Path) -> Iterator[_Listed]:
    """Yield every name, a directory before what it holds; one debugfs run for each level of directories."""
    level = [_Listed(path="", inode=_ROOT_INODE, mode=0, uid=0, gid=0)]
    while level:
        listing = _debugfs(source, [f"ls -p <{directory.inode}>" for directory in level], scratch)
        blocks = listing.split("debugfs: ls -p ")[1:]
        if len(blocks) != len(level):
            raise HostError(f"{source}: debugfs listed {len(blocks)} of {len(level)} directories")
        below = []
        for directory, block in zip(level, blocks, strict=True):
            for name in _parse_listing(directory.path, block):
                yield name
                if name.path and stat.S_ISDIR(name.mode):
                    below.append(name)
        level = below


def _parse_listing(directory: str, block: str) -> Iterator[_Listed]:
    """Yield a directory's names; `.` of the root is the root itself, all other dots are left out."""
    for line in block.splitlines()[1:]:
        if not line:
            continue
        match = _LISTED.fullmatch(line)
        if match is None:
            raise HostError(f"debugfs: a name in /{directory} cannot be read: {line!r}", hint="use --attach loop")
        inode, mode, uid, gid, name = int(match[1]), int(match[2], 8), int(match[3]), int(match[4]), match[5]
        if inode == 0 or name == ".." or (name == "." and directory):
            continue
        path = "" if name == "." else f"{directory}/{name}".lstrip("/")
        yield _Listed(path=path, inode=inode, mode=mode, uid=uid, gid=gid)


def _read_inodes(source: str, numbers: Sequence[int], scratch: Path) -> dict[int, _Inode]:
    said = _debugfs(source, [f"stat <{number}>" for number in numbers], scratch)
    blocks = re.split(r"^debugfs: stat <(\d+)>$", said, flags=re.MULTILINE)[1:]
    inodes = {int(number): _parse_inode(text) for number, text in zip(blocks[::2], blocks[1::2], strict=True)}
    if len(inodes) != len(numbers):
        raise HostError(f"{source}: debugfs described {len(inodes)} of {len(numbers)} inodes")
    return inodes


def _parse_inode(text: str) -> _Inode:
    found = _Inode()
    for which, seconds, extra in _TIME.findall(text):
        low, high = int(seconds, 16), int(extra or "0", 16)
        signed = low - (1 << 32) if low & 1 << 31 else low
        time = (signed + ((high & 3) << 32)) * 1_000_000_000 + (high >> 2)
        if which == "a":
            found.atime = time
        else:
            found.mtime = time
    if match := re.search(r"Blockcount: (\d+)", text):
        found.blocks = int(match[1])
    if match := _DEVICE.search(text):
        found.device = os.makedev(int(match[1]), int(match[2]))
    if "Extended attributes:\n" in text:
        for line in text.partition("Extended attributes:\n")[2].splitlines():
            match = _XATTR.match(line)
            if match is None:
                break
            found.xattrs.append(match[1])
    return found


def _read_xattrs(source: str, inodes: dict[int, _Inode], scratch: Path) -> dict[int, dict[str, bytes]]:
    """Return the extended attributes' values by inode and name."""
    wanted = [(number, name) for number, inode in inodes.items() for name in inode.xattrs]
    files = [scratch / f"xattr-{index}" for index in range(len(wanted))]
    requests = [f'ea_get -f "{file}" <{number}> {name}' for file, (number, name) in zip(files, wanted, strict=True)]
    if requests:
        _debugfs(source, requests, scratch)
    values: dict[int, dict[str, bytes]] = {}
    for file, (number, name) in zip(files, wanted, strict=True):
        values.setdefault(number, {})[name] = file.read_bytes()
        file.unlink()
    return values


def _link_and_make(into: Path, names: Sequence[_Listed], inodes: dict[int, _Inode]) -> None:
    """Make hard links of what rdump copied twice, and the nodes that it leaves out."""
    firsts: dict[int, Path] = {}
    for name in names:
        path = into / name.path
        if stat.S_ISDIR(name.mode):
            continue
        if name.inode in firsts:
            path.unlink(missing_ok=True)
            os.link(firsts[name.inode], path, follow_symlinks=False)
            continue
        firsts[name.inode] = path
        if not (stat.S_ISREG(name.mode) or stat.S_ISLNK(name.mode)):
            os.mknod(path, name.mode, inodes[name.inode].device)
        elif stat.S_ISREG(name.mode) and inodes[name.inode].blocks * _SECTOR < path.stat().st_size:
            run([find_tool("fallocate", package="util-linux"), "--dig-holes", path])


def _restore(path: Path, name: _Listed, inode: _Inode, xattrs: dict[str, bytes]) -> None:
    """Give a file what its inode had: the owner first, for it takes set-user-id bits and capabilities away."""
    os.chown(path, name.uid, name.gid, follow_symlinks=False)
    if not stat.S_ISLNK(name.mode):
        path.chmod(stat.S_IMODE(name.mode))
    for key, value in xattrs.items():
        os.setxattr(path, key, value, follow_symlinks=False)
    os.utime(path, ns=(inode.atime, inode.mtime), follow_symlinks=False)


def extract_fat(image: Path, offset: int, into: Path) -> None:
    """Copy a FAT file system at `offset` bytes of an image into the empty directory `into`.

    Owners and modes are what the kernel shows for a FAT mounted by root: root's, 0755. Names and times are the file
    system's own, times read as UTC. Raises CommandError where mtools cannot read it.
    """
    mcopy = find_tool("mcopy", package="mtools")
    argv: list[str | Path] = [mcopy, "-s", "-n", "-Q", "-m", "-i", f"{image}@@{offset}", "::/", into]
    env = {"MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1"}
    run(
        argv,
        what="reading the boot partition",
        env=env,
        hint="is this a FAT file system? `file` and `fsck.fat -n` tell",
    )
    newest = 0
    for path in into.rglob("*"):
        path.chmod(0o755)
        newest = max(newest, path.stat().st_mtime_ns)
    into.chmod(0o755)
    os.utime(into, ns=(newest, newest))

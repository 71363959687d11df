"""Take the files out of the partitions of an image without mounting them.

An ext file system is read by `ext4_read`, and written with what every inode holds: hard links, extended attributes,
set-user-id bits, device nodes, holes and fractions of a second. debugfs' `rdump` loses all of these, and follows what
an image puts in its way: a symbolic link and a directory of one name, a name with slashes. Here every name is checked
when it is read, and made below a descriptor of its directory, which was reached without following anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from builder.errors import InputError, Problem
from builder.firmware.names import name_for_firmware
from builder.image.ext4_read import Ext4Reader
from builder.image.fat_check import check_fat
from builder.image.fat_read import PATIENCE
from builder.image.filesystem import Entry, Kind
from builder.run import find_tool, run

_TYPES: dict[Kind, int] = {
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# What the kernel says of things that no system could have made; a full disk and the like are not the image's.
_NOT_OURS = frozenset(
    {
        errno.E2BIG,
        errno.EFBIG,
        errno.EINVAL,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.EOPNOTSUPP,
        errno.EOVERFLOW,
        errno.ERANGE,
    }
)


def extract_ext4(system: Ext4Reader, into: Path) -> None:
    """Copy an ext file system into the empty directory `into`, with all its inodes hold.

    Needs root (owners, device nodes, capabilities). Raises InputError for a file system that is damaged or hostile.
    """
    with _opened(into) as top:
        _Extraction(system, top).run()


class _Extraction:
    """One file system on its way into a directory."""

    def __init__(self, system: Ext4Reader, top: int) -> None:
        self._system = system
        self._top = top
        self._left = system.size  # bytes of content; blocks that many files share would fill the disk
        self._firsts: dict[int, Entry] = {}

    def run(self) -> None:
        """Make everything; a directory's own times come last, for what is made in it changes them."""
        directories = [self._system.top]
        for directory in directories:
            with self._inside(directory.path) as at:
                for entry in self._system.children(directory).values():
                    with _told(self._system, entry):
                        self._make(at, entry)
                    if entry.directory:
                        directories.append(entry)
        for directory in reversed(directories):
            with _told(self._system, directory), self._inside(directory.path) as at:
                self._restore(at, directory)

    @contextlib.contextmanager
    def _inside(self, path: str) -> Iterator[int]:
        """Open a directory that was made, name by name from the top."""
        at = os.dup(self._top)
        try:
            for name in path.split("/"):
                if name:
                    below = os.open(name, _DIRECTORY, dir_fd=at)
                    os.close(at)
                    at = below
            yield at
        finally:
            os.close(at)

    def _make(self, at: int, entry: Entry) -> None:
        if entry.directory:
            os.mkdir(entry.name, 0o700, dir_fd=at)
            return
        first = self._firsts.setdefault(entry.inode, entry)
        if first is not entry:
            with self._inside(first.path.rpartition("/")[0]) as there:
                os.link(first.name, entry.name, src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)
            return
        if entry.kind == "symlink":
            os.symlink(entry.target, entry.name, dir_fd=at)
            self._restore_link(at, entry)
            return
        if entry.kind == "file":
            made = os.open(entry.name, _NEW, 0o600, dir_fd=at)
        else:
            os.mknod(entry.name, _TYPES[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=at)
            made = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=at)
        try:
            if entry.kind == "file":
                self._write(made, entry)
            self._restore(made, entry)
        finally:
            os.close(made)

    def _write(self, file: int, entry: Entry) -> None:
        for position, piece in self._system.data(entry):
            self._left -= len(piece)
            if self._left < 0:
                hint = "check it with `e2fsck -fn`, or fetch the image again"
                what = f"{entry.path}: files share blocks, all in all more than the file system has"
                raise InputError(Problem(message=what, hint=hint))
            os.pwrite(file, piece, position)
        os.ftruncate(file, entry.size)

    def _restore(self, made: int, entry: Entry) -> None:
        """Give an inode what it had: the owner first, for it takes set-user-id bits and capabilities away.

        /proc/self/fd leads to the very inode that was made: a device node cannot be opened to be changed.
        """
        path = Path(f"/proc/self/fd/{made}")
        os.chown(path, entry.uid, entry.gid)
        path.chmod(entry.mode)
        for key, value in self._system.xattrs(entry).items():
            os.setxattr(path, key, value)
        os.utime(path, ns=self._system.times(entry))

    def _restore_link(self, at: int, entry: Entry) -> None:
        os.chown(entry.name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
        path = f"/proc/self/fd/{at}/{entry.name}"
        for key, value in self._system.xattrs(entry).items():
            os.setxattr(path, key, value, follow_symlinks=False)
        os.utime(entry.name, ns=self._system.times(entry), dir_fd=at, follow_symlinks=False)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    made = os.open(directory, _DIRECTORY)
    try:
        yield made
    finally:
        os.close(made)


@contextlib.contextmanager
def _told(system: Ext4Reader, entry: Entry) -> Iterator[None]:
    """Name the file when the kernel refuses what the image says of it."""
    try:
        yield
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_OURS:
            raise
        hint = "no system makes such a file: do not use this image"
        raise InputError(
            Problem(message=f"{system.name}: {entry.path!r} cannot be made: {error}", hint=hint)
        ) from error


def extract_fat(image: Path, offset: int, into: Path) -> None:
    """Copy a FAT file system at `offset` bytes of an image into the empty directory `into`.

    Owners and modes are what the kernel shows for a FAT mounted by root: root's, 0755. Names are those that the
    firmware asks for. Times are the file system's own, read as UTC. Raises InputError for directories without an end,
    CommandError where mtools cannot read it.
    """
    check_fat(image, offset, f"{image}, the boot partition")
    mcopy = find_tool("mcopy", package="mtools")
    argv: list[str | Path] = [mcopy, "-s", "-n", "-Q", "-m", "-i", f"{image}@@{offset}", "::/", into]
    env = {"MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1"}
    run(
        argv,
        what="reading the boot partition",
        env=env,
        hint="is this a FAT file system? `file` and `fsck.fat -n` tell",
        timeout=PATIENCE,
    )
    name_for_firmware(into)
    newest = 0
    for path in into.rglob("*"):
        path.chmod(0o755)
        newest = max(newest, path.stat().st_mtime_ns)
    into.chmod(0o755)
    os.utime(into, ns=(newest, newest))

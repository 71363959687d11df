"""What every file system inside an image offers a reader: listing, reading, walking, extracting. Nothing is written.

A file system knows its root directory, the children of a directory and the content of a file; path resolution, with
symlinks followed inside the file system and never out of it, is the same for all and stands here.
"""

from __future__ import annotations

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.errors import InputError, Problem

Kind = Literal["file", "directory", "symlink", "character", "block", "fifo", "socket"]
MAX_SYMLINKS = 40  # what path_resolution(7) allows
_PIECE = 1 << 20
_LIMIT = 256 << 20  # bytes that `read` takes; the biggest kernels and initramfs are below


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in a file system.

    `path` is absolute inside the file system, with bytes that are no UTF-8 as surrogates (as os.fsdecode gives them).
    `mode` holds the permission bits (07777), `size` bytes, `mtime` whole seconds since 1970, `target` what a symlink
    says, `device` (major, minor) of a device node. Entries with the same `inode` (not 0) are hard links to one file.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: str = ""
    inode: int = 0
    links: int = 1
    device: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == "directory"


class FileSystem(ABC):
    """A file system read without mounting it. Sizes are bytes.

    Paths are absolute inside the file system. A path that is not there raises FileNotFoundError, a file in the place
    of a directory NotADirectoryError, a directory in the place of a file IsADirectoryError, a loop of symlinks OSError
    (ELOOP).
    """

    kind: str
    label: str
    uuid: str
    size: int
    free: int

    @property
    @abstractmethod
    def top(self) -> Entry:
        """The root directory."""

    @abstractmethod
    def children(self, directory: Entry) -> Mapping[str, Entry]:
        """Return the entries of a directory by the name they are looked up with, in the order of the names."""

    @abstractmethod
    def chunks(self, file: Entry) -> Iterator[bytes]:
        """Yield the content of a file."""

    def xattrs(self, entry: Entry) -> Mapping[str, bytes]:  # noqa: ARG002 - a file system without them
        """Return the extended attributes by their full names, such as `security.capability`."""
        return {}

    def fold(self, name: str) -> str:
        """Return a name as `children` has it: the same unless the file system ignores case."""
        return name

    def close(self) -> None:  # noqa: B027 - nothing to give back by default
        """Give back what reading took."""

    def stat(self, path: str, *, follow: bool = True) -> Entry:
        """Return the entry at a path; `follow`: whether a symlink at its end is followed (those before always are)."""
        trail = [self.top]
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                trail = trail[: max(1, len(trail) - 1)]
                continue
            if not trail[-1].directory:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            entry = self.children(trail[-1]).get(self.fold(name))
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, "no such file in the image", path)
            if entry.kind == "symlink" and (follow or any(part not in ("", ".") for part in todo)):
                links += 1
                if links > MAX_SYMLINKS:
                    raise OSError(errno.ELOOP, "too many levels of symbolic links", path)
                todo.extend(entry.target.split("/")[::-1])
                if entry.target.startswith("/"):
                    trail = trail[:1]
                continue
            trail.append(entry)
        return trail[-1]

    def find(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return the entry at a path, or None when there is none (a dangling symlink included)."""
        try:
            return self.stat(path, follow=follow)
        except OSError:
            return None

    def list(self, path: str) -> tuple[Entry, ...]:
        """Return what a directory holds, in the order of the names."""
        directory = self.stat(path)
        if not directory.directory:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        return tuple(self.children(directory).values())

    def walk(self, path: str = "/") -> Iterator[Entry]:
        """Yield everything below a directory, not itself: parents first, names in order, symlinks unfollowed."""
        todo = list(self.list(path))[::-1]
        while todo:
            entry = todo.pop()
            yield entry
            if entry.directory:
                todo.extend(list(self.children(entry).values())[::-1])

    def _file(self, path: str) -> Entry:
        entry = self.stat(path)
        if entry.directory:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return entry

    def read(self, path: str) -> bytes:
        """Return the content of a file; symlinks are followed inside the file system. InputError above 256 MiB."""
        file = self._file(path)
        if file.size > _LIMIT:
            what = f"{path} claims {file.size} bytes, too many to be read at once"
            raise InputError(
                Problem(message=what, hint="is the image damaged? e2fsck -fn on its root file system says it")
            )
        return b"".join(self.chunks(file))

    def text(self, path: str) -> str:
        """Return the content of a text file; bytes that are no UTF-8 become replacement characters."""
        return self.read(path).decode(errors="replace")

    def head(self, path: str, count: int) -> bytes:
        """Return at most the first `count` bytes of a file."""
        got = bytearray()
        for chunk in self.chunks(self._file(path)):
            got += chunk
            if len(got) >= count:
                break
        return bytes(got[:count])

    def sha256(self, file: Entry) -> str:
        """Return the SHA-256 of a file's content in hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks(file):
            digest.update(chunk)
        return digest.hexdigest()

    def extract(self, paths: Iterable[str], into: Path) -> Mapping[str, Path]:
        """Copy files and directories out; return where each path asked for lies now.

        Each lands under `into` (made if missing, else expected to be empty) at the path that it resolves to. Modes and
        times are kept, owners are not; symlinks inside a directory stay symlinks, device nodes, pipes and sockets are
        left out.
        """
        placed: dict[str, Path] = {}
        for path in paths:
            entry = self.stat(path)
            placed[path] = into / entry.path.lstrip("/")
            self._place(entry, placed[path])
            if entry.directory:
                inside = list(self.walk(entry.path))
                for each in inside:
                    self._place(each, into / each.path.lstrip("/"))
                for each in [*inside[::-1], entry]:
                    if each.directory:
                        os.utime(into / each.path.lstrip("/"), (each.mtime, each.mtime))
        return placed

    def _place(self, entry: Entry, at: Path) -> None:
        if entry.kind == "directory":
            at.mkdir(parents=True, exist_ok=True)
            return
        at.parent.mkdir(parents=True, exist_ok=True)
        at.unlink(missing_ok=True)
        if entry.kind == "symlink":
            at.symlink_to(entry.target)
        elif entry.kind == "file":
            with os.fdopen(os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for chunk in self.chunks(entry):
                    file.write(chunk)
            at.chmod(entry.mode & 0o777)
            os.utime(at, (entry.mtime, entry.mtime))


def pieces(start: int, length: int) -> Iterator[tuple[int, int]]:
    """Split a range of bytes into (start, length) of at most 1 MiB."""
    for at in range(start, start + length, _PIECE):
        yield at, min(_PIECE, start + length - at)

"""Paths inside a root, resolved as a process chrooted there would resolve them.

`resolve_in` is for a tree that nobody else changes. Where somebody may (a node mounts its roots read-write), a path
that was looked at is another one by the time it is opened: `held` goes by descriptors there, so that nothing outside
is ever opened, and opens nothing but directories and regular files, of a size that was agreed to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_MOST_LINKS = 40  # MAXSYMLINKS of linux/namei.h
_DEEPEST = 128  # directories; each holds a descriptor while a path is walked
_HERE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


def resolve_in(root: Path, path: str | PurePosixPath, *, follow: bool = True) -> Path:
    """Return where an in-root path lies on the host; the result is never outside the root.

    `path` counts from the root with or without its leading slash. Symbolic links are followed as if the root were `/`,
    and `..` stops there. Nothing need exist. `follow=False` leaves a symbolic link in the last place as it is, to be
    replaced or removed. Raises OSError (ELOOP) for links that go in circles.
    """
    pending = _names(PurePosixPath("/", path))
    done: list[str] = []
    links = 0
    while pending:
        name = pending.pop()
        if name == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, name)
        if not (follow or pending) or not here.is_symlink():
            done.append(name)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = PurePosixPath(here.readlink())
        if target.is_absolute():
            done.clear()
        pending += _names(target)
    return root.joinpath(*done)


def _names(path: PurePosixPath) -> list[str]:
    """Return a path's names without its root, the last one first."""
    return list(path.parts[1:] if path.is_absolute() else path.parts)[::-1]


def is_file(path: Path) -> bool:
    """Return whether a path leads to a file; one that no file can have (too long, a NUL byte) leads nowhere."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def exists(path: Path) -> bool:
    """Return whether a path leads anywhere, as `is_file` does."""
    return os.path.exists(path)  # noqa: PTH110 - as above


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """To whom something made belongs, and its permissions."""

    mode: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A directory held open. Paths count from it, links are followed inside it, and nothing leads out of it.

    Every name is opened in the directory that was opened before, none is resolved by the kernel: `..` goes back to
    what was passed, an absolute link begins anew. Whoever moves or replaces something meanwhile changes what is
    found, never where. Methods raise OSError.
    """

    descriptor: int

    def facts(self, path: str, *, follow: bool = False) -> os.stat_result | None:
        """Return what is known of what lies at a path, None where nothing does."""
        try:
            with self._at(path, follow=follow) as descriptor:
                return os.fstat(descriptor)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise

    def names(self) -> list[str]:
        """Return the names in it."""
        return sorted(os.listdir(self.descriptor))  # noqa: PTH208 - of a descriptor

    def link(self, path: str) -> str | None:
        """Return where a symbolic link points, None for anything else."""
        try:
            with self._at(path, follow=False) as descriptor:
                is_link = stat.S_ISLNK(os.fstat(descriptor).st_mode)
                return os.readlink("", dir_fd=descriptor) if is_link else None
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise

    def read(self, path: str, *, limit: int, follow: bool = False) -> bytes | None:
        """Return a regular file of at most `limit` bytes; None for anything else, which is not opened."""
        try:
            with self._at(path, follow=follow) as descriptor:
                known = os.fstat(descriptor)
                if not stat.S_ISREG(known.st_mode) or known.st_size > limit:
                    return None
                # by what was looked at, not by name: it is that file whatever lies there now
                with open(f"/proc/self/fd/{descriptor}", "rb", opener=_without_waiting) as file:
                    content = file.read(limit + 1)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise
        return content if len(content) <= limit else None

    @contextlib.contextmanager
    def directory(self, path: str, *, make: Callable[[PurePosixPath], Owner] | None = None) -> Iterator[Held]:
        """Hold a directory inside. `make` says for each missing one, by its path, how it is made; without it, none is.

        Raises OSError where something else lies there.
        """
        with self._at(path, follow=True, make=make) as descriptor:
            opened = os.open(f"/proc/self/fd/{descriptor}", _DIRECTORY & ~os.O_NOFOLLOW)
            try:
                yield Held(opened)
            finally:
                os.close(opened)

    def put(self, name: str, content: bytes | str, owner: Owner) -> None:
        """Put a file (or, of a string, a symbolic link to it) in the place of whatever has that name, in one rename."""
        new = f".{name}.pibuild"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self.descriptor)
        if isinstance(content, str):
            os.symlink(content, new, dir_fd=self.descriptor)
        else:
            with open(os.open(new, _NEW, 0o600, dir_fd=self.descriptor), "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(content)
                os.fchown(file.fileno(), owner.uid, owner.gid)
                os.fchmod(file.fileno(), owner.mode)
        os.replace(new, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    @contextlib.contextmanager
    def _at(self, path: str, *, follow: bool, make: Callable[[PurePosixPath], Owner] | None = None) -> Iterator[int]:
        """Give a descriptor (O_PATH) of what lies at a path."""
        walk = _Walk(self.descriptor, make)
        try:
            yield walk.to(path, follow=follow)
        finally:
            walk.close()


@dataclass(slots=True)
class _Walk:
    """A way down from a directory: the descriptors of what was passed, with their names."""

    start: int
    make: Callable[[PurePosixPath], Owner] | None
    passed: list[tuple[str, int]] = field(default_factory=list)

    def to(self, path: str, *, follow: bool) -> int:
        """Return the descriptor of what lies at a path."""
        pending = _names(PurePosixPath("/", path))
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                self._back(len(self.passed) - 1)
                continue
            target = self._enter(name, may_follow=follow or bool(pending))
            if target is None:
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.is_absolute():
                self._back(0)
            pending += _names(target)
        return self._here()

    def close(self) -> None:
        """Let go of what was passed."""
        self._back(0)

    def _here(self) -> int:
        return self.passed[-1][1] if self.passed else self.start

    def _back(self, to: int) -> None:
        while len(self.passed) > max(to, 0):
            os.close(self.passed.pop()[1])

    def _enter(self, name: str, *, may_follow: bool) -> PurePosixPath | None:
        """Go one name down; return where it points when it is a link that is to be followed, and stay."""
        if len(self.passed) >= _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
        try:
            descriptor = os.open(name, _HERE, dir_fd=self._here())
        except FileNotFoundError:
            if self.make is None:
                raise
            descriptor = self._made(name, self.make)
        if may_follow and stat.S_ISLNK(os.fstat(descriptor).st_mode):
            try:
                return PurePosixPath(os.readlink("", dir_fd=descriptor))
            finally:
                os.close(descriptor)
        self.passed.append((name, descriptor))
        return None

    def _made(self, name: str, make: Callable[[PurePosixPath], Owner]) -> int:
        owner = make(PurePosixPath(*(passed for passed, _ in self.passed), name))
        os.mkdir(name, 0o700, dir_fd=self._here())
        descriptor = os.open(name, _DIRECTORY, dir_fd=self._here())
        os.fchown(descriptor, owner.uid, owner.gid)
        os.fchmod(descriptor, owner.mode)
        return descriptor


@contextlib.contextmanager
def held(path: Path) -> Iterator[Held]:
    """Hold a directory. Raises OSError unless there is one; a link to one is none."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        yield Held(descriptor)
    finally:
        os.close(descriptor)


def read_in(root: Path, path: str, *, limit: int, follow: bool = False) -> bytes | None:
    """Return a regular file of at most `limit` bytes inside a directory, None where there is no such thing."""
    if not is_directory(root):
        return None
    with held(root) as inside:
        return inside.read(path, limit=limit, follow=follow)


def is_directory(path: Path) -> bool:
    """Return whether a directory lies there, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_there(path: Path) -> bool:
    """Return whether anything has that name, a link that leads nowhere included."""
    return os.path.lexists(path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)

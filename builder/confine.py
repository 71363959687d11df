"""Paths inside a root, resolved as a process chrooted there would resolve them."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

_MOST_LINKS = 40  # MAXSYMLINKS of linux/namei.h


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

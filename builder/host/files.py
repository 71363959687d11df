"""Files that are whole under their names, and on the disk before anybody relies on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o644, *, by_way_of: Path | None = None) -> None:
    """Write a file: complete under its name, or not at all. Until then it lies beside it, or where `by_way_of` says."""
    new = by_way_of or path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with new.open("xb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_all(contents: Mapping[Path, bytes], mode: int, *, by_way_of: Callable[[Path], Path]) -> None:
    """Write files as `write` does, all of one file system, and wait once for the disk; `by_way_of` names them anew."""
    new = {path: by_way_of(path) for path in contents}
    for path, content in contents.items():
        with new[path].open("xb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
    if new:
        sync_file_system(next(iter(new.values())).parent)
    for path, written in new.items():
        written.replace(path)


def sync(path: Path) -> None:
    """Bring a file's content, or a directory's entries, to the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Bring all of the file system to the disk that a path lies on (syncfs(2))."""
    from builder import syscalls  # noqa: PLC0415 - ctypes, for one function

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.sync_file_system(descriptor)
    finally:
        os.close(descriptor)

"""Files that a person, or a file of a person's, names: opened without waiting for what is no file, and bounded."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from builder.errors import InputError, Problem
from builder.host.confine import resolve_in

_LARGEST_TEXT = 64 << 20  # bytes: no recipe, inventory, key or list is longer
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a directory",
}


def open_named(path: Path, *, device: bool = False) -> io.BufferedReader:
    """Open a file for reading; links are followed. With `device` a block device will do, too.

    A named pipe would be waited for, for ever. Raises OSError, InputError for what is no file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG and not (device and kind == stat.S_IFBLK):
        os.close(descriptor)
        message = f"{path}: {no_file(kind)}"
        raise InputError(Problem(message=message, hint="write its content to a file, and name that"))
    return os.fdopen(descriptor, "rb")


def no_file(mode: int) -> str:
    """Return what a path is that is no regular file, by its mode; "" for a file."""
    kind = stat.S_IFMT(mode)
    return "" if kind == stat.S_IFREG else f"{_KINDS.get(kind, 'something else')}, not a file"


def read_named(path: Path) -> bytes:
    """Return the content of a file that is text. Raises OSError, InputError for what is no file or far too long."""
    with open_named(path) as file:
        content = file.read(_LARGEST_TEXT + 1)
    if len(content) > _LARGEST_TEXT:
        raise InputError(Problem(message=f"{path}: longer than {_LARGEST_TEXT >> 20} MiB", hint="name another file"))
    return content


def text_in(root: Path, path: str, *, errors: str = "replace") -> str:
    """Return a text file of a tree that somebody else made, "" where there is none; no link leads out of the tree.

    `errors` as of bytes.decode. Raises InputError for one far too long: a file without blocks may claim any size.
    """
    file = resolve_in(root, path)
    return read_named(file).decode(errors=errors).replace("\r\n", "\n") if file.is_file() else ""

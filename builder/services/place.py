"""Read and write a server's files below a root directory, and never outside it.

A link is followed as a process chrooted into the root would follow it, and stays. What lies below the root may be an
image's, so a file is opened only where it is one, and read up to a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path, PurePosixPath

from builder.errors import HostError, InputError, Mark, Problem
from builder.host.confine import resolve_in
from builder.host.files import sync
from builder.services.files import ConfigFile

BEGIN, END = "# pibuild: begin (written from the inventory; changes belong there)", "# pibuild: end"
STAGED = ".dpkg-new"  # dnsmasq reads every file in its directory but those of such names
_LARGEST = 32 << 20  # bytes; a hosts file of 10,000 nodes has half a megabyte


def at(root: Path, path: PurePosixPath) -> Path:
    """Return where a file lies. Raises HostError for links that go in circles."""
    try:
        return resolve_in(root, path)
    except OSError as error:
        raise HostError(f"{root / path.relative_to('/')}: {error.strerror}", hint="remove the link") from error


def staged(root: Path, path: PurePosixPath) -> Path:
    """Return where a new file waits, beside the one it replaces."""
    live = at(root, path)
    return live.with_name(live.name + STAGED)


def read(root: Path, path: PurePosixPath) -> bytes | None:
    """Return what a file holds, None where there is none. Raises HostError for what is no file, or huge."""
    live = at(root, path)
    try:
        descriptor = os.open(live, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST:
        os.close(descriptor)
        why = "is larger than any file of a server" if stat.S_ISREG(facts.st_mode) else "is no regular file"
        raise HostError(f"{live} {why}", hint=f"ls -l {live}; move it away")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_LARGEST + 1)


def read_text(root: Path, path: PurePosixPath) -> str | None:
    """Return a file as text that encodes to the same bytes again, whatever they are."""
    content = read(root, path)
    return None if content is None else content.decode(errors="surrogateescape")


def wanted(root: Path, file: ConfigFile, live: str | None) -> str:
    """Return what a file should hold. Raises InputError when the marks of pibuild's part are not one pair."""
    return with_block(live or "", file.text, at(root, file.path)) if file.block else file.text


def with_block(live: str, block: str | None, path: Path = Path("/etc/hosts")) -> str:
    """Return a text with pibuild's marked part replaced, added at its end, or with None taken out.

    All other bytes stay as they are: a line ends at a line feed and nowhere else. Raises InputError where a mark is
    missing or there twice: which lines are pibuild's cannot be told then.
    """
    lines = live.split("\n")
    marks = [number for number, line in enumerate(lines) if line.rstrip("\r") in {BEGIN, END}]
    found = [lines[number].rstrip("\r") for number in marks]
    marked = [] if block is None else [BEGIN, *block.removesuffix("\n").split("\n"), END]
    if block == "":
        marked = [BEGIN, END]
    if found == [BEGIN, END]:
        return "\n".join([*lines[: marks[0]], *marked, *lines[marks[1] + 1 :]])
    if found:
        raise InputError(_marks(path, found, marks[0]))
    if not marked:
        return live
    before = live if not live or live.endswith("\n") else f"{live}\n"
    return before + "\n".join(marked) + "\n"


def _marks(path: Path, found: list[str], first: int) -> Problem:
    lost = {BEGIN, END} - set(found)
    if lost:
        message, hint = f"{lost.pop()!r} is missing", f"sudoedit {path}: delete pibuild's lines and their other mark"
    else:
        message, hint = "pibuild's marks are there more than once, or the wrong way round", f"sudoedit {path}"
    return Problem(message=message, mark=Mark(file=path, line=first + 1, column=1), hint=f"{hint}; then apply again")


def stage(root: Path, path: PurePosixPath, text: str) -> Path:
    """Write a new file beside the one that it will replace, with its owner and mode."""
    live, new = at(root, path), staged(root, path)
    live.parent.mkdir(parents=True, exist_ok=True)
    write(new, text.encode(errors="surrogateescape"), like=live if live.exists() else None)
    return new


def swap(new: Path, live: Path) -> None:
    """Put a staged file in place by rename. One that something is mounted on, as in a container, is written instead.

    Such a write can be cut short; the journal then has the next run write the old one again, from the backup.
    """
    try:
        new.replace(live)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        with os.fdopen(os.open(live, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "r+b") as file:
            file.write(new.read_bytes())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        new.unlink()
    sync(live.parent)


def put(root: Path, path: PurePosixPath, content: bytes, *, like: Path | None = None) -> None:
    """Write a file, whole or not at all."""
    live, new = at(root, path), staged(root, path)
    live.parent.mkdir(parents=True, exist_ok=True)
    write(new, content, like=like)
    swap(new, live)


def write(path: Path, content: bytes, *, like: Path | None) -> None:
    """Write a new file, with the owner and mode of another, else 0644; what has its name goes."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    facts = like.stat() if like is not None else None
    if facts is not None:
        with contextlib.suppress(PermissionError):  # only root gives files away
            os.chown(path, facts.st_uid, facts.st_gid)
    path.chmod(stat.S_IMODE(facts.st_mode) if facts is not None else 0o644)

"""Where published models lie: a directory that any web server can serve, or an S3 bucket.

An object gets its name when it is whole, and not before; objects are written once and read often.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.errors import HostError
from builder.host.files import sync
from builder.host.locks import take
from builder.host.unwritable import is_full, why_not
from builder.modelstore.manifest import LARGEST

_BLOCK = 1 << 20
_TEMPORARY = "tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An object of a store: its name, its bytes, and when it was written (seconds since 1970)."""

    name: str
    size: int
    written: float


class Store(Protocol):
    """A store of objects, whose names are relative paths."""

    @property
    def shown(self) -> str:
        """What people call it."""

    def held(self, prefix: str) -> dict[str, Held]:
        """Return the objects whose names begin with `prefix`, sorted by name."""

    def read(self, name: str) -> bytes | None:
        """Return a small object's content, None when there is none; of one that is larger than a manifest, a part."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield an object's content in blocks. Raises FileNotFoundError."""

    def put(self, name: str, content: bytes) -> None:
        """Write an object; one of the name is replaced."""

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one of the name; return whether it was written."""

    def delete(self, name: str) -> None:
        """Remove an object."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other writers and collectors away for the time of a block, where the store can."""


class DirectoryStore:
    """A store in a directory. Files are 0644, directories 0755: a web server has to read them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def shown(self) -> str:
        """Its path."""
        return str(self.directory)

    def held(self, prefix: str) -> dict[str, Held]:
        """Return the files below the directory that `prefix` names."""
        found = {}
        for path in sorted((self.directory / prefix).rglob("*")):
            if path.is_file():
                name, state = str(path.relative_to(self.directory)), path.stat()
                found[name] = Held(name=name, size=state.st_size, written=state.st_mtime)
        return found

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        try:
            with (self.directory / name).open("rb") as file:
                return file.read(LARGEST + 1)
        except FileNotFoundError:
            return None

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield a file's content."""
        with (self.directory / name).open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def put(self, name: str, content: bytes) -> None:
        """Write a file, and rename it to its name when it is on the disk."""
        final = self.directory / name
        with self._temporary(content) as new:
            _make(final.parent)
            new.replace(final)
        sync(final.parent)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file, and give it its name unless that is taken."""
        final = self.directory / name
        with self._temporary(content) as new:
            _make(final.parent)
            try:
                os.link(new, final)
            except FileExistsError:
                return False
        sync(final.parent)
        return True

    def delete(self, name: str) -> None:
        """Remove a file, and its directory when it was the last in it."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds others
            path.parent.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the store; what a killed writer left in tmp/ goes."""
        try:
            lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            take(lock, self.directory / ".lock", busy=f"another pibuild is at work in {self.directory}")
            for path in (self.directory / _TEMPORARY).glob("*"):
                path.unlink()
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _temporary(self, content: bytes) -> Iterator[Path]:
        """Write a file beside all others, to be given its name."""
        new = self.directory / _TEMPORARY / secrets.token_hex(8)
        try:
            new.parent.mkdir(exist_ok=True)
            with new.open("xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield new
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            new.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> HostError:
        hint = "make room: pibuild models gc" if is_full(error) else why_not(error, other="check who may write there")
        return HostError(f"{error.filename or self.directory}: {error.strerror}", hint=hint)


def _make(directory: Path) -> None:
    """Make a directory and those above it, with the modes a web server needs."""
    if not directory.is_dir():
        _make(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            directory.chmod(0o755)

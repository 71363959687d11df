"""What pibuild keeps between runs, and how a result gets its final name.

layers/KEY/{meta.json,fs/}   finished layers, named by their key
archives/                    .deb files, shared by all recipes
artifacts/SHA256             downloads, named by their checksum
resolutions/KEY.json         what the archive answered for a set of packages
lists/KEY/                   apt's package lists
tools/KEY/                   native tools trees and the launcher
tmp/                         work in progress; each directory is locked by the process that fills it
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import HostError, PibuildError
from builder.host.dirmode import is_open, let_in
from builder.host.files import sync, sync_file_system
from builder.host.locks import locked
from builder.host.scratch import remove_tree, sweep, work_in
from builder.host.unwritable import DiskFullError, is_full, unwritable


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache directory. `Cache.default()` finds it; nothing is created before it is needed."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """Return the cache at $PIBUILD_CACHE, else /var/cache/pibuild."""
        return cls(Path(os.environ.get("PIBUILD_CACHE", "/var/cache/pibuild")).absolute())

    @property
    def layers(self) -> Path:
        """Finished layers."""
        return self.root / "layers"

    @property
    def archives(self) -> Path:
        """Package files, shared by all recipes."""
        return self.root / "archives"

    @property
    def artifacts(self) -> Path:
        """Downloads by checksum."""
        return self.root / "artifacts"

    @property
    def resolutions(self) -> Path:
        """What the archive answered."""
        return self.root / "resolutions"

    @property
    def lists(self) -> Path:
        """Package lists of apt, one directory a set of sources."""
        return self.root / "lists"

    @property
    def tools(self) -> Path:
        """Native tools trees and the launcher."""
        return self.root / "tools"

    @property
    def tmp(self) -> Path:
        """Work in progress."""
        return self.root / "tmp"

    def prepare(self) -> None:
        """Create the directories and sweep what dead processes left. Raises HostError where that is not allowed."""
        try:
            for path in (
                self.layers,
                self.archives,
                self.artifacts,
                self.resolutions,
                self.lists,
                self.tools,
                self.tmp,
            ):
                path.mkdir(parents=True, exist_ok=True)
                let_in(path)
                if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        except OSError as error:
            other = "name another directory in PIBUILD_CACHE"
            raise unwritable(f"the cache {self.root}", error, other=other) from error
        self.sweep()

    def sweep(self) -> None:
        """Remove work in progress whose process is gone."""
        sweep(self.tmp)

    def put_aside(self, path: Path) -> None:
        """Take a layer with wrong modes out of the way; a build that uses it keeps it until the next sweep."""
        if path.is_dir() and not is_open(path):
            path.rename(self.tmp / f"aside-{secrets.token_hex(6)}")

    def discard(self, path: Path) -> None:
        """Remove an entry: its name is gone at once, so that no build ever takes half of it for the whole."""
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        with self.scratch("gone") as place:
            path.rename(place / "entry")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep what is in the cache from being collected while the block runs; any number of builds at once."""
        with locked(self.layers, busy=f"the cache {self.root} is being collected", shared=True):
            yield

    @contextlib.contextmanager
    def unused(self) -> Iterator[None]:
        """Run a block while no build uses the cache. Raises HostError when one does."""
        busy, hint = f"a build is using {self.root}", "collect when it has ended"
        with locked(self.layers, busy=busy, wait=False, hint=hint):
            yield

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Turn every way in which calls and tools say that the disk is full into one HostError."""
        try:
            yield
        except HostError:
            raise
        except (OSError, PibuildError) as error:
            if not is_full(error):
                raise
            detail = error.message if isinstance(error, PibuildError) else str(error)
            raise DiskFullError(
                f"the disk of {self.root} is full: {detail}",
                hint=f"free some space (df -h {self.root}; pibuild gc --keep-days 7), or give another PIBUILD_CACHE",
            ) from error

    @contextlib.contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """Give a new directory under tmp, locked while the block runs and gone after it."""
        with work_in(self.tmp, prefix=f"{prefix}-") as path:
            yield path


def commit(source: Path, final: Path) -> None:
    """Give a finished directory or file its final name by one rename, after its content has reached the disk.

    Where the final name exists already (another build was faster), the source is dropped: names are content keys.
    """
    (sync_file_system if source.is_dir() else sync)(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(final)
    except OSError:
        if not final.exists():
            raise
        remove_tree(source)
    sync(final.parent)


def read_json(path: Path) -> Any:
    """Return the JSON in a file, None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file: complete under its final name, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    commit(partial, path)

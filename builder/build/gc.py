"""Remove from the cache what no build has used for a while, and what killed builds left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.host.cache import Cache

_DAY = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """An entry that goes, or would. `size` is bytes on disk, `used` the day it was last used."""

    path: Path
    size: int
    used: str


def collect(cache: Cache, *, keep_days: int, dry_run: bool) -> tuple[Removed, ...]:
    """Remove entries not used for `keep_days` days, and stale work in progress; return them, oldest first.

    A layer's use is the last build that mounted it. Raises HostError where the cache cannot be written, or a build is
    using it.
    """
    if not cache.root.is_dir():
        return ()
    before = time.time() - keep_days * _DAY
    found = [
        Removed(path=path, size=_size(path), used=time.strftime("%Y-%m-%d", time.localtime(used)))
        for used, path in sorted((_last_used(path), path) for path in _entries(cache))
        if used < before
    ]
    if not dry_run:
        cache.prepare()
        with cache.unused():
            for entry in found:
                cache.discard(entry.path)
    return tuple(found)


def _entries(cache: Cache) -> Iterator[Path]:
    for directory in (cache.layers, cache.archives, cache.artifacts, cache.resolutions, cache.lists, cache.tools):
        if directory.is_dir():
            yield from directory.iterdir()


def _last_used(path: Path) -> float:
    """Return when an entry was last used (seconds): builds touch directories; reading a file moves its access time.

    A directory's access time says nothing: looking into it to measure it is an access too.
    """
    status = path.lstat()
    return status.st_mtime if path.is_dir() else max(status.st_mtime, status.st_atime)


def _size(path: Path) -> int:
    paths = [path, *(path.rglob("*") if path.is_dir() else ())]
    return sum(item.lstat().st_blocks * 512 for item in paths)

"""What an overlay directory holds: files, directories and links, in one order wherever it lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.host.data import shipped_links

_BYTECODE = "__pycache__"  # made where a program is installed or run; never part of an overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """Something in an overlay directory: its host path, its path in the root, where it points if it is a link."""

    source: Path
    path: str
    link: str | None = None

    @property
    def kind(self) -> str:
        """Return link, directory, file or special."""
        if self.link is not None:
            return "link"
        if self.source.is_file():
            return "file"
        return "directory" if self.source.is_dir() or shipped_links(self.source) else "special"


def walk(source: Path) -> Iterator[Laid]:
    """Yield everything below a directory, sorted, a directory before what is in it."""
    found = dict(shipped_links(source))
    with contextlib.suppress(FileNotFoundError), os.scandir(source) as entries:  # of links alone
        found |= {entry.name: str(Path(entry.path).readlink()) if entry.is_symlink() else "" for entry in entries}
    for name, link in sorted(found.items()):
        if name == _BYTECODE:
            continue
        one = Laid(source=source / name, path=f"/{name}", link=link or None)
        yield one
        if one.kind == "directory":
            for inner in walk(one.source):
                yield Laid(source=inner.source, path=one.path + inner.path, link=inner.link)

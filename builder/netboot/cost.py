"""How much disk the roots of an explode take, and what would take less."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.progress import size

_BLOCK = 512  # bytes that st_blocks counts (stat(2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Bytes that making takes: of each root by node, of the images that are brought in first; `free` is left now."""

    roots: Mapping[str, int]
    ways: Mapping[str, str]
    images: int
    free: int

    @property
    def whole(self) -> int:
        """All of it."""
        return sum(self.roots.values()) + self.images

    def lines(self, dest: Path) -> list[str]:
        """Return what a person should know: how many roots are made how, what they take, and what would take less."""
        if not self.roots:
            return []
        lines = []
        for way in sorted(set(self.ways.values())):
            of_way = [taken for node, taken in self.roots.items() if self.ways[node] == way]
            roots = f"{len(of_way)} root{'s' if len(of_way) > 1 else ''}"
            lines.append(f"{_WAYS[way].format(roots=roots, each=size(max(of_way)), all=size(sum(of_way)))}")
        if self.images:
            lines.append(f"the image is brought in first: {size(self.images)}")
        short = ", which is not enough" if self.whole > self.free else ""
        lines.append(f"in all {size(self.whole)}; {size(self.free)} are free in {dest}{short}")
        if sum(way == "copy" for way in self.ways.values()) > 1:
            lines.append(
                f"cheaper: {dest} on btrfs, or on xfs made with reflink=1: a root takes what its node changes; or "
                "root: shared in cluster.yaml: one root for all, what nodes write goes with their power"
            )
        return lines


_WAYS = {
    "copy": "{roots} copied, {each} each, {all}",
    "reflink": "{roots} that share their blocks with the image (reflink): at first {all}",
    "snapshot": "{roots} as snapshots of the image's (btrfs): at first {all}",
    "shared": "{roots} shared with all others of the image: {all} of their own",
}


class Taking(Protocol):
    """A node's row, as far as it is about the disk."""

    @property
    def node(self) -> str:
        """The node."""

    @property
    def way(self) -> str:
        """How its root is made."""

    @property
    def takes(self) -> int:
        """Bytes that making its root takes; 0: none is made."""

    @property
    def image_takes(self) -> int:
        """Bytes that bringing in its image takes, of the first node of an image."""


def cost_of(rows: Collection[Taking], dest: Path) -> Cost:
    """Return what rows take in all. `dest` is where nodes boot from, there already or not."""
    made = [row for row in rows if row.takes]
    there = next(path for path in (dest, *dest.absolute().parents) if path.is_dir())
    room = os.statvfs(there)
    return Cost(
        roots={row.node: row.takes for row in made},
        ways={row.node: row.way for row in made},
        images=sum(row.image_takes for row in made),
        free=room.f_bavail * room.f_frsize,
    )


def taken(roots: Collection[Path]) -> int:
    """Return the bytes that directory trees take on their disk, each file once whatever its names."""
    return sum(map(_taken, roots))


def _taken(root: Path) -> int:
    seen: set[int] = set()
    blocks = 0
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if facts.st_ino in seen:
                    continue
                seen.add(facts.st_ino)
                blocks += facts.st_blocks
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return blocks * _BLOCK

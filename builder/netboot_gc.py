"""What no node boots, ran lately or could go back to: found, and removed; and what a removed node leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.netboot import Netboot, remove

_DAY = 86400
# touched whenever a node has started from a root: by its own unit, with a shared root by the initramfs
BOOTED = ("var/lib/pibuild/booted", "booted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A path that goes, or would, and why."""

    path: Path
    why: str


def collect(dest: Path, *, keep_days: int, dry_run: bool) -> tuple[Garbage, ...]:
    """Remove roots and generations that nobody needs; return them.

    A node keeps what its board boots, what that replaced, what it was seen to start from last, and what it left less
    than `keep_days` days ago; generations stay as long as a root of theirs does.
    """
    netboot = Netboot(dest.absolute())
    with netboot.locked():
        found = list(_roots(netboot, time.time() - keep_days * _DAY))
        gone = {garbage.path for garbage in found}
        needed = {
            str(netboot.record(home.name, name).get("generation"))
            for home in netboot.roots.iterdir()
            for name in netboot.names(home.name)
            if netboot.root(home.name, name) not in gone
        }
        found += [
            Garbage(path=path, why="no root is made of it")
            for path in sorted(netboot.generations.iterdir())
            if path.name not in needed
        ]
        if not dry_run:
            for garbage in found:
                if garbage.path.parent != netboot.generations:
                    node, name = garbage.path.parent.name, garbage.path.name
                    remove(netboot.boot(node, name))
                    remove(garbage.path.with_name(f"{name}.json"))
                remove(garbage.path)
    return tuple(found)


def withdraw(dest: Path, node: str, *, keep_state: bool) -> tuple[Path, ...]:
    """Take a node's TFTP directory, roots and links away, and its state and what it kept unless that is to stay."""
    netboot = Netboot(dest.absolute())
    with netboot.locked():
        links = [link for link in netboot.tftp.iterdir() if _node_of(link) == node]
        gone = [*links, netboot.dest / "nfs" / node, netboot.tftp / "boot" / node]
        if keep_state:
            names = netboot.names(node)
            gone += [path for name in names for path in (netboot.root(node, name), netboot.root(node, f"{name}.json"))]
        else:
            gone += [netboot.roots / node, netboot.state / node]
        there = tuple(path for path in gone if path.exists() or path.is_symlink())
        for path in there:
            remove(path)
    return there


def _roots(netboot: Netboot, before: float) -> Iterator[Garbage]:
    current = {_node_of(link): link.readlink().name for link in netboot.tftp.iterdir() if link.is_symlink()}
    for home in sorted(netboot.roots.iterdir()):
        booted = current.get(home.name, "")
        kept = {booted, netboot.record(home.name, booted).get("previous", "")}
        kept |= {_last_started(netboot, home.name)} if booted else set()
        for name in netboot.names(home.name):
            record = home / f"{name}.json"
            if name not in kept and (not record.exists() or record.stat().st_mtime <= before):
                yield Garbage(path=home / name, why="neither booted nor gone back to")


def _last_started(netboot: Netboot, node: str) -> str:
    """Return the root that a node was seen to start from last: it may still run from it."""
    stamps = [
        (stamp.stat().st_mtime, name)
        for name in netboot.names(node)
        for stamp in (netboot.root(node, name) / path for path in BOOTED)
        if stamp.is_file() and not stamp.is_symlink()
    ]
    return max(stamps)[1] if stamps else ""


def _node_of(link: Path) -> str:
    """Return whose boot files a link in the TFTP directory names."""
    parts = link.readlink().parts if link.is_symlink() else ()
    return parts[1] if parts[:1] == ("boot",) and len(parts) > 1 else ""


def rename_state(dest: Path, node: str, new: str) -> None:
    """Let a node's identity and what it keeps go with its new name; its roots stay where they are booted from."""
    netboot = Netboot(dest.absolute())
    with netboot.locked():
        old, target = netboot.state / node, netboot.state / new
        if old.is_dir() and not target.exists():
            old.rename(target)

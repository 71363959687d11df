"""Find and remove roots and generations that no node boots, ran lately or could go back to."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.console import note
from builder.errors import HostError, InputError, Problem
from builder.host.confine import held, is_directory, is_there
from builder.netboot.layout import PERSIST, Netboot

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
            name.partition("-")[0]
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
                netboot.discard(garbage.path)
                node, name = garbage.path.parent.name, garbage.path.name
                if garbage.path == netboot.root(node, name):
                    netboot.discard(netboot.boot(node, name))
                    netboot.discard(netboot.records / node / f"{name}.json")
            _drop_empty(netboot)
            forget_former(netboot)
    return tuple(found)


def forget_former(netboot: Netboot) -> None:
    """Forget what nodes were called before, once nothing goes by it. The directory's lock must be held.

    That is when nothing of the old name is left; or a node has started under its new one, and its old roots are gone
    and what it keeps came along, or another node has the name: that one's data is not the renamed node's.
    """
    booted = set(netboot.booted().values())
    names = {node for node, _ in booted}
    for node, name in booted:
        record = None
        with contextlib.suppress(HostError):  # of that node, and said with its row
            record = netboot.record(node, name)
        if record is None or not record.former:
            continue
        kept = is_directory(netboot.root(record.former, PERSIST)) and not is_there(netboot.root(node, PERSIST))
        started = any(_started(netboot.root(node, root)) for root in netboot.names(node))
        done = record.former in names or not (kept or netboot.names(record.former))
        if not is_directory(netboot.roots / record.former) or (started and done):
            netboot.write_record(node, name, replace(record, former=""))


def leftovers(dest: Path, node: str, *, keep_state: bool) -> tuple[Path, ...]:
    """Return what there is of a node: its TFTP link first, so that nothing boots what is being removed."""
    netboot = Netboot(dest.absolute())
    if not netboot.tftp.is_dir():
        return ()
    links = [netboot.tftp / serial for serial, (booting, _) in netboot.booted().items() if booting == node]
    homes = [netboot.dest / "nfs" / node, netboot.tftp / "boot" / node]
    home = netboot.roots / node
    if keep_state:
        roots = sorted(path for path in home.iterdir() if path.name != PERSIST) if is_directory(home) else []
    else:
        roots = [home, netboot.state / node]
    said = [netboot.records / node, netboot.dest / "held" / node]
    return tuple(path for path in (*links, *homes, *roots, *said) if is_there(path))


def withdraw(dest: Path, node: str, *, keep_state: bool) -> tuple[Path, ...]:
    """Take a node's TFTP directory, roots and links away, and its state and what it kept unless that is to stay."""
    netboot = Netboot(dest.absolute())
    with netboot.locked():
        there = leftovers(dest, node, keep_state=keep_state)
        for path in there:
            netboot.discard(path)
        _drop_empty(netboot)
    return there


def _drop_empty(netboot: Netboot) -> None:
    """Remove the directories of nodes that nothing is left of, and links that lead nowhere."""
    for home in (*netboot.roots.iterdir(), *(netboot.tftp / "boot").iterdir(), *netboot.records.iterdir()):
        if is_directory(home) and not any(home.iterdir()):
            home.rmdir()
    for link in (netboot.dest / "nfs").iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()


def _roots(netboot: Netboot, before: float) -> Iterator[Garbage]:
    current = dict(netboot.booted().values())
    now = {node: netboot.record(node, name) for node, name in current.items()}
    renamed = {record.former: node for node, record in now.items() if record and record.former}
    for home in sorted(path for path in netboot.roots.iterdir() if is_directory(path)):
        record = now.get(home.name)
        kept = {current.get(home.name, ""), record.previous if record else "", netboot.held(home.name)}
        kept |= _last_started(netboot, home.name, renamed.get(home.name, home.name))
        names = netboot.names(home.name)
        for name in names:
            left = netboot.records / home.name / f"{name}.json"
            if name not in kept and (not left.exists() or left.stat().st_mtime <= before):
                yield Garbage(path=home / name, why="neither booted nor gone back to")
        boots = netboot.tftp / "boot" / home.name
        for path in sorted([*home.iterdir(), *(boots.iterdir() if is_directory(boots) else ())]):
            if path.name not in names and path != home / PERSIST:
                yield Garbage(path=path, why="not made by pibuild: the node put it there, or a killed run")


def _last_started(netboot: Netboot, node: str, renamed: str) -> set[str]:
    """Return the root that a node was seen to start from last, as it may still run from it.

    None when it has started under its new name since.
    """
    stamps = [
        (when, home, name)
        for home in {node, renamed}
        for name in netboot.names(home)
        if (when := _started(netboot.root(home, name)))
    ]
    _, home, name = max(stamps, default=(0.0, "", ""))
    return {name} if home == node else set()


def _started(root: Path) -> float:
    """Return when a node has last started from a root, 0 where it never did. The node wrote that."""
    with held(root) as inside:
        seen = (inside.facts(path) for path in BOOTED)
        return max((facts.st_mtime for facts in seen if facts and stat.S_ISREG(facts.st_mode)), default=0.0)


def rename_state(dest: Path, node: str, new: str, *, then: Callable[[], None]) -> None:
    """Let a node's identity go with its new name, do what is to be done `then`, and take it back when that fails.

    Its roots, and what it keeps, stay where they are booted from until it is exploded under the new one. Raises
    InputError when a removed node left an identity under that name.
    """
    netboot = Netboot(dest.absolute())
    with netboot.locked():
        old, target = netboot.state / node, netboot.state / new
        moves = old.is_dir() and old != target
        if moves and target.exists():
            hint = f"if nobody needs it: sudo pibuild node remove {new} --delete-state"
            raise InputError(Problem(message=f"{target} is there: a node of that name left its identity", hint=hint))
        if moves:
            old.rename(target)
        try:
            then()
        except BaseException:
            if moves:
                target.rename(old)
            raise
        if netboot.release(node):
            note(f"{node} is held no longer: under its new name it has to be exploded")

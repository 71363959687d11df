"""Remove from a golden tree what no image may hold: the identity of a machine, and temporary files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from builder.host.confine import resolve_in
from builder.host.scratch import remove_tree
from builder.image.identities import remove

# emptied: their directories belong to packages
_EMPTIED = ("var/lib/apt/lists", "var/cache/apt", "var/cache/debconf.old", "var/tmp")
_REMOVED = (
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "root/.bash_history",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/available",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
)

_GROW = "grow-root.service"


def tidy(root: Path) -> None:
    """Remove what a step leaves behind whatever it does: logs of dpkg, lists of apt, backup copies.

    `root` is a layer's merged root. A link in it leads where it would lead a program in there, never out of it.
    """
    for name in _EMPTIED:
        directory = resolve_in(root, name)
        if directory.is_dir():
            for path in directory.iterdir():
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for pattern in _REMOVED:
        parent, _, name = pattern.rpartition("/")
        directory = resolve_in(root, parent)
        for path in directory.glob(name) if "*" in name else (directory / name,):
            path.unlink(missing_ok=True)


def finish(root: Path, *, made: Mapping[str, str] = MappingProxyType({}), grow: bool = True) -> None:
    """Make the tree one that nobody has booted: no identity of a machine (builder/image/identities.py), empty logs.

    `made` are the identities that packages made, by path, with their digests. Without `grow` the root partition keeps
    its size: the unit that would grow it at first boot is not enabled.
    """
    if not grow:
        (resolve_in(root, "etc/systemd/system/multi-user.target.wants") / _GROW).unlink(missing_ok=True)
    remove(root, made)
    logs = resolve_in(root, "var/log")
    for path in logs.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            path.write_bytes(b"")
    journal = logs / "journal"
    if journal.is_dir() and not journal.is_symlink():
        shutil.rmtree(journal)
        journal.mkdir()

"""What a golden tree must not hold: the identity of a machine, and the traces of its making."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.cache import remove_tree

# emptied: their directories belong to packages
_EMPTIED = ("var/lib/apt/lists", "var/cache/apt", "var/cache/debconf.old", "var/tmp")
_REMOVED = (
    "var/cache/ldconfig/aux-cache",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/dbus/machine-id",
    "var/log/alternatives.log",
    "var/log/dpkg.log",
    "var/log/bootstrap.log",
    "root/.bash_history",
    "etc/.pwd.lock",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
)
_PATTERNS = (
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "var/lib/dpkg/*-old",
    "var/cache/debconf/*-old",
    "var/lib/dpkg/available",
)


def tidy(root: Path) -> None:
    """Remove what a step leaves behind whatever it does: logs of dpkg, lists of apt, backup copies. Root is a layer's merged root."""
    for name in _EMPTIED:
        directory = root / name
        if directory.is_dir():
            for path in directory.iterdir():
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in [*(root / name for name in _REMOVED), *(path for pattern in _PATTERNS for path in root.glob(pattern))]:
        path.unlink(missing_ok=True)


def finish(root: Path) -> None:
    """Make the tree one that nobody has booted: no machine-id, no host keys, empty logs."""
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    machine_id = root / "etc/machine-id"
    machine_id.unlink(missing_ok=True)
    machine_id.touch()
    machine_id.chmod(0o444)
    for path in (root / "var/log").rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            path.write_bytes(b"")
    journal = root / "var/log/journal"
    if journal.is_dir():
        shutil.rmtree(journal)
        journal.mkdir()

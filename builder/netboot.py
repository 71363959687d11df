"""The directory on the login node that diskless nodes boot from, and how it changes: by one rename at a time.

    generations/DIGEST/       an image's files, read-only: root/, boot/, meta.json
    roots/NODE/NAME/          a root file system of a node, NAME = DIGEST-KEY; NAME.json beside it says how it was made
    roots/NODE/persist/       what the node keeps whichever root it boots
    tftp/boot/NODE/NAME/      the boot files that go with that root, mounted on the node's /boot/firmware
    tftp/SERIAL               -> boot/NODE/NAME: what the board boots
    nfs/NODE                  -> ../roots/NODE/NAME: the same, for people and programs
    state/NODE/               host keys, machine-id and the like; 0700, outlives every root
    tmp/                      work in progress; what lies there when nobody holds the lock is swept

`tftp/SERIAL` is what counts. The command line in a boot directory names its own root in full, so that one rename
switches kernel and root together, and nothing that a running node has mounted is ever moved or written. For that a
server exports the parents: `roots/NODE` and `tftp/boot/NODE`, and `generations` read-only to nodes with a shared root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.dirmode import let_in
from builder.errors import HostError
from builder.locks import take
from builder.run import run

_LIBC = ctypes.CDLL(None, use_errno=True)
PERSIST = "persist"


@dataclass(frozen=True, slots=True)
class Netboot:
    """The directory of a login node; nothing is created before the lock is taken."""

    dest: Path

    @property
    def generations(self) -> Path:
        """Images' files."""
        return self.dest / "generations"

    @property
    def roots(self) -> Path:
        """Nodes' root file systems."""
        return self.dest / "roots"

    @property
    def tftp(self) -> Path:
        """What the TFTP server serves."""
        return self.dest / "tftp"

    @property
    def state(self) -> Path:
        """What outlives every root, by node."""
        return self.dest / "state"

    @property
    def login_key(self) -> Path:
        """The private key that opens every node; whoever explodes makes it, once."""
        return self.state / ".cluster" / "id_ed25519"

    @property
    def tmp(self) -> Path:
        """Work in progress."""
        return self.dest / "tmp"

    def root(self, node: str, name: str) -> Path:
        """Return the root of a node."""
        return self.roots / node / name

    def boot(self, node: str, name: str) -> Path:
        """Return the boot files that go with a root."""
        return self.tftp / "boot" / node / name

    def current(self, serial: str) -> str:
        """Return the name of the root that a board boots, "" for a board that boots nothing from here."""
        link = self.tftp / serial
        return link.readlink().name if link.is_symlink() else ""

    def booted(self) -> dict[str, tuple[str, str]]:
        """Return what every board boots: serial to node and name of the root."""
        links = {link.name: self._target(link.name) for link in self.tftp.iterdir() if link.is_symlink()}
        return {serial: target for serial, target in links.items() if target[0]}

    def _target(self, serial: str) -> tuple[str, str]:
        link = self.tftp / serial
        parts = link.readlink().parts if link.is_symlink() else ()
        return (
            (parts[1], parts[2]) if parts[:1] == ("boot",) and len(parts) == len(("boot", "NODE", "NAME")) else ("", "")
        )

    def former(self, node: str, serial: str) -> str:
        """Return what a board's node was called before it was renamed, "" for one that never was."""
        booting, name = self._target(serial)
        return booting if booting != node else str(self.record(node, name).get("former", ""))

    def record(self, node: str, name: str) -> dict[str, Any]:
        """Return what is written about a root: how it was made, and what the node booted before it."""
        try:
            return dict(json.loads((self.roots / node / f"{name}.json").read_text()))
        except FileNotFoundError:
            return {}

    def write_record(self, node: str, name: str, facts: Mapping[str, object]) -> None:
        """Write what is known about a root, whole or not at all."""
        self.write(self.roots / node / f"{name}.json", json.dumps(facts, indent=1).encode() + b"\n")

    def names(self, node: str) -> list[str]:
        """Return the names of a node's roots."""
        home = self.roots / node
        return (
            sorted(path.name for path in home.iterdir() if path.is_dir() and path.name != PERSIST)
            if home.is_dir()
            else []
        )

    def switch(
        self, node: str, serial: str, name: str, *, back: bool = False, booted: dict[str, tuple[str, str]] | None = None
    ) -> None:
        """Let a board boot a root from now on, and no other board boot as this node.

        Going `back`, what that root had replaced stays on record: once more goes back further, not forth again.
        `booted` saves reading it again for each of many nodes; it is kept up to date.
        """
        booted = self.booted() if booted is None else booted
        before = self._target_of(node)
        left = {(node, before), booted.get(serial, (node, ""))} - {(node, name), (node, "")}
        if before != name and not back:
            record = {"former": self.former(node, serial), **self.record(node, name), "previous": before}
            self.write_record(node, name, record)
        self.point(self.tftp / serial, f"boot/{node}/{name}")
        self.point(self.dest / "nfs" / node, f"../roots/{node}/{name}")
        booted[serial] = (node, name)
        for other in [other for other, (booting, _) in booted.items() if booting == node and other != serial]:
            (self.tftp / other).unlink()  # of a board that was replaced
            del booted[other]
        for old, root in left:
            self.left(old, root)
            if old != node and old not in {booting for booting, _ in booted.values()}:
                (self.dest / "nfs" / old).unlink(missing_ok=True)

    def _target_of(self, node: str) -> str:
        link = self.dest / "nfs" / node
        return link.readlink().name if link.is_symlink() else ""

    def left(self, node: str, name: str) -> None:
        """Note the day on which a root was left: `collect` counts from it."""
        record = self.roots / node / f"{name}.json"
        if record.is_file():
            record.touch()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory alone, and sweep what killed processes left. Raises HostError where that cannot be."""
        try:
            for path in (self.generations, self.roots, self.dest / "nfs", self.tftp / "boot", self.tmp):
                path.mkdir(parents=True, exist_ok=True)
            for path in (self.dest, self.generations, self.dest / "nfs", self.tftp, self.tftp / "boot"):
                let_in(path)
            self.state.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"{self.dest} cannot be written: {error.strerror}", hint="run as root (sudo)") from error
        self.tmp.chmod(0o700)
        self.state.chmod(0o700)
        with (self.dest / ".lock").open("w") as file:
            take(file.fileno(), self.dest / ".lock", busy=f"another pibuild is at work in {self.dest}")
            for path in self.tmp.iterdir():
                remove(path)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a new directory on the same file system, gone after the block."""
        path = self._new()
        path.mkdir()
        try:
            yield path
        finally:
            remove(path)

    def point(self, link: Path, target: str) -> None:
        """Let a symbolic link point elsewhere, in one rename; nothing happens when it does already."""
        if link.is_symlink() and str(link.readlink()) == target:
            return
        new = self._new()
        new.symlink_to(target)
        new.replace(link)
        _sync_directory(link.parent)

    def write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Write a file: complete under its name, or not at all. What a killed process leaves is swept."""
        write(path, content, mode, by_way_of=self._new())

    def discard(self, path: Path) -> None:
        """Remove a file or a tree: its name is gone at once, so that nobody ever takes half of it for the whole."""
        if path.exists() or path.is_symlink():
            aside = self._new()
            path.rename(aside)
            remove(aside)

    def _new(self) -> Path:
        """Return a name for work in progress: what a killed process leaves there is swept."""
        return self.tmp / secrets.token_hex(6)

    def flush(self) -> None:
        """Bring what was written to the disk (syncfs(2)): a name must not outlive a power cut without its content."""
        descriptor = os.open(self.dest, os.O_RDONLY)
        try:
            if _LIBC.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.dest))
        finally:
            os.close(descriptor)


def write(path: Path, content: bytes, mode: int = 0o644, *, by_way_of: Path | None = None) -> None:
    """Write a file: complete under its name, or not at all."""
    new = by_way_of or path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with new.open("xb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        new.replace(path)
    except OSError as error:
        if by_way_of is None or error.errno != errno.EXDEV:
            raise
        new.unlink()  # what nodes never mount may be on a file system of its own: docs/security.md
        write(path, content, mode)


def remove(path: Path) -> None:
    """Remove a file or a tree, without leaving its file system; btrfs subvolumes in it go as well."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        run(["rm", "-rf", "--one-file-system", "--", path], what="removing")
        # rm takes a subvolume (another device number) for another file system: those are dropped as a whole
        for subvolume in (path, *path.glob("*"), *path.glob("*/*")):
            if subvolume.is_dir() and subvolume.stat().st_ino == _SUBVOLUME:
                run(["btrfs", "subvolume", "delete", subvolume])
        if path.exists():
            run(["rm", "-rf", "--one-file-system", "--", path], what="removing")


_SUBVOLUME = 256  # inode number of a btrfs subvolume's own directory (BTRFS_FIRST_FREE_OBJECTID)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The directory on the login node that diskless nodes boot from, and how it changes: by one rename at a time.

    generations/DIGEST/       an image's files, read-only: root/, boot/, meta.json
    roots/NODE/NAME/          a root file system of a node, NAME = DIGEST-KEY
    roots/NODE/persist/       what the node keeps whichever root it boots
    tftp/boot/NODE/NAME/      the boot files that go with that root, mounted on the node's /boot/firmware
    tftp/SERIAL               -> boot/NODE/NAME: what the board boots
    nfs/NODE                  -> ../roots/NODE/NAME: the same, for people and programs
    state/NODE/               host keys, machine-id and the like; 0700, outlives every root
    state/.roots/NODE/        how each root was made and what the node booted before: builder/netboot/record.py
    held/NODE                 the root that the node went back to and stays with
    tmp/, state/.tmp/         work in progress; what lies there when nobody holds the lock is swept

`tftp/SERIAL` is what counts. The command line in a boot directory names its own root in full, so that one rename
switches kernel and root together, and nothing that a running node has mounted is ever moved or written. For that a
server exports the parents: `roots/NODE` and `tftp/boot/NODE`, and `generations` read-only to nodes with a shared root.

In those two a node's root user does as it likes: rename, replace by links, fill. What lies there is looked at by
`lstat` and by what `builder.host.confine` holds, never followed and never trusted. `roots` and `generations` are root's
alone (0700), as a program there that is setuid would be so on the login node, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.console import warn
from builder.errors import HostError, InputError, Problem
from builder.host.confine import held, is_directory, is_there
from builder.host.dirmode import let_in
from builder.host.files import sync_file_system, write, write_all
from builder.host.locks import take
from builder.host.unwritable import unwritable
from builder.netboot.record import Record, bring_over, is_root_name, read_record, record_text

PERSIST = "persist"
_OTHER = "name another directory: --dest"


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
    def records(self) -> Path:
        """What is on record about roots, by node."""
        return self.state / ".roots"

    @property
    def tmp(self) -> Path:
        """Work in progress."""
        return self.dest / "tmp"

    @property
    def private(self) -> Path:
        """Work in progress on the state, which may be a file system of its own, where no node reaches it."""
        return self.state / ".tmp"

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
        if booting != node:
            return booting
        record = self.record(node, name)
        return record.former if record else ""

    def record(self, node: str, name: str) -> Record | None:
        """Return what is on record about a root."""
        return read_record(self.records, node, name)

    def write_record(self, node: str, name: str, record: Record) -> None:
        """Write what is known about a root, whole or not at all."""
        self.write_records({(node, name): record})

    def write_records(self, records: Mapping[tuple[str, str], Record]) -> None:
        """Write what is known about roots, by node and name, each whole or not at all; the disk is waited for once."""
        for node in {node for node, _ in records}:
            (self.records / node).mkdir(mode=0o700, exist_ok=True)
        texts = {self.records / node / f"{name}.json": record_text(known) for (node, name), known in records.items()}
        self.write_all(texts)

    def names(self, node: str) -> list[str]:
        """Return the names of a node's roots."""
        home = self.roots / node
        found = sorted(path.name for path in home.iterdir()) if is_directory(home) else []
        return [name for name in found if is_root_name(name) and is_directory(home / name)]

    def is_whole(self, node: str, name: str) -> bool:
        """Return whether a root is there with its boot files."""
        return is_root_name(name) and is_directory(self.root(node, name)) and is_directory(self.boot(node, name))

    def held(self, node: str) -> str:
        """Return the root that a node went back to and stays with, "" for one that goes with the others."""
        path = self.dest / "held" / node
        name = path.read_text().strip() if path.is_file() else ""
        return name if is_root_name(name) else ""

    def hold(self, node: str, name: str) -> None:
        """Let a node stay with a root, whatever is exploded."""
        (self.dest / "held").mkdir(exist_ok=True)
        (self.dest / "held").chmod(0o755)  # who lists nodes need not be root
        self.write(self.dest / "held" / node, f"{name}\n".encode())

    def release(self, node: str) -> bool:
        """Let a node go with the others again; return whether it was held."""
        there = is_there(self.dest / "held" / node)
        self.discard(self.dest / "held" / node)
        return there

    def switch(
        self,
        node: str,
        serial: str,
        name: str,
        *,
        back: bool = False,
        booted: dict[str, tuple[str, str]] | None = None,
        flush: bool = True,
    ) -> None:
        """Let a board boot a root from now on, and no other board boot as this node.

        Going `back`, what that root had replaced stays on record: once more goes back further, not forth again.
        `booted` saves reading it again for each of many nodes; it is kept up to date. Without `flush` the caller does.
        """
        booted = self.booted() if booted is None else booted
        booting, linked = booted.get(serial, (node, "")), self._target_of(node)
        before = self._before(node, booting)
        left = {(node, linked), booting} - {(node, name), (node, "")}
        if before != name and not back:
            record = self.record(node, name)
            if record is None:
                raise HostError(f"nothing is on record about {self.root(node, name)}", hint="pibuild explode --fresh")
            noted = self._noted(record, node, serial, before)
            if noted != record:  # many were noted together
                self.write_record(node, name, noted)
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
        if flush:
            self.flush()

    def noted_before(self, node: str, serial: str, name: str, booted: Mapping[str, tuple[str, str]]) -> Record | None:
        """Return the record of a root that `switch` would write, with what its node boots before; None for none.

        For writing those of many nodes together. A board that changes hands is left to `switch`, as each of those
        decides what the next one finds.
        """
        booting = booted.get(serial, (node, ""))
        changes_hands = booting[0] != node or any(boots == node and at != serial for at, (boots, _) in booted.items())
        before = self._before(node, booting)
        record = None if changes_hands or before == name else self.record(node, name)
        return self._noted(record, node, serial, before) if record else None

    def _noted(self, record: Record, node: str, serial: str, before: str) -> Record:
        """Return the record of a root with what its node boots before it, and what the node was called."""
        return replace(record, former=record.former or self.former(node, serial), previous=before)

    def _before(self, node: str, booting: tuple[str, str]) -> str:
        """Return what a node booted: the link by its name is behind the board's if a kill came between the two."""
        return booting[1] if booting[0] == node and booting[1] else self._target_of(node)

    def _target_of(self, node: str) -> str:
        link = self.dest / "nfs" / node
        return link.readlink().name if link.is_symlink() else ""

    def left(self, node: str, name: str) -> None:
        """Note the day on which a root was left: `collect` counts from it."""
        record = self.records / node / f"{name}.json"
        if record.is_file():
            record.touch()

    def require(self) -> None:
        """Raise InputError unless nodes boot from here: for what changes a directory and must not begin one."""
        if not self.state.is_dir():
            message = f"nothing was exploded into {self.dest}"
            hint = "--dest DIR: where it was (cluster.netboot in the inventory); or sudo pibuild explode first"
            raise InputError(Problem(message=message, hint=hint))

    def require_room_to_begin(self) -> None:
        """Raise HostError where `locked` would, as the directory cannot be made or written; changes nothing."""
        there = next(path for path in (self.dest, *self.dest.parents) if is_there(path))
        number = 0
        if not there.is_dir():
            number = errno.ENOTDIR
        elif not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
            number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        if number:
            raise unwritable(self.dest, OSError(number, os.strerror(number)), other=_OTHER)

    @contextlib.contextmanager
    def locked(self, *, begin: bool = False) -> Iterator[None]:
        """Hold the directory alone, and sweep what killed processes left; `begin` makes one where there is none.

        Raises InputError where there is none to hold, HostError where that cannot be.
        """
        if not begin:
            self.require()
        try:
            for path in (self.generations, self.roots, self.dest / "nfs", self.tftp / "boot", self.tmp):
                path.mkdir(parents=True, exist_ok=True)
            for path in (self.dest, self.dest / "nfs", self.tftp, self.tftp / "boot"):
                let_in(path)
            self.state.mkdir(mode=0o700, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
            for path in (self.tmp, self.state, self.roots, self.generations):
                path.chmod(0o700)
        except OSError as error:
            raise unwritable(self.dest, error, other=_OTHER) from error
        with (self.dest / ".lock").open("w") as file:
            take(file.fileno(), self.dest / ".lock", busy=f"another pibuild is at work in {self.dest}")
            until = time.monotonic() + _SWEEPING
            for path in (*self.private.iterdir(), *self.tmp.iterdir()):
                if time.monotonic() < until:
                    remove(path, seconds=_SWEEPING)
            self._bring_records_over()
            yield

    def _bring_records_over(self) -> None:
        """Take over, once, the records that earlier versions kept where a node writes."""
        if self.records.is_dir():
            return
        made = self._new(self.records)
        made.mkdir(mode=0o700)
        taken = list(bring_over(self.roots, made))
        os.sync()
        made.rename(self.records)
        for path in taken:
            self.discard(path)

    @contextlib.contextmanager
    def scratch(self, beside: Path | None = None) -> Iterator[Path]:
        """Give a new directory on the same file system as `beside` (by default the roots), gone after the block."""
        path = self._new(beside or self.roots)
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            remove(path)

    def point(self, link: Path, target: str) -> None:
        """Let a symbolic link point elsewhere, in one rename; nothing happens when it does already."""
        if link.is_symlink() and str(link.readlink()) == target:
            return
        new = self._new(link)
        new.symlink_to(target)
        new.replace(link)

    def write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Write a file: complete under its name, or not at all. What a killed process leaves is swept."""
        write(path, content, mode, by_way_of=self._new(path))

    def write_all(self, contents: Mapping[Path, bytes], mode: int = 0o644) -> None:
        """Write files of one file system as `write` does, and wait once for the disk."""
        write_all(contents, mode, by_way_of=self._new)

    def discard(self, path: Path) -> None:
        """Remove a file or a tree: its name is gone at once, so that nobody ever takes half of it for the whole.

        A node may go on writing in it meanwhile, through what it has open.
        """
        aside = self._new(path)
        try:
            path.rename(aside)
        except (FileNotFoundError, NotADirectoryError):
            return
        remove(aside)

    def _new(self, beside: Path) -> Path:
        """Return a name for work in progress on the file system of `beside`: what a killed process leaves is swept.

        What belongs to the state is kept from the file system that nodes reach, while it is made and removed, too.
        """
        home = self.private if beside.is_relative_to(self.state) else self.tmp
        if home == self.private:
            home.mkdir(mode=0o700, exist_ok=True)
        return home / os.urandom(6).hex()

    def flush(self) -> None:
        """Bring what was written to the disk (syncfs(2)): a name must not outlive a power cut without its content."""
        for path in (self.dest, self.state):
            sync_file_system(path)


def nearest(path: Path) -> Path:
    """Return the directory that is there already, on the way to one that may not be."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def remove(path: Path, *, seconds: float | None = None) -> None:
    """Remove a file or a tree, without leaving its file system; btrfs subvolumes in it go as well.

    `path` itself must lie where no node writes. Inside, one may at any moment: rm goes by descriptors and follows no
    link, and a subvolume is moved here before it is named to btrfs. What is not gone after so many seconds, as somebody
    goes on filling it, is left for the next run to sweep.
    """
    if not is_directory(path):
        path.unlink(missing_ok=True)
        return
    from builder.run import run  # noqa: PLC0415 - what only names paths does without

    until = time.monotonic() + (PATIENCE if seconds is None else seconds)
    said = ""
    for _ in range(_TRIES):
        try:
            argv: list[str | Path] = ["rm", "-rf", "--one-file-system", "--", path]
            said = run(argv, check=False, timeout=max(until - time.monotonic(), 1)).stderr.strip()
        except HostError as error:
            said = error.message
            break
        if not is_there(path):
            return
        # rm takes a subvolume (another device number) for another file system: those are dropped as a whole
        for subvolume in [path] if path.lstat().st_ino == _SUBVOLUME else _moved_out(path):
            run(["btrfs", "subvolume", "delete", subvolume])
        if not is_there(path):
            return
    warn(f"{path} is left for the next run to remove: {said.rpartition(chr(10))[2]}")


PATIENCE = 30.0  # seconds; a root on a slow disk takes about as long
_TRIES = 3
_SWEEPING = 20  # seconds at the most before a command begins its own work
_SUBVOLUME = 256  # inode number of a btrfs subvolume's own directory (BTRFS_FIRST_FREE_OBJECTID)


def _moved_out(path: Path) -> list[Path]:
    """Move the btrfs subvolumes of a tree, at most two directories down, beside it; return where they are."""
    found = []
    with held(path) as tree:
        for inner in ("", *tree.names()):
            known = tree.facts(inner)
            if known is None or not stat.S_ISDIR(known.st_mode):
                continue
            with tree.directory(inner) as home:
                for name in home.names():
                    known = home.facts(name)
                    if known is not None and stat.S_ISDIR(known.st_mode) and known.st_ino == _SUBVOLUME:
                        aside = path.with_name(os.urandom(6).hex())
                        os.rename(name, aside, src_dir_fd=home.descriptor)
                        found.append(aside)
    return found

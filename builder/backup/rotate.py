"""New passwords for a node's backups: of its repository, and of the server it is on; the old ones open nothing after.

In an order that a power cut or a dead node between any two steps leaves repairable by running it again: the new
passwords are written down, the repository gets the new key, the node gets them, the gateway does, the state does, and
last the old keys are removed. Until then the old ones open the repository, too. The state says how far it came: whoever
lets nodes in knows which passwords a node has, and no rotation adds a key before those of earlier ones are gone.
"""

from __future__ import annotations

import json
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.backup.gateway import GIVEN, Gateway, latest, users
from builder.backup.repository import Repository, is_nothing, node_files, own_ca, repository
from builder.errors import HostError
from builder.host.confine import Held, held
from builder.host.files import write
from builder.inventory.nodes import Inventory, Node
from builder.netboot.layout import Netboot
from builder.netboot.personalise import NodeFile
from builder.netboot.reach import NodeRoot
from builder.netboot.root import put_files
from builder.netboot.state import BACKUP_CA, BACKUP_KEYS, BACKUP_PASSWORD, backup_ca, backup_keys, make_state

SECRETS = ("restic-http-password", "restic-password")
_BEFORE = "restic-password.before"
_RETIRE = "restic.retire"  # the repository may have keys that are to be removed
_PROGRAM = "/usr/local/lib/pibuild/backup"
_PATIENCE = 120  # seconds
_IN_USE = 60.0  # seconds that somebody else's lock on the repository is waited for
_LOCKED = "already locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation did: whether there was a repository, how the node got the passwords, how many keys went."""

    node: str
    repository: bool
    roots: int
    pushed: bool
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation of one node's passwords. `push`: the node runs, and gets them over ssh as well."""

    inventory: Inventory
    netboot: Netboot
    node: Node
    gateway: Gateway | None
    push: bool

    def run(self) -> Rotated:
        """Rotate. Takes the directory's lock. Raises HostError, CommandError; then it is to be run again."""
        shell = NodeRoot(netboot=self.netboot, node=self.node) if self.push else None
        with self.netboot.locked():
            make_state(self.netboot, (self.node,))
            for reachable in (shell, self.gateway):
                if reachable is not None:
                    reachable.check()
            home = self.netboot.state / self.node.name
            removed = self._finish_former()
            if not self._under_way():
                (home / GIVEN).unlink(missing_ok=True)
            for name in SECRETS:
                if not (home / f"{name}.next").is_file():
                    write(home / f"{name}.next", f"{secrets.token_hex(32)}\n".encode(), 0o600)
            there = self._add_key()
            write(home / GIVEN, b"", 0o600)
            roots = self._fill_roots()
            if shell is not None:
                self._tell(shell)
            if self.gateway is not None:
                self.gateway.call("users", stdin=users(self.inventory, self.netboot))
            self._keep(there=there)
            removed += self._remove_keys() if there else 0
        return Rotated(node=self.node.name, repository=there, roots=roots, pushed=self.push, removed=removed)

    def _keep(self, *, there: bool) -> None:
        """Make the new passwords those of the state."""
        home = self.netboot.state / self.node.name
        if there:
            write(home / _RETIRE, b"", 0o600)
        else:
            # a disk that was not mounted looks the same: the next rotation tries these passwords as well
            kept = [*self._passwords_before(), (home / "restic-password").read_text().strip()]
            write(home / _BEFORE, "".join(f"{password}\n" for password in kept).encode(), 0o600)
        for name in SECRETS:
            (home / f"{name}.next").replace(home / name)
        (home / GIVEN).unlink()
        self.netboot.flush()

    def _under_way(self) -> bool:
        """Whether a rotation that did not come to its end left passwords that go on being the next ones."""
        return any((self.netboot.state / self.node.name / f"{name}.next").is_file() for name in SECRETS)

    def _finish_former(self) -> int:
        """Remove the keys that an earlier rotation came to and did not remove; return how many."""
        home = self.netboot.state / self.node.name
        if self._under_way() or not (home / _RETIRE).is_file():
            return 0
        now = repository(self.inventory, self.netboot, self.node)
        if is_nothing(now.restic("cat", "config", timeout=_PATIENCE, check=False)):
            return 0
        return self._remove_keys()

    def _passwords_before(self) -> list[str]:
        path = self.netboot.state / self.node.name / _BEFORE
        return path.read_text().split() if path.is_file() else []

    def _tell(self, shell: NodeRoot) -> None:
        """Give a node that runs its passwords; and where backups go, if nothing else tells it."""
        if self.node.boot == "local":
            ca = own_ca(self.inventory) or backup_ca(self.netboot)
            trusted = {BACKUP_CA: ca.read_text()} if ca.is_file() else {}
            for path, text in {**node_files(self.inventory, self.node), **trusted}.items():
                shell.run(["install", "-D", "-m", "644", "/dev/stdin", path], stdin=text.encode())
        shell.run([_PROGRAM, "secrets"], stdin=self._password() + self._keys())

    def _password(self) -> bytes:
        return f"{latest(self.netboot, self.node, 'restic-password')}\n".encode()

    def _keys(self) -> bytes:
        old = (self.netboot.state / self.node.name / "restic-http-password").read_text().strip()
        new = latest(self.netboot, self.node, "restic-http-password")
        return backup_keys(self.netboot, self.node).replace(old.encode(), new.encode())

    def _add_key(self) -> bool:
        """Give the repository the new key unless it has it; return whether there is a repository."""
        now = repository(self.inventory, self.netboot, self.node)
        new = latest(self.netboot, self.node, "restic-password")
        said = ""
        for one in self._ways_in(now, new):
            opened = one.restic("cat", "config", timeout=_PATIENCE, check=False)
            said = opened.stderr
            if is_nothing(opened):
                return False
            if opened.returncode == 0:
                one.restic("unlock", timeout=_PATIENCE)  # what a rotation that was killed here has left
                if one.password != new:
                    following = self.netboot.state / self.node.name / "restic-password.next"
                    one.restic("key", "add", "--new-password-file", following, timeout=_PATIENCE)
                return True
        last = said.strip().splitlines()[-1:] or ["no word why"]
        hint = f"nothing was taken away; sudo pibuild backup rotate {self.node.name} goes on when it opens again"
        raise HostError(f"{now.url} does not open: {last[0]}", hint=hint)

    def _ways_in(self, now: Repository, new: str) -> Iterator[Repository]:
        """Yield the repository as it opens now, or after a rotation that did not come to its end."""
        http = latest(self.netboot, self.node, "restic-http-password")
        passwords = [new, now.password, *self._passwords_before()]
        for keys in (now.keys, {**now.keys, "RESTIC_REST_PASSWORD": http}):
            for password in passwords:
                yield replace(now, keys=keys, password=password)

    def _fill_roots(self) -> int:
        """Put the passwords into every root of the node on this machine; return how many."""
        files = [
            NodeFile(path=BACKUP_PASSWORD, content=self._password(), mode=0o600, secret=True),
            NodeFile(path=BACKUP_KEYS, content=self._keys(), mode=0o600, secret=True),
        ]
        if backup_ca(self.netboot).is_file() and own_ca(self.inventory) is None:
            files.append(NodeFile(path=BACKUP_CA, content=backup_ca(self.netboot).read_bytes()))
        filled = 0
        for name in self.netboot.names(self.node.name):
            with held(self.netboot.root(self.node.name, name)) as root:
                for place in ("/", "/files"):  # the latter lies over a root that nodes share
                    if _has_restic(root, place):
                        with root.directory(place) as inside:
                            put_files(inside, files)
                        filled += 1
        return filled

    def _remove_keys(self) -> int:
        """Remove every key but the one that opens now; return how many. Raises CommandError, HostError."""
        if self.gateway is not None:
            removed = self.gateway.call("retire", self.node.name).stdout.count("removed key")
        else:
            removed = self._remove_from_afar()
        home = self.netboot.state / self.node.name
        for name in (_BEFORE, _RETIRE):
            (home / name).unlink(missing_ok=True)
        self.netboot.flush()
        return removed

    def _remove_from_afar(self) -> int:
        """Remove the old keys where no gateway does, once nobody has the repository locked."""
        now = repository(self.inventory, self.netboot, self.node)
        keys = json.loads(now.restic("key", "list", "--json", timeout=_PATIENCE).stdout)
        old = [str(key["id"]) for key in keys if not key["current"]]
        now.restic("unlock", timeout=_PATIENCE)
        deadline = time.monotonic() + _IN_USE
        for key in old:
            while (done := now.restic("key", "remove", key, timeout=_PATIENCE, check=False)).returncode != 0:
                if _LOCKED not in done.stderr:
                    done.raise_for_status(what=f"removing an old key from {now.url}")
                if time.monotonic() > deadline:
                    hint = f"in half an hour at the latest: sudo pibuild backup rotate {self.node.name}"
                    raise HostError(f"{now.url} is in use: the old passwords still open it", hint=hint)
                time.sleep(min(5.0, _IN_USE / 4))
                now.restic("unlock", timeout=_PATIENCE)
        return len(old)


def rotate(
    inventory: Inventory, netboot: Netboot, node: Node, *, gateway: Gateway | None, push: bool | None = None
) -> Rotated:
    """Give a node new passwords for its backups; `push` None finds out by itself whether that takes ssh.

    A node with an NFS root of its own reads them from there. One with its own disk, or with a root in memory over a
    shared one, has to be told. Raises HostError or CommandError where something does not answer.
    """
    netboot.require()
    told = node.boot == "local" or any(
        _lies_over_shared(netboot.root(node.name, name)) for name in netboot.names(node.name)
    )
    rotation = Rotation(
        inventory=inventory, netboot=netboot, node=node, gateway=gateway, push=told if push is None else push
    )
    return rotation.run()


def _has_restic(root: Held, place: str) -> bool:
    facts = root.facts(f"{place}/etc/restic", follow=True)
    return facts is not None and stat.S_ISDIR(facts.st_mode)


def _lies_over_shared(root: Path) -> bool:
    with held(root) as inside:
        return _has_restic(inside, "/files")

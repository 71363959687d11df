"""A node's backups as the login node sees them: where its repository is, what is in it, and bringing it back.

What opens a repository comes from the node's state and reaches restic through its environment, never as an argument.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from builder.errors import HostError, InputError, Problem
from builder.host.data import OVERLAYS
from builder.host.ssh import sftp
from builder.host.templates import environment
from builder.inventory.nodes import Inventory, Node
from builder.netboot.layout import Netboot
from builder.netboot.state import BACKUP_CA, backup_ca, backup_keys, read_state
from builder.run import Completed, find_tool, run

if TYPE_CHECKING:
    from builder.inventory.schema import Backup

_NO_REPOSITORY = 10  # exit code
_NOTHING = ("<config/> does not exist", "no such file", "file does not exist", "specified key does not exist")
_PATIENCE = 120  # seconds to list or open a repository
_RESTORING = ".pibuild-restoring"  # in a directory that a restore has not come to the end of
_TEMPLATES = OVERLAYS / "node/etc/pibuild"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A node's repository and what opens it. `url` holds no secret; `identity` is the node's ssh key, for sftp."""

    node: str
    url: str
    password: str
    keys: Mapping[str, str]
    identity: Path
    ca: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return restic's environment. The password of a rest-server is in the URL, as restic before 0.16 needs it."""
        url, keys = self.url, dict(self.keys)
        user, secret = keys.pop("RESTIC_REST_USERNAME", ""), keys.pop("RESTIC_REST_PASSWORD", "")
        if url.startswith("rest:"):
            scheme, _, rest = url.partition("://")
            url = f"{scheme}://{quote(user, safe='')}:{quote(secret, safe='')}@{rest}"
        ca = {"RESTIC_CACERT": str(self.ca)} if self.ca else {}
        return {"RESTIC_REPOSITORY": url, "RESTIC_PASSWORD": self.password, "RESTIC_PROGRESS_FPS": "0.01", **keys, **ca}

    def restic(self, *words: str | Path, timeout: float | None = None, check: bool = True) -> Completed:
        """Run restic on it. Raises InputError where there is no repository, CommandError, HostError."""
        restic = find_tool("restic", package="restic")
        ca = ("--cacert", self.ca) if self.ca else ()  # the variable is unknown to releases before 0.16
        sftp = ("-o", f"sftp.command={self.ssh()}") if self.url.startswith("sftp:") else ()
        command = (restic, "--no-cache", *ca, *sftp, *words)
        what = f"{self.node}'s backups in {self.url}"
        done = run(command, env=self.environment(), timeout=timeout, check=False, what=what)
        if check and is_nothing(done):
            hint = f"on the node: sudo systemctl start pibuild-backup; {self.url} is where it would be"
            raise InputError(Problem(message=f"{self.node} has backed up nothing yet", hint=hint))
        if check:
            done.raise_for_status(what=what, hint="does the store answer, and does it know the node?")
        return done

    def ssh(self) -> str:
        """Return the command that reaches the store of sftp:USER@HOST:/PATH or sftp://USER@HOST:PORT//PATH."""
        where = self.url.removeprefix("sftp:")
        parts = urlsplit(where)
        host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname or ""
        there = ["-p", str(parts.port or 22), host] if where.startswith("//") else [where.partition(":")[0]]
        return shlex.join(sftp(there, self.identity))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One backup. `time` is RFC 3339; `files` and `size` (bytes) are None where restic kept no count."""

    id: str
    time: str
    host: str
    paths: tuple[str, ...]
    files: int | None
    size: int | None


def is_nothing(done: Completed) -> bool:
    """Whether restic has found no repository. Releases before 0.17 have no exit code of its own for that."""
    unopened = done.returncode != 0 and "unable to open config file" in done.stderr
    return done.returncode == _NO_REPOSITORY or (unopened and any(word in done.stderr for word in _NOTHING))


def settings(inventory: Inventory) -> Backup:
    """Return where the cluster's backups go. Raises InputError where it says nothing."""
    if inventory.cluster.backup is None:
        hint = "cluster: backup: {repository: 'rest:https://backup.example:8000'}"
        raise InputError(Problem(message=f"{inventory.path} does not say where backups go", hint=hint))
    return inventory.cluster.backup


def url_of(base: str, node: Node) -> str:
    """Return a node's own repository below the cluster's; a rest-server's private ones end in a slash."""
    return f"{base.rstrip('/')}/{node.name}{'/' if base.startswith('rest:') else ''}"


def node_files(inventory: Inventory, node: Node) -> Mapping[str, str]:
    """Return the files that tell a node where its backups go: path on the node to text. There is no secret in them."""
    values = {"node": node, "cluster": inventory.cluster}
    return {
        f"/etc/pibuild/{name}": environment().from_string((_TEMPLATES / f"{name}.j2").read_text()).render(values)
        for name in ("backup.env", "backup.paths", "backup.exclude")
    }


def own_ca(inventory: Inventory) -> Path | None:
    """Return the certificates that a person trusts for the store, which nodes get as any other file there."""
    path = inventory.path.resolve().parent / "overlays/node" / BACKUP_CA.removeprefix("/")
    return path if path.is_file() else None


def repository(inventory: Inventory, netboot: Netboot, node: Node, *, base: str = "") -> Repository:
    """Return a node's repository as its state opens it; `base` is another place than the inventory's.

    Raises InputError for a node that has no state here.
    """
    where = base or settings(inventory).repository
    try:
        state = read_state(netboot, node)
    except PermissionError as error:
        raise HostError(f"{error.filename} cannot be read", hint="run as root (sudo)") from error
    if state is None:
        hint = "pibuild backup gateway makes it, and explode; --dest names another directory"
        raise InputError(Problem(message=f"{netboot.state} holds no state of {node.name}", hint=hint))
    ca = own_ca(inventory) or backup_ca(netboot)
    return Repository(
        node=node.name,
        url=url_of(where, node),
        password=(netboot.state / node.name / "restic-password").read_text().strip(),
        keys=dict(line.split("=", 1) for line in backup_keys(netboot, node).decode().splitlines() if "=" in line),
        ca=ca if where.startswith("rest:https:") and ca.is_file() else None,
        identity=netboot.state / node.name / "ssh_host_ed25519_key",
    )


def snapshots(of: Repository) -> tuple[Snapshot, ...]:
    """Return all snapshots of a repository, the oldest first. Raises CommandError."""
    listed = json.loads(of.restic("snapshots", "--no-lock", "--json", timeout=_PATIENCE).stdout) or []
    found = [
        Snapshot(
            id=one["short_id"],
            time=one["time"],
            host=one["hostname"],
            paths=tuple(one["paths"]),
            files=one.get("summary", {}).get("total_files_processed"),
            size=one.get("summary", {}).get("total_bytes_processed"),
        )
        for one in listed
    ]
    return tuple(sorted(found, key=lambda one: one.time))


def restore(
    of: Repository, to: Path, *, snapshot: str = "latest", include: Sequence[str] = (), dry_run: bool = False
) -> int:
    """Bring a snapshot, or the paths `include` of it, back below a directory; return how many files are there then.

    One that was stopped goes on when it is called for again. The directory is made for its owner alone: what a node has
    backed up may be setuid. A dry run writes nothing. Raises InputError for a directory that has something else in it,
    CommandError.
    """
    if snapshot == "latest":
        own = [one.id for one in snapshots(of) if one.host == of.node]
        if not own:
            hint = f"pibuild backup list {of.node}, and --snapshot ID for one of another host"
            raise InputError(Problem(message=f"{of.node} has no snapshot of its own", hint=hint))
        snapshot = own[-1]
    marker = to / _RESTORING
    order = json.dumps([of.node, snapshot, *include])
    if to.exists() and not _goes_on(to, order):
        hint = "name a new directory: what is there would be mixed with what comes back"
        raise InputError(Problem(message=f"{to} is not an empty directory", hint=hint))
    wanted = [word for path in include for word in ("--include", path)]
    if dry_run:  # restic has a dry run of its own from 0.17 on
        listed = map(json.loads, of.restic("ls", "--no-lock", "--json", snapshot).stdout.splitlines())
        paths = [Path(one["path"]) for one in listed if one.get("type") not in ("dir", None)]
        return sum(not include or any(path.is_relative_to(each) for each in include) for path in paths)
    try:
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker.write_text(order)
        of.restic("restore", snapshot, "--no-lock", "--target", to, *wanted)
        restored = sum(1 for path in to.rglob("*") if path.is_symlink() or path.is_file()) - 1
        marker.unlink()
    except OSError as error:
        raise HostError(f"{error.filename or to}: {error.strerror}", hint="--to another directory") from error
    if include and not restored:
        hint = f"pibuild backup list {of.node}; a path as it is on the node: /etc/hostname"
        raise InputError(Problem(message=f"nothing in snapshot {snapshot} is called {', '.join(include)}", hint=hint))
    return restored


def _goes_on(to: Path, order: str) -> bool:
    """Whether a directory is empty, or what the same order left that was stopped."""
    if not to.is_dir():
        return False
    marker = to / _RESTORING
    if marker.is_file() and not marker.is_symlink():
        return marker.read_bytes()[:65536].decode(errors="replace") == order
    return not any(to.iterdir())

"""What a node keeps whichever image it boots: host keys, machine-id, passwords of k3s and restic, tokens.

Each file is made once and never again; whoever replaces one by hand finds it respected.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError
from builder.host.files import sync_file_system
from builder.inventory.nodes import Node
from builder.monitoring.forwarder import CONFIG, TOKEN
from builder.netboot.layout import Netboot
from builder.run import Argv, find_tool, run

_MACHINES = uuid.UUID("6f1f3a52-5ac1-4d0c-9d2e-0d3c7f5b8a41")  # of pibuild's own making
BACKUP_PASSWORD, BACKUP_KEYS = "/etc/restic/password", "/etc/restic/keys"
BACKUP_CA = "/etc/pibuild/backup-ca.pem"
_CLUSTER = ".cluster"  # no node is called that
# what is random: bytes of it
_SECRETS = {
    "k3s-node-password": 16,
    "restic-password": 32,
    "fleet-token": 32,
    "restic-http-password": 32,
    TOKEN: 32,
}
_HOST_KEYS = ("ecdsa", "ed25519")  # every client since 2014 knows one; an RSA key would take a second of every node


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """A file of a node's state, and where it goes in its root."""

    path: str
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node's state. `login_key` is the public half of the key that the login node opens every node with."""

    machine_id: str
    login_key: str
    files: tuple[StateFile, ...]


def machine_id(serial: str) -> str:
    """Return the machine-id(5) of a board: 32 hex digits, a UUID of version 5 made of its serial number."""
    return uuid.uuid5(_MACHINES, serial).hex


def login_key_file(netboot: Netboot) -> Path:
    """Return where the private half of the login node's key lies."""
    return netboot.state / _CLUSTER / "id_ed25519"


def known_hosts_file(netboot: Netboot) -> Path:
    """Return where the host keys are kept of machines whose state is not here, as they showed them first."""
    return netboot.state / _CLUSTER / "known_hosts"


def host_keys(netboot: Netboot, node: Node) -> list[Path]:
    """Return the public halves of a node's host keys, as far as they were made."""
    return sorted((netboot.state / node.name).glob("ssh_host_*_key.pub"))


def read_state(netboot: Netboot, node: Node) -> NodeState | None:
    """Return a node's state, None where it is not complete yet."""
    home, cluster = netboot.state / node.name, netboot.state / _CLUSTER
    wanted = _files(home, cluster)
    needed = [source for source, _ in wanted.values()]
    needed += [cluster / "id_ed25519.pub", home / "restic-http-password"]
    if not all(source.is_file() for source in needed):
        return None
    return NodeState(
        machine_id=(home / "machine-id").read_text().strip(),
        login_key=(cluster / "id_ed25519.pub").read_text().strip(),
        files=(
            *(StateFile(path=path, content=source.read_bytes(), mode=mode) for path, (source, mode) in wanted.items()),
            StateFile(path=BACKUP_KEYS, content=backup_keys(netboot, node), mode=0o600),
            *_backup_ca(netboot),
        ),
    )


def backup_keys(netboot: Netboot, node: Node) -> bytes:
    """Return what a node shows to the store of its backups, lines of NAME=VALUE for the environment of restic.

    What a person has put into the state's file `restic-keys` (AWS_ACCESS_KEY_ID=… and the like) comes with it.
    """
    home = netboot.state / node.name
    password, own = home / "restic-http-password", home / "restic-keys"
    lines = [f"RESTIC_REST_USERNAME={node.name}", f"RESTIC_REST_PASSWORD={password.read_text().strip()}"]
    lines += own.read_text().splitlines() if own.is_file() else []
    return "".join(f"{line}\n" for line in lines).encode()


def backup_ca(netboot: Netboot) -> Path:
    """Return where the certificate is that the gateway of backups shows; there is none before it serves TLS."""
    return netboot.state / _CLUSTER / "backup-ca.pem"


def _backup_ca(netboot: Netboot) -> list[StateFile]:
    path = backup_ca(netboot)
    return [StateFile(path=BACKUP_CA, content=path.read_bytes(), mode=0o644)] if path.is_file() else []


def make_state(netboot: Netboot, nodes: tuple[Node, ...]) -> dict[str, NodeState]:
    """Make what is missing of the nodes' state, and return it by node. The directory's lock must be held."""
    cluster = netboot.state / _CLUSTER
    cluster.mkdir(mode=0o700, exist_ok=True)
    homes = {node.name: netboot.state / node.name for node in nodes}
    for home in homes.values():
        home.mkdir(mode=0o700, exist_ok=True)
    secret = {home / name: secrets.token_hex(size) for home in homes.values() for name, size in _SECRETS.items()}
    told = {homes[node.name] / "machine-id": machine_id(node.serial) for node in nodes}
    _make_missing(netboot, {cluster / "k3s-token": secrets.token_hex(32), **told, **secret})
    wanted = [Key(path=cluster / "id_ed25519", kind="ed25519", comment="login node")]
    wanted += [
        Key(path=home / f"ssh_host_{kind}_key", kind=kind, comment=f"root@{name}")
        for name, home in homes.items()
        for kind in _HOST_KEYS
    ]
    make_keys(netboot, wanted)
    found = {node.name: read_state(netboot, node) for node in nodes}
    broken = next((name for name, state in found.items() if state is None), "")
    if broken:
        hint = "is something else at work there?"
        raise HostError(f"the state of {broken} is not whole: {homes[broken]}", hint=hint)
    return {name: state for name, state in found.items() if state is not None}


def write_tokens(netboot: Netboot, nodes: tuple[Node, ...]) -> dict[str, str]:
    """Return the tokens that nodes' metrics are written with, by node, made where missing. The lock must be held."""
    for node in nodes:
        (netboot.state / node.name).mkdir(mode=0o700, exist_ok=True)
    _make_missing(netboot, {netboot.state / node.name / TOKEN: secrets.token_hex(32) for node in nodes})
    return {node.name: (netboot.state / node.name / TOKEN).read_text().strip() for node in nodes}


def _files(home: Path, cluster: Path) -> Mapping[str, tuple[Path, int]]:
    """Return what goes where: path in the root to file of the state and mode."""
    keys = [f"ssh_host_{kind}_key" for kind in _HOST_KEYS]
    return {
        "/etc/machine-id": (home / "machine-id", 0o444),
        **{f"/etc/ssh/{key}": (home / key, 0o600) for key in keys},
        **{f"/etc/ssh/{key}.pub": (home / f"{key}.pub", 0o644) for key in keys},
        "/etc/rancher/node/password": (home / "k3s-node-password", 0o600),
        "/etc/rancher/k3s/token": (cluster / "k3s-token", 0o600),
        BACKUP_PASSWORD: (home / "restic-password", 0o600),
        "/etc/pibuild/fleet-token": (home / "fleet-token", 0o600),
        f"{CONFIG}/secrets/{TOKEN}": (home / TOKEN, 0o600),
    }


def _make_missing(netboot: Netboot, texts: Mapping[Path, str]) -> None:
    netboot.write_all({path: f"{text}\n".encode() for path, text in texts.items() if not path.exists()}, 0o600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An ssh key to make: where its private half goes, the public one beside it with `.pub`."""

    path: Path
    kind: str
    comment: str

    @property
    def public(self) -> Path:
        """Where the public half lies; it comes last and says that there is a key."""
        return self.path.with_name(f"{self.path.name}.pub")


def make_keys(netboot: Netboot, keys: Sequence[Key]) -> None:
    """Make those of the keys that are missing, side by side: ssh-keygen makes one and ends, xargs starts the next."""
    missing = [key for key in keys if not key.public.is_file()]
    if not missing:
        return
    keygen: Argv = (find_tool("ssh-keygen", package="openssh-client"), "-q", "-N", "")
    xargs: Argv = (find_tool("xargs", package="findutils"), "--null", "--max-procs", str(os.cpu_count() or 1))
    with netboot.scratch(netboot.state) as scratch:
        made = {str(number): key for number, key in enumerate(missing)}
        words = [["-t", key.kind, "-C", key.comment, "-f", str(scratch / name)] for name, key in made.items()]
        listed = "".join(f"{word}\0" for each in words for word in each)
        run([*xargs, "--max-args", str(len(words[0])), *keygen], input=listed.encode(), what="making ssh keys")
        sync_file_system(scratch)
        for name, key in made.items():
            (scratch / name).replace(key.path)
            (scratch / f"{name}.pub").replace(key.public)

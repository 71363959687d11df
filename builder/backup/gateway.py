"""The gateway that nodes push their backups to: who is let in, and taking old keys away.

The gateway's program (`overlays/backup-gateway`) does the work on the repositories' local path; this calls it, here
where the login node is the gateway, else over ssh. What it is told goes through stdin, never as an argument.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from builder.backup.repository import own_ca, settings
from builder.errors import HostError
from builder.host.data import OVERLAYS
from builder.inventory.nodes import Inventory, Node
from builder.netboot.layout import Netboot
from builder.netboot.reach import NodeRoot
from builder.netboot.state import backup_ca, make_state
from builder.run import Completed, find_tool, run

GIVEN = "restic.given"  # in a node's state: it has, or may have, the passwords of the rotation under way
PROGRAM = Path("/usr/local/lib/pibuild/backup-gateway")
_OWN = OVERLAYS / "backup-gateway" / PROGRAM.relative_to("/")
# 256 random bits need no slow hash, and the server hashes with every request
_COST = "5"
_CURVE, _DAYS = "ec_paramgen_curve:prime256v1", "7300"
_PATIENCE = 600  # seconds for the gateway's program


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway's program on this machine, or with `shell` on that node. `environment` is for one that is here."""

    shell: NodeRoot | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(self, *words: str, stdin: bytes = b"") -> Completed:
        """Run the program. Raises CommandError, HostError."""
        if self.shell is not None:
            return self.shell.run([PROGRAM, *words], stdin=stdin)
        program = PROGRAM if PROGRAM.is_file() else _OWN
        if shutil.which("restic-rest-server") is None and not self.environment:
            raise HostError("restic-rest-server is not installed", hint="sudo apt-get install restic-rest-server")
        return run([program, *words], input=stdin, env=self.environment, timeout=_PATIENCE, what="on the gateway")

    def check(self) -> None:
        """Raise HostError or CommandError unless the gateway can be reached."""
        if self.shell is not None:
            self.shell.check("test", "-x", str(PROGRAM))


def find_gateway(inventory: Inventory, netboot: Netboot) -> Gateway | None:
    """Return the cluster's gateway, None where its backups go to a store without one."""
    name = settings(inventory).gateway
    if name is None:
        return None
    node = inventory.node(name)
    return Gateway() if node.name == inventory.login.name else Gateway(shell=NodeRoot(netboot=netboot, node=node))


def users(inventory: Inventory, netboot: Netboot) -> bytes:
    """Return who is let in, as the gateway's program reads it; makes missing state. The directory's lock must be held.

    A line a node that is backed up: name, bcrypt of its password for the server, password of its repository. While a
    rotation is under way those are what the node has: the new ones from when it is given them.
    """
    nodes = tuple(node for node in inventory.nodes if node.backup)
    make_state(netboot, nodes)
    lines = []
    for node in nodes:
        given = (netboot.state / node.name / GIVEN).is_file()
        password, server = (
            latest(netboot, node, name) if given else (netboot.state / node.name / name).read_text().strip()
            for name in ("restic-password", "restic-http-password")
        )
        lines.append(f"{node.name} {bcrypt(server)} {password}\n")
    return "".join(lines).encode()


def latest(netboot: Netboot, node: Node, name: str) -> str:
    """Return a secret of a node's state: the one that a rotation under way is about to make it, if there is one."""
    home = netboot.state / node.name
    following = home / f"{name}.next"
    return (following if following.is_file() else home / name).read_text().strip()


def bcrypt(secret: str) -> str:
    """Return a password's bcrypt hash, as a rest-server's htpasswd file has it."""
    htpasswd = find_tool("htpasswd", package="apache2-utils")
    line = run([htpasswd, "-niBC", _COST, "node"], input=secret.encode()).stdout.strip()
    return line.partition(":")[2]


def serves_tls(inventory: Inventory) -> bool:
    """Whether the gateway serves TLS with a certificate made here: not where a person brings one of their own."""
    return settings(inventory).repository.startswith("rest:https:") and own_ca(inventory) is None


def certificate(inventory: Inventory, netboot: Netboot) -> bytes:
    """Return the gateway's certificate and key, PEM; makes them when they are not there, or for another address.

    It signs itself: the nodes have it as the one that they trust. The directory's lock must be held.
    """
    openssl = find_tool("openssl", package="openssl")
    host = urlsplit(settings(inventory).repository.removeprefix("rest:")).hostname or ""
    kind = "ip" if host.replace(".", "").isdigit() else "host"
    made, key = backup_ca(netboot), backup_ca(netboot).with_name("backup-ca.key")
    said = run([openssl, "x509", "-noout", f"-check{kind}", host, "-in", made], check=False).stdout
    if "does match" not in said:
        with netboot.scratch(netboot.state) as scratch:
            words: list[str | Path] = [
                openssl,
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                _CURVE,
                "-nodes",
                "-sha256",
            ]
            words += ["-days", _DAYS, "-subj", f"/CN=backups of {inventory.cluster.name}"]
            words += ["-addext", f"subjectAltName={'IP' if kind == 'ip' else 'DNS'}:{host}"]
            run([*words, "-keyout", scratch / "key", "-out", scratch / "certificate"])
            (scratch / "key").chmod(0o600)
            (scratch / "key").replace(key)
            (scratch / "certificate").replace(made)
    return made.read_bytes() + key.read_bytes()


def let_in(inventory: Inventory, netboot: Netboot, gateway: Gateway) -> tuple[str, ...]:
    """Let the gateway know all nodes that are backed up, and return their names. Takes the directory's lock."""
    with netboot.locked():
        gateway.check()
        if serves_tls(inventory):
            gateway.call("certificate", stdin=certificate(inventory, netboot))
        gateway.call("users", stdin=users(inventory, netboot))
    return tuple(node.name for node in inventory.nodes if node.backup)

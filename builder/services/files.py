"""What the servers' files are made of: who serves, what directories, and the templates.

Templates are in `builder/services/templates`; everything here is pure.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import jinja2

from builder.errors import InputError, Problem
from builder.host.templates import environment
from builder.inventory.nodes import Inventory, Node
from builder.netboot.layout import Netboot

if TYPE_CHECKING:
    from builder.inventory.schema import ServerEntry

ServerRole = Literal["login", "backup"]
CONFIG = PurePosixPath("/etc/pibuild")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A file on a server, absolute path; with `block` pibuild owns only a marked part of it, as of /etc/hosts."""

    path: PurePosixPath
    text: str
    block: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server and what it serves. `tftp_server` is the same on login and backup: nodes get the same answers."""

    inventory: Inventory
    role: ServerRole
    entry: ServerEntry
    node: Node

    @property
    def tftp_server(self) -> IPv4Address:
        """The address that boards are told to load from."""
        return self.inventory.login.address

    @property
    def netbooting(self) -> tuple[Node, ...]:
        """The nodes whose roots are served."""
        return tuple(node for node in self.inventory.nodes if node.boot == "network")

    @property
    def answers_dns(self) -> bool:
        """Whether nodes are told to ask this machine for names."""
        return self.node.address in self.inventory.dns


def serving(inventory: Inventory, role: ServerRole) -> Serving:
    """Return the server of a role. Raises InputError when the cluster has none."""
    servers = inventory.cluster.servers
    entry = servers.login if role == "login" else servers.backup
    if entry is None:
        message = f"{inventory.path}: the cluster has no {role} server"
        raise InputError(Problem(message=message, hint=f"cluster: servers: {role}: {{node: NAME}}"))
    return Serving(inventory=inventory, role=role, entry=entry, node=inventory.node(entry.node))


def shortcoming(here: Serving) -> str:
    """Return what a server cannot do though its files say it might, "" for one that can."""
    if here.role == "login":
        return ""
    return (
        f"a backup server gives boards their addresses and sends them to the login node ({here.tftp_server}) for all "
        "else: roots and boot files are not copied here. When the login node is dead, no board boots until it is back"
    )


def netboot(inventory: Inventory) -> Netboot:
    """Return where nodes' roots and boot files are. What a server exports are the parents, in which names change."""
    return Netboot(Path(inventory.cluster.netboot))


@functools.cache
def _templates() -> jinja2.Environment:
    return environment(_TEMPLATES)


def fill(template: str, here: Serving, **values: object) -> str:
    """Return a template's text for a server of the nodes' boot."""
    return filled(template, here.inventory, **values)


def filled(template: str, inventory: Inventory, **values: object) -> str:
    """Return a template's text; `source`, `domain` and `nodes` are there for every template."""
    return (
        _templates()
        .get_template(template)
        .render(
            source=f"the inventory of cluster {inventory.cluster.name}",
            domain=inventory.cluster.domain,
            nodes=inventory.nodes,
            **values,
        )
    )

"""An inventory that was checked and resolved: the cluster, and every node with what it inherits.

A node's name is its host name: lower-case letters, digits and hyphens, since DHCP, Kubernetes and certificates take
nothing else. A name written with capitals or underscores (`mlops_master`) is taken: the host name is made of it
(`mlops-master`), and the written name stays an alias that every command, ssh and the hosts files know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from builder.documents.spelling import did_you_mean
from builder.errors import InputError, Mark, Problem
from builder.inventory.names import AddressRange

if TYPE_CHECKING:
    from builder.inventory.schema import Cluster, K3s, Metrics

FORWARDING = ("local", "site-agent")  # the ways of metrics in which a node runs a forwarder


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One board with everything it inherits.

    `name` is its host name, `aliases` what else it is called. `serial` is 8 lower-case hex digits, `mac` lower-case
    with colons. `port` is its port on the switch.
    """

    name: str
    aliases: tuple[str, ...]
    serial: str
    mac: str
    address: IPv4Address
    port: int | None
    role: str
    groups: tuple[str, ...]
    board: str
    image: str
    site: str
    user: str
    boot: str
    root: str
    persist: tuple[str, ...]
    cmdline: tuple[str, ...]
    backup: bool
    metrics: Metrics
    labels: Mapping[str, str]
    models: Mapping[str, str]
    k3s: K3s
    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A checked cluster.yaml: `nodes` in the order of the file, `pools` the ranges that no node's address is in.

    The settings of the cluster and of nodes have the attributes of the schema's models, and are none (`settled`).
    """

    path: Path
    cluster: Cluster
    subnet: IPv4Network
    gateway: IPv4Address
    dns: tuple[IPv4Address, ...]
    pools: Mapping[str, AddressRange]
    nodes: tuple[Node, ...]
    groups: tuple[str, ...]
    subnet_mark: Mark

    def node(self, name: str) -> Node:
        """Return the node of a name or alias. Raises InputError."""
        for node in self.nodes:
            if name == node.name or name in node.aliases:
                return node
        known = [called for node in self.nodes for called in (node.name, *node.aliases)]
        meant = did_you_mean(name, known)
        raise InputError(Problem(message=f"no node '{name}' in {self.path}{meant}", hint="pibuild node list"))

    def select(
        self, names: Iterable[str] = (), *, role: str | None = None, group: str | None = None, everything: bool = False
    ) -> tuple[Node, ...]:
        """Return the nodes that are named, have the role, or are in the group, in the order of the file.

        Raises InputError for a name, role or group that is not there.
        """
        for word, what, known in (
            (role, "role", {node.role for node in self.nodes}),
            (group, "group", self.groups),
        ):
            if word is not None and word not in known:
                raise InputError(Problem(message=f"no node has the {what} '{word}'{did_you_mean(word, known)}"))
        named = {self.node(name).name for name in names}
        return tuple(
            node
            for node in self.nodes
            if everything or node.name in named or node.role == role or (group is not None and group in node.groups)
        )

    def host_lines(self) -> tuple[tuple[str, str], ...]:
        """Return each node's name and its line of hosts(5): address, name, aliases."""
        return tuple((node.name, f"{node.address} {' '.join((node.name, *node.aliases))}\n") for node in self.nodes)

    @property
    def login(self) -> Node:
        """The node that serves the others."""
        return self.node(self.cluster.servers.login.node)

    @property
    def backup(self) -> Node | None:
        """The node that answers when the login node is dead."""
        server = self.cluster.servers.backup
        return self.node(server.node) if server else None

"""The inventory: cluster.yaml read, checked as a whole, and every node's settings resolved.

A node's name is its host name: lower-case letters, digits and hyphens, since DHCP, Kubernetes and certificates take
nothing else. A name written with capitals or underscores (`mlops_master`) is taken: the host name is made of it
(`mlops-master`), and the written name stays an alias that every command, ssh and the hosts files know.
"""

from __future__ import annotations

import contextlib
import gc
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from builder.documents.document import Document, in_file_order, load, validate
from builder.documents.messages import did_you_mean
from builder.errors import InputError, Mark, Problem
from builder.inventory.checks import Checks
from builder.inventory.names import AddressRange, hostname, mac_of, range_of, serial_of
from builder.inventory.schema import BUILT_IN, Cluster, InventoryFile, K3s, Metrics, NodeEntry, Settings

DEFAULT_PATHS = (Path("cluster.yaml"), Path("/etc/pibuild/cluster.yaml"))
FORWARDING = ("local", "site-agent")  # the ways of metrics in which a node runs a forwarder
_QUEUE = PurePosixPath("/var/lib/pibuild")
ADDING = ("labels", "metrics", "cmdline")  # what adds up over the levels instead of being replaced


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
    """A checked cluster.yaml: `nodes` in the order of the file, `pools` the ranges that no node's address is in."""

    path: Path
    cluster: Cluster
    subnet: IPv4Network
    gateway: IPv4Address
    dns: tuple[IPv4Address, ...]
    pools: Mapping[str, AddressRange]
    nodes: tuple[Node, ...]
    document: Document
    file: InventoryFile

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
            (group, "group", self.file.groups),
        ):
            if word is not None and word not in known:
                raise InputError(Problem(message=f"no node has the {what} '{word}'{did_you_mean(word, known)}"))
        named = {self.node(name).name for name in names}
        return tuple(
            node
            for node in self.nodes
            if everything or node.name in named or node.role == role or (group is not None and group in node.groups)
        )

    @property
    def login(self) -> Node:
        """The node that serves the others."""
        return self.node(self.cluster.servers.login.node)

    @property
    def backup(self) -> Node | None:
        """The node that answers when the login node is dead."""
        server = self.cluster.servers.backup
        return self.node(server.node) if server else None


def find_inventory(given: Path | None = None) -> Path:
    """Return the inventory to use: the given one, ./cluster.yaml, or /etc/pibuild/cluster.yaml. Raises InputError."""
    if given is not None:
        return given
    for path in DEFAULT_PATHS:
        if path.is_file():
            return path
    places = " and ".join(str(path) for path in DEFAULT_PATHS)
    raise InputError(Problem(message=f"no inventory: neither {places} exists", hint="name it: --cluster FILE"))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off: it looks through all nodes of a large file again and again, half the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory. Raises InputError with every problem, in the order of the file."""
    document = load(path)
    try:
        file = validate(InventoryFile, document)
    except InputError as error:
        numbers = _numbers(document)
        raise InputError(*(numbers.get(problem.mark, problem) for problem in error.problems)) from error
    checks = Checks(file=file, document=document)
    checks.run()
    if checks.problems:
        raise InputError(*in_file_order(checks.problems))
    inventory = _resolve(path, document, file)
    problems = [problem for node in inventory.nodes for problem in _forwarding(node)]
    if problems:
        raise InputError(*problems)
    return inventory


def _forwarding(node: Node) -> Iterator[Problem]:
    """Find what keeps a node from forwarding metrics; it takes what the node inherits together."""
    if node.metrics.mode not in FORWARDING:
        return
    says = f"node {node.name}: metrics.mode is {node.metrics.mode}"
    if node.metrics.url is None:
        hint = "defaults: {metrics: {url: …/api/v1/write}}"
        yield Problem(message=f"{says}, but nothing says where to: metrics.url", mark=node.mark, hint=hint)
    kept = any(_QUEUE.is_relative_to(path) for path in node.persist)
    if node.root == "shared" and node.boot == "network" and not kept:
        hint = f"persist: [{_QUEUE}], or let a site agent read it: mode: scraped"
        yield Problem(message=f"{says}, and its root is in memory: no queue", mark=node.mark, hint=hint)


def _numbers(document: Document) -> dict[Mark | None, Problem]:
    """Return what to say of serial numbers and MAC addresses that YAML takes for numbers, by their place."""
    nodes = document.value.get("nodes") if isinstance(document.value, dict) else None
    found: dict[Mark | None, Problem] = {}
    for index, entry in enumerate(nodes if isinstance(nodes, list) else []):
        for field in ("serial", "mac"):
            if isinstance(entry, dict) and isinstance(entry.get(field), int | float):
                mark = document.mark(("nodes", index, field))
                message = f"node '{entry.get('name')}': {field} is a number to YAML as it is written; put it in quotes"
                found[mark] = Problem(message=message, mark=mark, hint=f'{field}: "…"')
    return found


def _resolve(path: Path, document: Document, file: InventoryFile) -> Inventory:
    cluster = file.cluster
    gateway = IPv4Address(cluster.gateway)
    written = {"services": cluster.pools.services, "dynamic": cluster.pools.dynamic}
    pools = {name: range_of(text) for name, text in written.items() if text}
    levels = _Levels(file)
    return Inventory(
        path=path,
        cluster=cluster,
        subnet=IPv4Network(cluster.subnet),
        gateway=gateway,
        dns=tuple(IPv4Address(server) for server in cluster.dns) or (gateway,),
        pools=MappingProxyType(pools),
        nodes=tuple(_node(entry, levels, document.mark(("nodes", index))) for index, entry in enumerate(file.nodes)),
        document=document,
        file=file,
    )


class _Levels:
    """What nodes inherit, worked out once for each combination of role and groups."""

    def __init__(self, file: InventoryFile) -> None:
        self.file = file
        self.known: dict[tuple[str, ...], Mapping[str, object]] = {}

    def inherited(self, entry: NodeEntry) -> Mapping[str, object]:
        key = (entry.role, *entry.groups)
        if key not in self.known:
            self.known[key] = merged([set_in(settings) for _, settings in inherits(self.file, entry)])
        return self.known[key]


def inherits(file: InventoryFile, entry: NodeEntry) -> list[tuple[tuple[str, ...], Settings]]:
    """Return what a node inherits from, the nearest first: path in the file and settings."""
    groups: list[tuple[tuple[str, ...], Settings]] = [
        (("groups", group), file.groups[group]) for group in entry.groups if group in file.groups
    ]
    role = [(("roles", entry.role), file.roles[entry.role])] if entry.role in file.roles else []
    return [*groups, *role, (("defaults",), file.defaults)]


def set_in(settings: Settings) -> dict[str, object]:
    """Return what is written there, of the fields that are inherited; an empty value (null) counts as not written."""
    written = {name: getattr(settings, name) for name in settings.model_fields_set if name in BUILT_IN}
    return {name: _plain(value) for name, value in written.items() if value is not None}


def _plain(value: object) -> object:
    return value.model_dump(exclude_unset=True) if isinstance(value, Metrics) else value


def merged(levels: Iterable[Mapping[str, object]]) -> Mapping[str, object]:
    """Lay settings over each other, the nearest first; labels, metrics and the kernel's words add up."""
    listed = [*levels, BUILT_IN]
    result = dict(ChainMap(*(dict(level) for level in listed)))
    words: list[str] = []
    labels: dict[str, str] = {}
    metrics: dict[str, object] = {}
    for level in reversed(listed):
        words += [word for word in _strings(level.get("cmdline", [])) if word not in words]
        labels.update(_labels(level.get("labels", {})))
        metrics.update(_settings(level.get("metrics", {})))
    added = {"cmdline": words, "labels": labels, "metrics": metrics}
    return {**{name: value for name, value in result.items() if name not in ADDING}, **added}


def _settings(value: object) -> dict[str, object]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _labels(value: object) -> dict[str, str]:
    return {str(key): str(label) for key, label in value.items()} if isinstance(value, Mapping) else {}


def _node(entry: NodeEntry, levels: _Levels, mark: Mark) -> Node:
    settings = merged([set_in(entry), levels.inherited(entry)])
    name = hostname(entry.name)
    return Node(
        name=name,
        aliases=tuple(dict.fromkeys(alias for alias in (entry.name, *entry.aliases) if alias != name)),
        serial=serial_of(entry.serial),
        mac=mac_of(entry.mac),
        address=IPv4Address(entry.address),
        port=entry.port,
        role=entry.role,
        groups=tuple(entry.groups),
        board=str(settings["board"]),
        image=str(settings["image"]),
        site=str(settings["site"]),
        user=str(settings["user"]),
        boot=str(settings["boot"]),
        root=str(settings["root"]),
        persist=tuple(_strings(settings["persist"])),
        cmdline=tuple(_strings(settings["cmdline"])),
        backup=bool(settings["backup"]),
        metrics=Metrics.model_validate(settings["metrics"]),
        labels=MappingProxyType(_labels(settings["labels"])),
        models=MappingProxyType(_labels(settings["models"])),
        k3s=settings["k3s"] if isinstance(settings["k3s"], K3s) else K3s(),
        mark=mark,
    )

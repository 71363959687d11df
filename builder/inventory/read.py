"""cluster.yaml read and checked as a whole, and every node's settings resolved."""

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
from builder.errors import InputError, Mark, Problem
from builder.inventory.checks import Checks
from builder.inventory.names import hostname, mac_of, range_of, serial_of
from builder.inventory.nodes import FORWARDING, Inventory, Node
from builder.inventory.schema import BUILT_IN, InventoryFile, K3s, Metrics, NodeEntry, Settings
from builder.inventory.settled import settle

_QUEUE = PurePosixPath("/var/lib/pibuild")
ADDING = ("labels", "metrics", "cmdline")  # what adds up over the levels instead of being replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An inventory, and what it was read from: the file's values as written, and their places."""

    inventory: Inventory
    file: InventoryFile
    document: Document


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
def read_inventory(path: Path) -> Reading:
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
    return Reading(inventory=inventory, file=file, document=document)


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
        cluster=settle(cluster),
        subnet=IPv4Network(cluster.subnet),
        gateway=gateway,
        dns=tuple(IPv4Address(server) for server in cluster.dns) or (gateway,),
        pools=MappingProxyType(pools),
        nodes=tuple(_node(entry, levels, document.mark(("nodes", index))) for index, entry in enumerate(file.nodes)),
        groups=tuple(file.groups),
        subnet_mark=document.mark(("cluster", "subnet")),
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
        metrics=settle(Metrics.model_validate(settings["metrics"])),
        labels=MappingProxyType(_labels(settings["labels"])),
        models=MappingProxyType(_labels(settings["models"])),
        k3s=settle(settings["k3s"] if isinstance(settings["k3s"], K3s) else K3s()),
        mark=mark,
    )

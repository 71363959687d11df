"""Checks of an inventory beyond types: all problems at once, each with its place."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from builder.documents.document import Document
from builder.documents.spelling import did_you_mean
from builder.errors import Problem
from builder.firmware.boards import BOARDS, NAMES
from builder.host.ssh_keys import key_problem
from builder.inventory.names import (
    READ_MAC,
    READ_SERIAL,
    AddressRange,
    hostname,
    mac_of,
    place_problem,
    range_of,
    serial_of,
)
from builder.inventory.schema import InventoryFile, NodeEntry, Settings
from builder.modelstore.manifest import name_problem

_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")  # Kubernetes, labels
_POINT_TO_POINT = 31  # RFC 3021: so short a subnet has no broadcast address
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # what goes into paths and configuration files
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # adduser(8)
_REPOSITORY = re.compile(r"(rest:https?://|s3:https?://|sftp:|/)[^\s'\"`$\\]+")
_SCHEDULE = re.compile(r"[A-Za-z0-9*:,./~ -]+")  # systemd.time(7), calendar events
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")  # IFNAMSIZ of linux/if.h

_FILE = re.compile(r"(/[A-Za-z0-9_.@+-]+)+")
_MAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")
_STORE = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9/_.~?=&-]*")  # one word to systemd and to vmagent
_NUMBERS = re.compile(r"((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.(?!$)|$)){4}")

Path = tuple[str | int, ...]


@dataclass(slots=True, kw_only=True)
class Checks:
    """The cross-checks of one inventory; `run` fills `problems`."""

    file: InventoryFile
    document: Document
    problems: list[Problem] = field(default_factory=list)
    pools: dict[str, AddressRange] = field(default_factory=dict)
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    addresses: dict[IPv4Address, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # every name and alias, and the node it belongs to

    def run(self) -> None:
        """Check everything."""
        self.check_network()
        self.check_names()
        self.check_servers()
        self.check_backup()
        self.check_monitoring()
        for path, settings in self.levels():
            self.check_settings(path, settings)
        self.check_identities()
        for index, entry in enumerate(self.file.nodes):
            self.check_node(index, entry)

    def complain(self, path: Path, message: str, hint: str = "") -> None:
        """Keep a problem with what stands at a path."""
        self.problems.append(Problem(message=message, mark=self.document.mark(path), hint=hint))

    def line(self, index: int) -> int:
        """Return the line in which a node stands."""
        return self.document.mark(("nodes", index)).line

    def levels(self) -> list[tuple[Path, Settings]]:
        """Return everything that holds settings, with its path."""
        return [
            (("defaults",), self.file.defaults),
            *((("roles", name), settings) for name, settings in self.file.roles.items()),
            *((("groups", name), settings) for name, settings in self.file.groups.items()),
            *((("nodes", index), entry) for index, entry in enumerate(self.file.nodes)),
        ]

    # -------------------------------------------------------------------------------------------------- the network

    def check_network(self) -> None:
        """Check the subnet, what must lie inside it, and the pools."""
        cluster = self.file.cluster
        self.subnet = self.network(cluster.subnet)
        self.gateway = self.address(("cluster", "gateway"), "gateway", cluster.gateway)
        if self.gateway and self.subnet and self.gateway not in self.subnet:
            self.complain(("cluster", "gateway"), f"gateway {self.gateway} is not in the subnet {self.subnet}")
        for index, server in enumerate(cluster.dns):
            self.address(("cluster", "dns", index), "name server", server)
        for index, server in enumerate(cluster.ntp):
            self.form(("cluster", "ntp", index), "time server", server, _WORD)
        if problem := place_problem(cluster.netboot):
            self.complain(("cluster", "netboot"), f"netboot '{cluster.netboot}' {problem}", "like /srv/netboot")
        self.form(("cluster", "name"), "the cluster's name", cluster.name, _WORD)
        self.form(("cluster", "domain"), "domain", cluster.domain, _WORD)
        zones = zoneinfo.available_timezones()  # none where the machine has no tzdata
        if zones and cluster.timezone not in zones:
            meant = did_you_mean(cluster.timezone, zones)
            self.complain(("cluster", "timezone"), f"unknown time zone '{cluster.timezone}'{meant}")
        for name, written in (("services", cluster.pools.services), ("dynamic", cluster.pools.dynamic)):
            if written is not None:
                self.check_pool(name, written)
        for index, key in enumerate(cluster.models.signers if cluster.models else []):
            if problem := key_problem(key):
                self.complain(("cluster", "models", "signers", index), f"'{key[:40]}' {problem}")

    def form(self, path: Path, what: str, written: str | None, shape: re.Pattern[str]) -> None:
        """Complain about a name that is not of its form."""
        if written is not None and not shape.fullmatch(written):
            self.complain(path, f"{what} '{written}' has a character that does not belong there")

    def network(self, written: str) -> IPv4Network | None:
        """Return the subnet, or complain."""
        try:
            return IPv4Network(written)
        except ValueError:
            hint = "like 192.168.2.0/24: the first address of the network, and the length of its prefix"
            self.complain(("cluster", "subnet"), f"subnet '{written}' is not an IPv4 network", hint)
        return None

    def address(self, path: Path, what: str, written: str) -> IPv4Address | None:
        """Return an address, or complain."""
        try:
            return IPv4Address(written)
        except ValueError:
            self.complain(path, f"{what} '{written}' is not an IPv4 address", "like 192.168.2.20")
        return None

    def check_pool(self, name: str, written: str) -> None:
        """Check one pool: its form, that it is in the subnet, that it shares nothing with another."""
        path = ("cluster", "pools", name)
        try:
            pool = range_of(written)
        except ValueError as error:
            self.complain(path, f"pool {name} '{written}': {error}", "like 192.168.2.200-192.168.2.219")
            return
        if self.subnet and not (pool.first in self.subnet and pool.last in self.subnet):
            self.complain(path, f"pool {name} {pool} is not in the subnet {self.subnet}")
        for other, taken in self.pools.items():
            if pool.first <= taken.last and taken.first <= pool.last:
                self.complain(path, f"pool {name} {pool} overlaps pool {other} {taken}")
        self.pools[name] = pool

    # ------------------------------------------------------------------------------------------------------ the names

    def check_names(self) -> None:
        """Check that names make host names, and that no two nodes answer to the same."""
        lines: dict[str, int] = {}
        for index, entry in enumerate(self.file.nodes):
            name = self.named(("nodes", index, "name"), "name", entry.name)
            own = dict.fromkeys(called for called in (name, entry.name) if called)
            for place, alias in enumerate(entry.aliases):
                if self.named(("nodes", index, "aliases", place), "alias", alias):
                    own.setdefault(alias)
            for called in own:
                if called in self.names:
                    message = f"two nodes are called '{called}'; the other is in line {lines[called]}"
                    self.complain(("nodes", index, "name"), message)
                    break
            for called in own:
                self.names.setdefault(called, entry.name)
                lines.setdefault(called, self.line(index))

    def named(self, path: Path, what: str, written: str) -> str | None:
        """Return the host name of a written name, or complain."""
        try:
            return hostname(written)
        except ValueError:
            hint = "letters, digits and hyphens (an underscore becomes a hyphen), 63 at most, no hyphen at either end"
            self.complain(path, f"{what} '{written}' makes no host name", hint)
        return None

    def check_servers(self) -> None:
        """Check that the servers are nodes of that role, and every other node is not."""
        servers = self.file.cluster.servers
        roles = {entry.name: entry.role for entry in self.file.nodes}
        for role, server in (("login", servers.login), ("backup", servers.backup)):
            if server is None:
                continue
            path = ("cluster", "servers", role, "node")
            self.form((*path[:-1], "interface"), "interface", server.interface, _INTERFACE)
            self.form((*path[:-1], "uplink"), "interface", server.uplink, _INTERFACE)
            owner = self.names.get(server.node)
            if owner is None:
                meant = did_you_mean(server.node, self.names)
                self.complain(path, f"{role} server '{server.node}' is not among the nodes{meant}")
            elif roles[owner] != role:
                self.complain(
                    path,
                    f"{role} server '{server.node}' has the role {roles[owner]}",
                    f"give it role: {role}, or name another node",
                )
            for index, entry in enumerate(self.file.nodes):
                if entry.role == role and owner not in {None, entry.name}:
                    message = f"node {entry.name} has the role {role}, but the {role} server is {server.node}"
                    self.complain(("nodes", index, "role"), message)

    def check_backup(self) -> None:
        """Check where backups go, and that what becomes lines of files is one line each."""
        backup = self.file.cluster.backup
        if backup is None:
            return
        path = ("cluster", "backup")
        if not _REPOSITORY.fullmatch(backup.repository):
            hint = "rest:https://backup.example:8000, s3:https://store.example/bucket, sftp:USER@HOST:/PATH or /PATH"
            self.complain((*path, "repository"), f"'{backup.repository}' is not a known kind of repository", hint)
        elif re.search(r"//[^/]*:[^/]*@", backup.repository):
            hint = "each node has its own, in its state on the login node; pibuild backup rotate makes new ones"
            self.complain((*path, "repository"), "a password has no place in cluster.yaml", hint)
        if backup.gateway is not None and backup.gateway not in self.names:
            meant = did_you_mean(backup.gateway, self.names)
            self.complain((*path, "gateway"), f"gateway '{backup.gateway}' is not among the nodes{meant}")
        elif backup.gateway is not None and not backup.repository.startswith("rest:"):
            hint = "repository: rest:https://backup.example:8000"
            self.complain((*path, "gateway"), "a gateway serves rest: repositories alone", hint)
        self.form((*path, "schedule"), "schedule", backup.schedule, _SCHEDULE)
        for index, place in enumerate(backup.paths):
            if not PurePosixPath(place).is_absolute() or "\n" in place:
                self.complain((*path, "paths", index), f"'{place}' is not an absolute path")
        for index, pattern in enumerate(backup.exclude):
            if not pattern.strip() or "\n" in pattern:
                self.complain((*path, "exclude", index), f"'{pattern}' is not a pattern")

    def check_monitoring(self) -> None:
        """Check who watches, that alerts reach somebody, and that what names a file names one."""
        monitoring = self.file.cluster.monitoring
        if monitoring is None:
            return
        path = ("cluster", "monitoring")
        if monitoring.server is not None and monitoring.server not in self.names:
            meant = did_you_mean(monitoring.server, self.names)
            self.complain((*path, "server"), f"monitoring server '{monitoring.server}' is not among the nodes{meant}")
        if monitoring.email is None and monitoring.webhook is None:
            hint = "monitoring: {webhook: {url: …}} or {email: {to: […], sender: …, smarthost: …}}"
            self.complain(path, "alerts would reach nobody: neither email nor webhook is set", hint)
        for name, hook in (("webhook", monitoring.webhook), ("deadman", monitoring.deadman)):
            if hook is not None and (hook.url is None) == (hook.url_file is None):
                self.complain((*path, name), f"{name}: either url or url_file", f"{name}: {{url_file: /etc/…}}")
            for key, file in (("url_file", hook.url_file), ("token_file", hook.token_file)) if hook else ():
                self.check_file((*path, name, key), file)
        if monitoring.email is not None:
            self.check_file((*path, "email", "password_file"), monitoring.email.password_file)
            for index, address in enumerate([monitoring.email.sender, *monitoring.email.to]):
                where = ("to", index - 1) if index else ("sender",)
                self.form((*path, "email", *where), "address", address, _MAIL)

    def check_file(self, path: Path, written: str | None) -> None:
        """Complain about a file of the server's whose path is none."""
        if written is not None and not _FILE.fullmatch(written):
            self.complain(path, f"'{written}' is not an absolute path", "like /etc/pibuild/secrets/NAME")

    # --------------------------------------------------------------------------------------------------- the settings

    def check_settings(self, path: Path, settings: Settings) -> None:
        """Check what a node may set itself or inherit."""
        if settings.board is not None and settings.board not in BOARDS:
            meant = did_you_mean(settings.board, BOARDS)
            self.complain((*path, "board"), f"unknown board '{settings.board}'{meant}", f"one of {NAMES}")
        self.form((*path, "image"), "image", settings.image, _WORD)
        self.form((*path, "site"), "site", settings.site, _LABEL_VALUE)
        self.form((*path, "user"), "user", settings.user, _USER)
        self.check_labels((*path, "labels"), settings.labels)
        for model, version in (settings.models or {}).items():
            self.check_model((*path, "models", model), model, version)
        if settings.metrics.url is not None:
            self.check_store((*path, "metrics", "url"), settings.metrics.url)
        for index, place in enumerate(settings.persist or []):
            if not PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
                self.complain((*path, "persist", index), f"'{place}' is not an absolute path")
        for index, word in enumerate(settings.cmdline):
            if not word or len(word.split()) != 1:
                self.complain((*path, "cmdline", index), f"'{word}' is not one word of a kernel command line")

    def check_labels(self, path: Path, labels: Mapping[str, str]) -> None:
        """Check labels for Kubernetes and metrics."""
        for key, value in labels.items():
            if not _LABEL.fullmatch(key):
                self.complain((*path, key), f"'{key}' is not a name for a label", "letters, digits, '-', '_' and '.'")
            elif not _LABEL_VALUE.fullmatch(value):
                self.complain((*path, key), f"label {key}: '{value}' is not a value for a label")

    def check_model(self, path: Path, model: str, version: str) -> None:
        """Check a model that nodes are given."""
        for problem in (name_problem("model", model), name_problem("version", version)):
            if problem:
                self.complain(path, problem)
        if self.file.cluster.models is None:
            hint = "cluster: {models: {store: https://…}}"
            self.complain(path, f"model {model}: the cluster names no store of models", hint)

    def check_store(self, path: Path, written: str) -> None:
        """Check where metrics are written to: an address, and none to which a token would travel in the clear."""
        if not _STORE.fullmatch(written):
            self.complain(
                path,
                f"metrics.url '{written}' is not an address to write to",
                "https, a host, and a path such as /api/v1/write",
            )
            return
        host = urlsplit(written).hostname or ""
        local = _NUMBERS.fullmatch(host) and IPv4Address(host).is_private
        if written.startswith("http:") and not local:
            message = f"metrics.url '{written}' would send the node's token in the clear"
            self.complain(path, message, "https://…; http is for addresses of a private network")

    # ------------------------------------------------------------------------------------------------------- the nodes

    def check_identities(self) -> None:
        """Check the form of what must be unique, and that it is."""
        kinds: Mapping[str, tuple[Callable[[str], str], str]] = {
            "serial": (serial_of, READ_SERIAL),
            "mac": (mac_of, READ_MAC),
        }
        for kind, (normal, hint) in kinds.items():
            seen: dict[str, int] = {}
            for index, entry in enumerate(self.file.nodes):
                written = getattr(entry, kind)
                try:
                    value = normal(written)
                except ValueError as error:
                    self.complain(("nodes", index, kind), f"node {entry.name}: {kind} '{written}': {error}", hint)
                    continue
                self.unique(kind, value, index, seen)
        ports: dict[str, int] = {}
        for index, entry in enumerate(self.file.nodes):
            if entry.port is not None:
                self.unique("port", str(entry.port), index, ports)

    def unique(self, kind: str, value: str, index: int, seen: dict[str, int]) -> None:
        """Complain about a value that an earlier node has."""
        first = seen.setdefault(value, index)
        if first == index:
            return
        nodes = self.file.nodes
        hint = ""
        if kind == "serial" and nodes[first].serial.strip().lower() != nodes[index].serial.strip().lower():
            hint = (
                "the bootloader asks with the low half alone; set TFTP_PREFIX=2 (the MAC address) on one of the boards"
            )
        message = f"node {nodes[index].name}: {kind} {value} is also {nodes[first].name}'s (line {self.line(first)})"
        self.complain(("nodes", index, kind), message, hint)

    def check_node(self, index: int, entry: NodeEntry) -> None:
        """Check one node's groups and address."""
        for place, group in enumerate(entry.groups):
            if group not in self.file.groups:
                meant = did_you_mean(group, self.file.groups) or ""
                hint = "" if meant else f"define it under groups: {group}: {{}}"
                self.complain(("nodes", index, "groups", place), f"node {entry.name}: no group '{group}'{meant}", hint)
        address = self.address(("nodes", index, "address"), f"node {entry.name}: address", entry.address)
        if address is not None:
            self.check_address(index, entry, address)

    def check_address(self, index: int, entry: NodeEntry, address: IPv4Address) -> None:
        """Check that an address is in the subnet, in no pool, and nobody else's."""
        path = ("nodes", index, "address")
        first = self.addresses.setdefault(address, index)
        if first != index:
            other = self.file.nodes[first].name
            self.complain(path, f"node {entry.name}: address {address} is also {other}'s (line {self.line(first)})")
        subnet = self.subnet
        if subnet and address not in subnet:
            self.complain(path, f"node {entry.name}: address {address} is not in the subnet {subnet}")
        elif subnet and subnet.prefixlen < _POINT_TO_POINT and address in {subnet[0], subnet[-1]}:
            self.complain(path, f"node {entry.name}: {address} is the subnet's own address, or its broadcast address")
        if address == self.gateway and entry.role != "login":
            self.complain(path, f"node {entry.name}: address {address} is the gateway's")
        for name, pool in self.pools.items():
            if address in pool:
                hint = f"move the pool out of the nodes' way, or give {entry.name} another address"
                where = ("cluster", "pools", name)
                self.complain(where, f"pool {name} {pool} covers {address}, the address of node {entry.name}", hint)

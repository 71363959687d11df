"""What a node that booted over the network shows to its login node: address, root, identity, services."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import MappingProxyType

import requests

from builder.errors import InputError, Problem
from builder.generation import read_generation
from builder.inventory import Inventory, Node
from builder.netboot import Netboot
from builder.verdict import Check, NotSeenError, Seen, Watch, facts_of, no_password, settled

_FACTS = MappingProxyType(
    {
        "hostname": "hostname",
        "machine-id": "cat /etc/machine-id",
        "address": "ip -4 -br address show scope global | awk '{print $3}' | xargs",
        "root": "findmnt -no SOURCE,FSTYPE / | xargs",
        "layers": "findmnt -no OPTIONS / | tr , '\\n' | grep ^lowerdir=",
        "sudo": "sudo -n true 2>&1",
        "zone": "readlink /etc/localtime",
        "clock": "date +%Z",
        "ports": "ss -Hltn | awk '{print $4}' | xargs",
    }
)
_MARK = "var/tmp/pibuild-verdict"
_HERE = re.compile(r"^(127\.|\[::1\]|.*%lo:)")  # what ss shows of sockets that nobody else can reach
_UNIQUE = ("hostname", "machine-id", "address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that answers by HTTP where its unit is enabled; `says` is in its answer."""

    name: str
    unit: str
    port: int
    says: str
    path: str = "/metrics"


SERVICES = (
    Service(name="node_exporter", unit="prometheus-node-exporter.service", port=9100, says="\nnode_boot_time_seconds "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeExpected:
    """What a node must be. `root` is what it boots, as the login node has it; `server` whom it mounts that from."""

    node: Node
    server: IPv4Address
    root: Path
    boot: Path
    boot_mount: str
    shared: bool
    machine_id: str
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What was seen of a node: the checks, and its facts by name."""

    checks: tuple[Check, ...]
    facts: Mapping[str, str]


def expected_of(inventory: Inventory, netboot: Netboot, node: Node) -> NodeExpected:
    """Return what a node must be after it booted what its board boots now. Raises InputError when that is nothing."""
    name = netboot.current(node.serial)
    record = netboot.record(node.name, name) if name else {}
    generation = read_generation(netboot, str(record.get("generation", ""))) if record else None
    if generation is None:
        hint = f"sudo pibuild explode --node {node.name} --dest {netboot.dest}"
        raise InputError(Problem(message=f"{node.name} boots nothing from {netboot.dest}", hint=hint))
    shared = record.get("way") == "shared"
    return NodeExpected(
        node=node,
        server=inventory.login.address,
        root=generation.root if shared else netboot.root(node.name, name),
        boot=netboot.boot(node.name, name),
        boot_mount=generation.boot_mount,
        shared=shared,
        machine_id=(netboot.state / node.name / "machine-id").read_text().strip(),
        timezone=inventory.cluster.timezone,
    )


def look_at_node(
    machine: Seen, expected: NodeExpected, given: Callable[[], Sequence[IPv4Address]], *, deadline: float
) -> NodeSeen:
    """Look at a node until `deadline` (monotonic seconds). `given` returns the addresses that DHCP gave to it."""
    watch = Watch(deadline=deadline, begun=time.monotonic(), checks=[])
    facts: Mapping[str, str] = {}
    try:
        kernel = watch.until_printed(machine.console, r"Linux version (\S+)", "kernel up")
        watch.say(Check(name="kernel up", ok=True, detail=kernel.group(1)))
        seconds = watch.until_reached(machine, "ssh by key")
        detail = f"{machine.shell.user}, the node's own host key, after {seconds:.0f} s"
        watch.say(Check(name="ssh by key", ok=True, detail=detail))
        watch.say(settled(machine, watch))
        facts = facts_of(machine, watch, {**_FACTS, "boot": f"findmnt -no SOURCE {expected.boot_mount} | xargs"})
        for check in judged(facts, expected, given()):
            watch.say(check)
        watch.say(_writable(machine, expected, watch))
        for service in SERVICES:
            watch.say(_answers(machine, service, watch))
        watch.say(_reachable(machine, facts.get("ports", ""), watch))
        watch.say(no_password(machine, watch))
        keys = machine.shell.host_keys(timeout=watch.left(30))
        facts = {**facts, **{f"host key {kind}": key for kind, key in keys.items()}}
    except NotSeenError as stop:
        watch.say(stop.check)
    return NodeSeen(checks=tuple(watch.checks), facts=facts)


def judged(facts: Mapping[str, str], expected: NodeExpected, given: Sequence[IPv4Address]) -> Iterator[Check]:
    """Yield what a node's own words show: lease, root, identity, time zone, sudo."""
    node, own = expected.node, facts.get("address", "")
    leases = sorted(set(given))
    leased = f"given {', '.join(map(str, leases)) or 'nothing'} ({len(given)} times), has {own or 'none'}"
    near = [here for here in map(IPv4Interface, own.split()) if node.address in here.network]
    only = leases == [node.address] and [here.ip for here in near] == leases
    yield Check(name="reserved address", ok=only, detail=leased)
    yield from _roots(facts, expected)
    yield _same("hostname", facts.get("hostname", ""), node.name)
    yield _same("machine-id", facts.get("machine-id", ""), expected.machine_id)
    yield Check(name="sudo", ok=facts.get("sudo") == "", detail=facts.get("sudo", "not seen") or "says nothing")
    zone = facts.get("zone", "").rpartition("zoneinfo/")[2]
    detail = f"{zone or 'none'} ({facts.get('clock', '')})"
    yield Check(name="time zone", ok=zone == expected.timezone, detail=detail)


def _roots(facts: Mapping[str, str], expected: NodeExpected) -> Iterator[Check]:
    root, server = facts.get("root", ""), expected.server
    if expected.shared:
        layers = facts.get("layers", "").removeprefix("lowerdir=").split(":")
        wanted = [f"/run/pibuild/node/{expected.boot.name}/files", "/run/pibuild/root"]
        detail = f"{root}, {' over '.join(layers)}"
        yield Check(name="root", ok=root.endswith(" overlay") and layers == wanted, detail=detail)
        return
    yield _same("root", root, f"{server}:{expected.root} nfs")
    yield _same("boot files", facts.get("boot", ""), f"{server}:{expected.boot}")


def _same(name: str, seen: str, wanted: str) -> Check:
    return Check(name=name, ok=seen == wanted, detail=seen if seen == wanted else f"{seen or 'none'}, not {wanted}")


def unique(facts: Mapping[str, Mapping[str, str]]) -> list[Check]:
    """Return the checks that nodes (name to facts) share nothing that should be each one's own."""
    keys = {fact for own in facts.values() for fact in own if fact.startswith("host key ")}
    return [_unique(fact, [own.get(fact, "") for own in facts.values()]) for fact in (*_UNIQUE, *sorted(keys))]


def _unique(name: str, values: Sequence[str]) -> Check:
    ok = all(values) and len(set(values)) == len(values)
    return Check(name=f"{name} unique", ok=ok, detail=", ".join(value or "not seen" for value in values))


def _writable(machine: Seen, expected: NodeExpected, watch: Watch) -> Check:
    """Write a word on the node and read it where it must be: on the login node, or with a shared root nowhere else."""
    word = secrets.token_hex(8)
    wrote = machine.shell.run(f"echo {word} | sudo -n tee /{_MARK}", timeout=watch.left(60))
    there = expected.root / _MARK
    found = there.read_text().strip() if there.is_file() else ""
    machine.shell.run(f"sudo -n rm -f /{_MARK}", timeout=watch.left(60))
    name = "root writable"
    if word not in wrote.stdout:
        return Check(name=name, ok=False, detail=(wrote.stderr or wrote.stdout).strip() or "nothing was written")
    if expected.shared:
        return Check(name=name, ok=not found, detail="in memory" if not found else "the shared root was written to")
    detail = f"{there} on the login node" if found == word else f"{there} does not have what the node wrote"
    return Check(name=name, ok=found == word, detail=detail)


def _answers(machine: Seen, service: Service, watch: Watch) -> Check:
    """Ask a service that is enabled until it answers as it should."""
    name = f"{service.name} answers"
    enabled = machine.shell.run(f"systemctl is-enabled {service.unit}", timeout=watch.left(60)).stdout.strip()
    if enabled != "enabled":
        return Check(name=name, ok=True, detail="not in this image")
    address = f"http://{machine.shell.host}:{service.port}{service.path}"
    session = requests.Session()
    session.trust_env = False  # the node is not behind this machine's proxy
    while True:
        try:
            with machine.shell.entered():
                answer = session.get(address, timeout=watch.left(60))
        except requests.RequestException as error:
            detail = f"{type(error).__name__}: {error}"
        else:
            if answer.ok and service.says in answer.text:
                return Check(name=name, ok=True, detail=f"port {service.port}, {len(answer.text.splitlines())} lines")
            detail = f"HTTP {answer.status_code}, without {service.says.strip()}"
        if time.monotonic() > watch.deadline or machine.console.fatal():
            return Check(name=name, ok=False, detail=detail)
        time.sleep(1)


def _reachable(machine: Seen, listening: str, watch: Watch) -> Check:
    """Connect to every port that the node serves to others."""
    ports = sorted({int(place.rpartition(":")[2]) for place in listening.split() if not _HERE.match(place)})
    closed = []
    for port in ports:
        try:
            with machine.shell.entered(), socket.create_connection((machine.shell.host, port), watch.left(10)):
                pass
        except OSError as error:
            closed.append(f"{port}: {error}")
    detail = "; ".join(closed) or ", ".join(map(str, ports))
    return Check(name="ports reachable", ok=bool(ports) and not closed, detail=detail or "none")

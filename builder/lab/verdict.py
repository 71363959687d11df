"""What a node that booted over the network shows to its login node: address, root, identity, services."""

from __future__ import annotations

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
from builder.host.confine import read_in
from builder.inventory.nodes import Inventory, Node
from builder.netboot.generation import read_generation
from builder.netboot.layout import PERSIST, Netboot
from builder.verify import verdict
from builder.verify.finding import Finding, judge
from builder.verify.verdict import NotSeenError, Seen, Watch, facts_of, no_password, settled

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
_UNIT = ("UnitFileState", "ActiveState", "ConditionResult")
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
    Service(name="vmagent", unit="vmagent.service", port=8429, says="\nvm_app_version{"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeExpected:
    """What a node must be.

    `root` and `boot` are what it boots and `persist` what it keeps, as the login node has them; `server` is whom it
    mounts them from.
    """

    node: Node
    server: IPv4Address
    root: Path
    boot: Path
    persist: Path
    boot_mount: str
    shared: bool
    machine_id: str
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What was seen of a node: the checks, and its facts by name."""

    checks: tuple[Finding, ...]
    facts: Mapping[str, str]


def expected_of(inventory: Inventory, netboot: Netboot, node: Node) -> NodeExpected:
    """Return what a node must be after it booted what its board boots now. Raises InputError when that is nothing."""
    name = netboot.current(node.serial)
    record = netboot.record(node.name, name)
    generation = read_generation(netboot, record.generation) if record else None
    if record is None or generation is None:
        hint = f"sudo pibuild explode --node {node.name} --dest {netboot.dest}"
        raise InputError(Problem(message=f"{node.name} boots nothing from {netboot.dest}", hint=hint))
    shared = record.way == "shared"
    return NodeExpected(
        node=node,
        server=inventory.login.address,
        root=generation.root if shared else netboot.root(node.name, name),
        boot=netboot.boot(node.name, name),
        persist=netboot.root(node.name, PERSIST),
        boot_mount=generation.boot_mount,
        shared=shared,
        machine_id=(netboot.state / node.name / "machine-id").read_text().strip(),
        timezone=inventory.cluster.timezone,
    )


def look_at_node(
    machine: Seen, expected: NodeExpected, given: Callable[[], Sequence[IPv4Address]], *, begun: float, deadline: float
) -> NodeSeen:
    """Look at a node that was switched on at `begun`, until `deadline` (both monotonic seconds).

    `given` returns the addresses that DHCP gave to it.
    """
    watch = Watch(deadline=deadline, begun=begun, checks=[])
    facts: Mapping[str, str] = {}
    try:
        kernel = watch.until_printed(machine.console, r"Linux version (\S+)", "kernel up")
        watch.say(Finding(check="kernel up", result="ok", seen=kernel.group(1)))
        seconds = watch.until_reached(machine, "ssh by key")
        detail = f"{machine.shell.user}, the node's own host key, after {seconds:.0f} s"
        watch.say(Finding(check="ssh by key", result="ok", seen=detail))
        watch.say(settled(machine, watch))
        facts = facts_of(machine, watch, {**_FACTS, "boot": f"findmnt -no SOURCE {expected.boot_mount} | xargs"})
        for check in judged(facts, expected, given()):
            watch.say(check)
        watch.say(_writable(machine, expected, watch))
        if expected.node.persist:
            watch.say(_kept(machine, expected, watch))
        for service in SERVICES:
            watch.say(_answers(machine, service, watch))
        watch.say(_open(machine, facts.get("ports", ""), watch))
        watch.say(no_password(machine, watch))
        keys = machine.shell.host_keys(timeout=watch.left(30))
        facts = {**facts, **{f"host key {kind}": key for kind, key in keys.items()}}
    except NotSeenError as stop:
        watch.say(stop.check)
    return NodeSeen(checks=tuple(watch.checks), facts=facts)


def judged(facts: Mapping[str, str], expected: NodeExpected, given: Sequence[IPv4Address]) -> Iterator[Finding]:
    """Yield what a node's own words show: lease, root, identity, time zone, sudo."""
    node, own = expected.node, facts.get("address", "")
    leases = sorted(set(given))
    leased = f"given {', '.join(map(str, leases)) or 'nothing'} ({len(given)} times), has {own or 'none'}"
    near = [here for here in map(IPv4Interface, own.split()) if node.address in here.network]
    only = leases == [node.address] and [here.ip for here in near] == leases
    yield judge(check="reserved address", ok=only, seen=leased)
    yield from _roots(facts, expected)
    yield _same("hostname", facts.get("hostname", ""), node.name)
    yield _same("machine-id", facts.get("machine-id", ""), expected.machine_id)
    yield judge(check="sudo", ok=facts.get("sudo") == "", seen=facts.get("sudo", "not seen") or "says nothing")
    zone = facts.get("zone", "").rpartition("zoneinfo/")[2]
    detail = f"{zone or 'none'} ({facts.get('clock', '')})"
    yield judge(check="time zone", ok=zone == expected.timezone, seen=detail)


def _roots(facts: Mapping[str, str], expected: NodeExpected) -> Iterator[Finding]:
    root, server = facts.get("root", ""), expected.server
    if expected.shared:
        layers = facts.get("layers", "").removeprefix("lowerdir=").split(":")
        wanted = [f"/run/pibuild/node/{expected.boot.name}/files", "/run/pibuild/root"]
        detail = f"{root}, {' over '.join(layers)}"
        yield judge(check="root", ok=root.endswith(" overlay") and layers == wanted, seen=detail)
        return
    yield _same("root", root, f"{server}:{expected.root} nfs")
    yield _same("boot files", facts.get("boot", ""), f"{server}:{expected.boot}")


def _same(name: str, seen: str, wanted: str) -> Finding:
    return judge(check=name, ok=seen == wanted, seen=seen if seen == wanted else f"{seen or 'none'}, not {wanted}")


def unique(facts: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Return the checks that nodes (name to facts) share nothing that should be each one's own."""
    keys = {fact for own in facts.values() for fact in own if fact.startswith("host key ")}
    return [_unique(fact, [own.get(fact, "") for own in facts.values()]) for fact in (*_UNIQUE, *sorted(keys))]


def _unique(name: str, values: Sequence[str]) -> Finding:
    ok = all(values) and len(set(values)) == len(values)
    return judge(check=f"{name} unique", ok=ok, seen=", ".join(value or "not seen" for value in values))


def _writable(machine: Seen, expected: NodeExpected, watch: Watch) -> Finding:
    """Write a word on the node and read it where it must be: on the login node, or with a shared root nowhere else."""
    name, there = "root writable", expected.root / _MARK
    problem, arrived = _written(machine, _MARK, expected.root, watch)
    if problem:
        return Finding(check=name, result="broken", seen=problem)
    if expected.shared:
        return judge(check=name, ok=not arrived, seen="the shared root was written to" if arrived else "in memory")
    detail = f"{there} on the login node" if arrived else f"{there} does not have what the node wrote"
    return judge(check=name, ok=arrived, seen=detail)


def _kept(machine: Seen, expected: NodeExpected, watch: Watch) -> Finding:
    """Write a word into each path that the node keeps, and read it on the login node."""
    lost = []
    for path in expected.node.persist:
        mark = f"{path.strip('/')}/.pibuild-verdict"
        problem, arrived = _written(machine, mark, expected.persist, watch)
        if problem or not arrived:
            lost.append(f"{path}: {problem or f'does not reach {expected.persist}'}")
    return judge(check="kept paths", ok=not lost, seen="; ".join(lost) or ", ".join(expected.node.persist))


def _written(machine: Seen, mark: str, there: Path, watch: Watch) -> tuple[str, bool]:
    """Write a word to a file on the node; return what went wrong, and whether it came to `there` on this machine.

    The node writes in that directory: it is read as the node's.
    """
    word = secrets.token_hex(8)
    wrote = machine.shell.run(f"echo {word} | sudo -n tee /{mark}", timeout=watch.left(60))
    arrived = read_in(there, mark, limit=len(word) + 1) == f"{word}\n".encode()
    machine.shell.run(f"sudo -n rm -f /{mark}", timeout=watch.left(60))
    said = (wrote.stderr or wrote.stdout).strip() or "nothing was written"
    return ("" if word in wrote.stdout and wrote.returncode == 0 else said), arrived


def _answers(machine: Seen, service: Service, watch: Watch) -> Finding:
    """Ask a service that is enabled, and whose conditions hold, until it answers as it should."""
    name, detail = f"{service.name} answers", ""
    shown = machine.shell.run(f"systemctl show -p {','.join(_UNIT)} {service.unit}", timeout=watch.left(60)).stdout
    unit = verdict.facts(shown)
    if unit.get("UnitFileState") != "enabled":
        return Finding(check=name, result="ok", seen="not in this image")
    if unit.get("ActiveState") == "inactive" and unit.get("ConditionResult") == "no":
        return Finding(check=name, result="ok", seen="not configured for this node")
    while True:
        try:
            text, where = _ask(machine, service, watch)
        except requests.RequestException as error:
            detail = f"{type(error).__name__}: {error}"
        else:
            if service.says in text:
                return Finding(
                    check=name, result="ok", seen=f"port {service.port} {where}, {text.count(chr(10))} lines"
                )
            detail = f"port {service.port} {where}: without {service.says.strip()}"
        if time.monotonic() > watch.deadline or machine.console.fatal():
            return Finding(check=name, result="broken", seen=detail)
        time.sleep(1)


def _ask(machine: Seen, service: Service, watch: Watch) -> tuple[str, str]:
    """Return what a service answers, and from where it was asked: one that listens on loopback only, on the node."""
    within = verdict.answer_within(machine, service.port, service.path, watch)
    if within is not None:
        return within, "on the node itself"
    session = requests.Session()
    session.trust_env = False  # the node is not behind this machine's proxy
    with machine.shell.entered():
        address = f"http://{machine.shell.host}:{service.port}{service.path}"
        answer = session.get(address, timeout=watch.left(60))
    return answer.text if answer.ok else f"HTTP {answer.status_code}", "from the login node"


def _open(machine: Seen, listening: str, watch: Watch) -> Finding:
    """Say which of the ports that the node listens on let the login node in; ssh must."""
    ports = sorted({int(place.rpartition(":")[2]) for place in listening.split() if not verdict.LOOPBACK.match(place)})
    answered = [port for port in ports if _connects(machine, port, watch)]
    closed = [port for port in ports if port not in answered]
    detail = ", ".join(map(str, answered)) or "none"
    detail += f"; not {', '.join(map(str, closed))}" if closed else ""
    return judge(check="open ports", ok=machine.shell.port in answered, seen=detail)


def _connects(machine: Seen, port: int, watch: Watch) -> bool:
    try:
        with machine.shell.entered(), socket.create_connection((machine.shell.host, port), watch.left(10)):
            return True
    except OSError:
        return False

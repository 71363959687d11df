"""The first cluster.yaml: an example to fill in, or the nodes of a pi_info.txt, with roles guessed from their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import get_args

from builder.errors import InputError, Problem
from builder.inventory.choices import Kind, servers
from builder.inventory.names import hostname, mac_of, serial_of
from builder.inventory.pi_info import NewNode

_ROLES = ("login", "backup", "master")  # the names that lists have for these machines; others are workers
_NUMBERED = re.compile(r"([a-z]+)[0-9]+")
_WIDEST = 16  # bits of the prefix of a subnet: addresses farther apart are not of one

EXAMPLE = (
    NewNode(name="login", serial="00000001", mac="02:00:00:00:00:01", address="192.168.2.1", fields={"role": "login"}),
    NewNode(
        name="node1", serial="00000002", mac="02:00:00:00:00:02", address="192.168.2.20", fields={"role": "worker"}
    ),
)
_EXAMPLE_NOTE = """\
  # Two examples: put in your own. On the board: cat /proc/cpuinfo | grep Serial; ip link show eth0. Keep serial number
  # and MAC address in quotes: 12345678 and 1234e567 would be numbers to YAML.
"""
_LIST_NOTE = "  # Roles and groups are guessed from the names: change what is not so.\n"


def with_roles(nodes: Sequence[NewNode], *, login: str | None = None) -> tuple[NewNode, ...]:
    """Return nodes with the roles that their names say; `login` names the login node.

    Raises InputError where no node, or more than one, is the login node by its name.
    """
    roles = {node.name: next((role for role in _ROLES if role in node.name.lower()), "worker") for node in nodes}
    if login is not None:
        named = [node.name for node in nodes if hostname(node.name) == hostname(login)]
        roles = {name: "worker" if role == "login" else role for name, role in roles.items()}
        roles |= dict.fromkeys(named, "login")
    serving = [name for name, role in roles.items() if role == "login"]
    if len(serving) != 1:
        found = f"{' and '.join(serving)} have" if serving else "no node of the list has"
        message = f"{found} 'login' in the name: one node serves the others" if login is None else f"no node '{login}'"
        names = ", ".join(roles)
        raise InputError(Problem(message=message, hint=f"say which: --login NODE, one of {names}"))
    backups = [name for name, role in roles.items() if role == "backup"]
    if len(backups) > 1:  # there is one at most: which of them, a person says
        roles |= dict.fromkeys(backups, "worker")
    groups = _groups(nodes, roles)
    return tuple(
        NewNode(
            name=node.name,
            serial=serial_of(node.serial),
            mac=mac_of(node.mac),
            address=node.address,
            fields={"role": roles[node.name], **({"groups": [groups[node.name]]} if node.name in groups else {})},
            mark=node.mark,
        )
        for node in nodes
    )


def _groups(nodes: Sequence[NewNode], roles: Mapping[str, str]) -> dict[str, str]:
    """Return the group of each worker that shares a name with others but for a number: yellow1, yellow2."""
    found = {node.name: match[1] for node in nodes if (match := _NUMBERED.fullmatch(node.name.lower()))}
    workers = {name: group for name, group in found.items() if roles[name] == "worker"}
    return {name: group for name, group in workers.items() if list(workers.values()).count(group) > 1}


def subnet_of(nodes: Sequence[NewNode]) -> IPv4Network:
    """Return the smallest subnet, /24 or wider, that has all addresses. Raises InputError where none does."""
    addresses = [IPv4Address(node.address) for node in nodes]
    for bits in range(24, _WIDEST - 1, -1):
        network = IPv4Network((addresses[0], bits), strict=False)
        if all(address in network for address in addresses):
            return network
    ends = f"{min(addresses)} and {max(addresses)}"
    raise InputError(Problem(message=f"{ends} are too far apart for one subnet", hint="correct the addresses"))


def _servers() -> str:
    """Return the lines that say which servers serve, with what else there is."""
    lines = []
    for kind in get_args(Kind):
        default, *others = servers(kind)
        lines.append(f"  {f'{kind}: {{server: {default}}}':<27}# or {', '.join(others)}")
    return "\n".join(lines)


def cluster_text(name: str, image: str, nodes: Sequence[NewNode], *, example: bool) -> str:
    """Return the text of cluster.yaml. One of the nodes has the role login."""
    login = next(node for node in nodes if node.fields["role"] == "login")
    backup = next((node for node in nodes if node.fields["role"] == "backup"), None)
    groups = dict.fromkeys(group for node in nodes for group in _listed(node.fields.get("groups")))
    more = "" if backup is None else f"    backup: {{node: {backup.name}}}\n"
    return f"""\
# Who is who, and what each board inherits: `pibuild node list` reads and checks it, `pibuild node explain NODE` shows
# where a value comes from.

cluster:
  name: {name}
  subnet: {subnet_of(nodes)}
  # the way out for the nodes: the login node, where it has an uplink
  gateway: {login.address}
  # timezone: Europe/Athens
  servers:
    # interface: its port on this network; uplink: its port to the world, for which it then translates addresses (NAT)
    login: {{node: {login.name}}}   # {{node: {login.name}, interface: eth0, uplink: wlan0}}
{more}  # where the login node keeps what nodes boot
  netboot: /srv/netboot
{_servers()}

# a node's own entry, its groups and its role come before these
defaults:
  board: pi4
  image: {image}
  user: ubuntu

# boot: local: has a disk of its own and is only known of
roles:
  login: {{boot: local}}
  backup: {{boot: local}}
  master: {{}}
  worker: {{}}

groups:{" {}" if not groups else ""}
{"".join(f"  {group}: {{}}{chr(10)}" for group in groups)}
nodes:
{_EXAMPLE_NOTE if example else _LIST_NOTE}{"".join(map(_entry, nodes))}"""


def _entry(node: NewNode) -> str:
    groups = _listed(node.fields.get("groups"))
    more = f", groups: [{', '.join(groups)}]" if groups else ""
    place = f'serial: "{node.serial}", mac: "{node.mac}", address: {node.address}'
    return f"  - {{name: {node.name}, {place}, role: {node.fields['role']}{more}}}\n"


def _listed(groups: object) -> list[str]:
    return [str(group) for group in groups] if isinstance(groups, list) else []

"""The rows of all servers, found by their modules, and which of them a machine runs."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import cast

from builder.inventory.choices import Kind, servers
from builder.services import dnsmasq, fleet, nat
from builder.services.files import Serving
from builder.services.server import Server, Unit


@functools.cache
def of_kind(kind: Kind) -> dict[str, Server]:
    """Return the servers of a kind by the names that the inventory has for them."""
    modules = {name: f"builder.services.{kind}.{name.replace('-', '_')}" for name in sorted(servers(kind))}
    return {name: cast("Server", importlib.import_module(module).SERVER) for name, module in modules.items()}


def chosen(here: Serving, kind: Kind) -> Server:
    """Return the server of a kind that the inventory asks for."""
    cluster = here.inventory.cluster
    names = {"dhcp": cluster.dhcp.server, "tftp": cluster.tftp.server, "nfs": cluster.nfs.server}
    return of_kind(kind)[names[kind]]


@functools.cache
def every() -> tuple[Server, ...]:
    """Return all servers. A program that serves in several ways has a row for each."""
    return (
        *of_kind("dhcp").values(),
        dnsmasq.NAMES,
        *of_kind("tftp").values(),
        *of_kind("nfs").values(),
        nat.SERVER,
        fleet.SERVER,
    )


def wanted(here: Serving) -> tuple[Server, ...]:
    """Return the servers that a machine runs, in the order of `every`."""
    return (
        chosen(here, "dhcp"),
        *([dnsmasq.NAMES] if here.answers_dns else []),
        chosen(here, "tftp"),
        chosen(here, "nfs"),
        *([nat.SERVER] if here.entry.uplink is not None else []),
        *([fleet.SERVER] if fleet.serves_fleet(here) else []),
    )


def programs(rows: Sequence[Server]) -> tuple[Server, ...]:
    """Return one row of each program, where the last of its rows stands."""
    last = {row.name: number for number, row in enumerate(rows)}
    return tuple(rows[number] for number in sorted(last.values()))


def units(rows: Sequence[Server]) -> tuple[Unit, ...]:
    """Return the units of servers in the order in which they are told: each once, where the last of its rows stands."""
    return tuple(reversed(dict.fromkeys(reversed([unit for row in rows for unit in row.units]))))

"""How the lab starts the login node's servers: each as its Debian unit does, with the rendered files in their places.

What the inventory asks for is what runs. Two things differ, by setting: the directory that nodes boot from, and
nfs-ganesha in place of the kernel's NFS server, whose threads would outlive the lab (and which not every kernel has).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from builder.errors import HostError
from builder.inventory.nodes import Inventory
from builder.inventory.settled import changed
from builder.run import find_tool
from builder.services.files import Serving
from builder.services.server import Foreground, Port
from builder.services.servers import chosen, of_kind, programs, wanted

_START = 30.0  # seconds that a server has until it serves


def for_lab(inventory: Inventory, dest: Path, *, dhcp: str | None = None, tftp: str | None = None) -> Inventory:
    """Return the inventory as the lab's login node has it. `dhcp` and `tftp` put another server in place."""
    cluster = inventory.cluster
    changes = {
        "netboot": str(dest),
        "nfs": changed(cluster.nfs, server="ganesha"),
        "dhcp": changed(cluster.dhcp, server=dhcp or cluster.dhcp.server),
        "tftp": changed(cluster.tftp, server=tftp or cluster.tftp.server),
    }
    return replace(inventory, cluster=changed(cluster, **changes))


def servers(here: Serving) -> tuple[Foreground, ...]:
    """Return what runs on a login node, in the order of starting. Raises HostError that names all not installed."""
    rows, nfs = programs(wanted(here)), chosen(here, "nfs")
    makers = [(_rpcbind, row.foreground) if row is nfs else (row.foreground,) for row in rows]
    found, missing = [], []
    for make in filter(None, itertools.chain(*makers)):
        try:
            server = make(here)
            find_tool(server.program, package=server.package)
            found.append(server)
        except HostError as error:
            missing.append(error)
    if missing:
        packages = " ".join(error.hint.removeprefix("sudo apt-get install ") for error in missing)
        hint = f"make netboot installs it, stopped; or: sudo apt-get install {packages}"
        raise HostError("; ".join(error.message for error in missing), hint=hint)
    return tuple(found)


def _rpcbind(_: Serving) -> Foreground:
    ports = frozenset({("tcp", 111), ("udp", 111)})
    return Foreground(name="rpcbind", program="rpcbind", package="rpcbind", argv=("rpcbind", "-f"), ports=ports)


class Started(Protocol):
    """What is asked of a server's process."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""


class Listening(Protocol):
    """What is asked of the namespace."""

    def listening(self) -> Collection[Port]:
        """Return the ports that are served in it."""


def wait_until_serving(namespace: Listening, server: Foreground, process: Started, log: Path) -> None:
    """Wait until a server serves. Raises HostError with its log's end when it ended or does not."""
    until = time.monotonic() + _START
    while process.poll() is None and not (server.ports and server.ports <= set(namespace.listening())):
        if time.monotonic() > until:
            raise HostError(f"{server.name} does not serve after {_START:.0f} s{_said(log)}")
        time.sleep(0.02)
    ended = process.poll()
    if ended is not None and (server.ports or ended != 0):
        raise HostError(f"{server.name} ended with exit code {ended}{_said(log)}")


def _said(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
    return "".join(f"\n{line}" for line in lines)


def addresses_given(log: str, mac: str) -> list[IPv4Address]:
    """Return the addresses that a DHCP server's log says a MAC address got, in order."""
    given = [row.given for row in of_kind("dhcp").values()]
    pattern = "|".join(given).replace("{mac}", re.escape(mac))
    names = (f"(?P<address{number}>" for number in range(len(given)))
    numbered = re.sub(r"\(\?P<address>", lambda _: next(names), pattern)
    return [IPv4Address(next(filter(None, found.groups()))) for found in re.finditer(numbered, log, re.IGNORECASE)]

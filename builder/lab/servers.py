"""How the lab starts the login node's servers: each as its Debian unit does, with the rendered files in their places.

What the inventory asks for is what runs. Two things differ, by setting: the directory that nodes boot from, and
nfs-ganesha in place of the kernel's NFS server, whose threads would outlive the lab (and which not every kernel has).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from builder.errors import HostError
from builder.inventory.nodes import Inventory
from builder.inventory.settled import changed
from builder.run import find_tool
from builder.services.dhcp import DHCPD_DEFAULTS, DNSMASQ, KEA, TFTPD
from builder.services.files import Serving, netboot
from builder.services.nfs import GANESHA
from builder.services.render import NAT
from builder.services.tftp import view_script

Port = tuple[str, int]
_MOUNTD = 20048
_START = 30.0  # seconds that a server has until it serves
_GIVEN = (  # what dhcpd, dnsmasq and Kea log when they give an address to a MAC address
    r"DHCPACK on (?P<address>[\d.]+) to {mac}",
    r"DHCPACK\(\S+\) (?P<address>[\d.]+) {mac}",
    r"DHCP4_LEASE_ALLOC(?:ATED)? .*{mac}.*lease (?P<address>[\d.]+) has been allocated",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server: how it is started in the foreground, and what it then serves. One without ports ends at once."""

    name: str
    argv: tuple[str, ...]
    ports: frozenset[Port]
    env: tuple[tuple[str, str], ...] = ()


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


def servers(here: Serving) -> tuple[Server, ...]:
    """Return what runs on a login node, in the order of starting. Raises HostError that names all not installed."""
    cluster = here.inventory.cluster
    wanted: dict[Callable[[Serving], Server], bool] = {
        _dhcpd: cluster.dhcp.server == "isc-dhcp",
        _kea: cluster.dhcp.server == "kea",
        _dnsmasq: here.runs_dnsmasq,
        _tftpd: cluster.tftp.server == "tftpd-hpa",
        _rpcbind: True,
        _ganesha: True,
        _nat: here.entry.uplink is not None,
    }
    found, missing = [], []
    for make in (make for make, runs in wanted.items() if runs):
        try:
            found.append(make(here))
        except HostError as error:
            missing.append(error)
    if missing:
        packages = " ".join(error.hint.removeprefix("sudo apt-get install ") for error in missing)
        hint = f"make netboot installs it, stopped; or: sudo apt-get install {packages}"
        raise HostError("; ".join(error.message for error in missing), hint=hint)
    return tuple(found)


def _dhcpd(_: Serving) -> Server:
    tool = find_tool("dhcpd", package="isc-dhcp-server")
    leases = "/var/lib/dhcp/dhcpd.leases"
    script = f". {DHCPD_DEFAULTS}; : >{leases}; exec {tool} -4 -f -d --no-pid -lf {leases} $INTERFACESv4"
    return Server(name="dhcpd", argv=("sh", "-ec", script), ports=frozenset({("udp", 67)}))


def _kea(_: Serving) -> Server:
    tool = find_tool("kea-dhcp4", package="kea-dhcp4-server")
    script = f"mkdir -p /run/kea; exec {tool} -c {KEA}"
    locking = (("KEA_LOCKFILE_DIR", "none"),)
    return Server(name="kea", argv=("sh", "-ec", script), ports=frozenset({("udp", 67)}), env=locking)


def _dnsmasq(here: Serving) -> Server:
    tool = find_tool("dnsmasq", package="dnsmasq-base")
    cluster = here.inventory.cluster
    asked: dict[Port, bool] = {
        ("udp", 53): here.answers_dns,
        ("udp", 67): cluster.dhcp.server == "dnsmasq",
        ("udp", 69): cluster.tftp.server == "dnsmasq",
    }
    options = f"--keep-in-foreground --conf-file={DNSMASQ} --log-facility=- --pid-file="
    sees = f"{view_script(netboot(here.inventory).tftp)}; " if cluster.tftp.server == "dnsmasq" else ""
    argv = ("sh", "-ec", f"{sees}exec {tool} {options}")
    return Server(name="dnsmasq", argv=argv, ports=frozenset(port for port, wanted in asked.items() if wanted))


def _tftpd(_: Serving) -> Server:
    tool = find_tool("in.tftpd", package="tftpd-hpa")
    options = "--user $TFTP_USERNAME --address $TFTP_ADDRESS $TFTP_OPTIONS $TFTP_DIRECTORY"
    script = f". {TFTPD}; exec {tool} --foreground {options}"
    return Server(name="tftpd", argv=("sh", "-ec", script), ports=frozenset({("udp", 69)}))


def _rpcbind(_: Serving) -> Server:
    tool = find_tool("rpcbind", package="rpcbind")
    return Server(name="rpcbind", argv=(str(tool), "-f"), ports=frozenset({("tcp", 111), ("udp", 111)}))


def _ganesha(_: Serving) -> Server:
    tool = find_tool("ganesha.nfsd", package="nfs-ganesha nfs-ganesha-vfs")
    script = f"mkdir -p /var/lib/nfs/ganesha; exec {tool} -F -L STDOUT -f {GANESHA} -p /run/ganesha.pid"
    ports: frozenset[Port] = frozenset({("tcp", 2049), ("tcp", _MOUNTD)})
    return Server(name="ganesha", argv=("sh", "-ec", script), ports=ports)


def _nat(_: Serving) -> Server:
    tool = find_tool("nft", package="nftables")
    return Server(name="nat", argv=(str(tool), "-f", str(NAT)), ports=frozenset())


class Started(Protocol):
    """What is asked of a server's process."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""


class Listening(Protocol):
    """What is asked of the namespace."""

    def listening(self) -> Collection[Port]:
        """Return the ports that are served in it."""


def wait_until_serving(namespace: Listening, server: Server, process: Started, log: Path) -> None:
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
    pattern = "|".join(_GIVEN).replace("{mac}", re.escape(mac))
    names = (f"(?P<address{number}>" for number in range(len(_GIVEN)))
    numbered = re.sub(r"\(\?P<address>", lambda _: next(names), pattern)
    return [IPv4Address(next(filter(None, found.groups()))) for found in re.finditer(numbered, log, re.IGNORECASE)]

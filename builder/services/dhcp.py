"""DHCP and TFTP: dnsmasq, ISC dhcpd or Kea, and tftpd-hpa. All three DHCP servers give a node the same answer.

A reservation matches the MAC address alone. Three DHCP clients run during one boot, the EEPROM's, the initramfs's and
the system's, and each sends another client id; a server that goes by it gives a node a second address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from builder.inventory.names import AddressRange
from builder.inventory.nodes import Node
from builder.services.files import CONFIG, ConfigFile, Serving, fill, netboot
from builder.services.tftp import VIEW, view_files

DNSMASQ = PurePosixPath("/etc/dnsmasq.d/pibuild.conf")
RESERVATIONS = CONFIG / "dnsmasq-reservations"
DHCPD = PurePosixPath("/etc/dhcp/dhcpd.conf")
DHCPD_DEFAULTS = PurePosixPath("/etc/default/isc-dhcp-server")
KEA = PurePosixPath("/etc/kea/kea-dhcp4.conf")
TFTPD = PurePosixPath("/etc/default/tftpd-hpa")

INFINITE = 0xFFFFFFFF  # seconds; RFC 2131, 3.3
PXE_MENU = "Raspberry Pi Boot"  # what the EEPROM looks for in option 43, with its trailing spaces dropped
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TRANSFERS = (200, 900)  # dnsmasq's tftp-max: its own 50 is too few for a rack; below the usual 1024 open files
_NODE_TRANSFERS = 4  # a board leaves transfers open behind it: it aborts and reopens files


def pxe_option() -> bytes:
    """Return option 43 as dnsmasq sends it for `pxe-service=0,"Raspberry Pi Boot"` (PXE 2.1, 2.1.2).

    6: boot without discovery; 10: prompt at once with "PXE"; 9: menu entry 0; 255: end.
    """
    entry = b"\x00\x00" + bytes([len(PXE_MENU)]) + PXE_MENU.encode()
    return b"\x06\x01\x03" + b"\x0a\x04\x00PXE" + b"\x09" + bytes([len(entry)]) + entry + b"\xff"


def lease_seconds(written: str) -> int:
    """Return the seconds of `12h` or `infinite`."""
    return INFINITE if written == "infinite" else int(written[:-1]) * _UNITS[written[-1]]


def dynamic_pool(here: Serving) -> AddressRange | None:
    """Return what this server gives to strangers: with a backup server each has half, so that no address goes twice."""
    pool = here.inventory.pools.get("dynamic")
    if pool is None or here.inventory.cluster.servers.backup is None:
        return pool
    middle = pool.first + (int(pool.last) - int(pool.first)) // 2
    if here.role == "login":
        return AddressRange(first=pool.first, last=middle)
    return AddressRange(first=middle + 1, last=pool.last) if middle < pool.last else None


def dhcp_files(here: Serving) -> list[ConfigFile]:
    """Return the files of the DHCP and TFTP servers that the inventory asks for."""
    cluster = here.inventory.cluster
    files = []
    if here.runs_dnsmasq:
        files.append(ConfigFile(path=DNSMASQ, text=dnsmasq(here)))
    if cluster.dhcp.server == "dnsmasq":
        text = fill("dnsmasq-reservations.j2", here, lease=cluster.dhcp.lease)
        files.append(ConfigFile(path=RESERVATIONS, text=text))
    if cluster.dhcp.server == "isc-dhcp":
        files.append(ConfigFile(path=DHCPD, text=dhcpd(here)))
        defaults = fill("isc-dhcp-server.j2", here, interface=here.entry.interface)
        files.append(ConfigFile(path=DHCPD_DEFAULTS, text=defaults))
    if cluster.dhcp.server == "kea":
        files.append(ConfigFile(path=KEA, text=kea(here)))
    if cluster.tftp.server == "dnsmasq":
        files += view_files(here)
    if cluster.tftp.server == "tftpd-hpa":
        text = fill("tftpd-hpa.j2", here, tftp_root=netboot(here.inventory).tftp)
        files.append(ConfigFile(path=TFTPD, text=text))
    return files


def dnsmasq(here: Serving) -> str:
    """Return dnsmasq's configuration without the reservations, which it reads again on a reload."""
    cluster = here.inventory.cluster
    fewest, most = _TRANSFERS
    return fill(
        "dnsmasq.conf.j2",
        here,
        **_network(here),
        interface=here.entry.interface,
        dhcp=cluster.dhcp.server == "dnsmasq",
        tftp=cluster.tftp.server == "dnsmasq",
        dns=here.answers_dns,
        lease=cluster.dhcp.lease,
        reservations=RESERVATIONS,
        tftp_root=VIEW,
        tftp_max=min(max(fewest, _NODE_TRANSFERS * len(here.netbooting)), most),
    )


def dnsmasq_checked(conf: str, reservations: str) -> str:
    """Return one configuration with the reservations in it: `dnsmasq --test` does not read the file that holds them."""
    lines = [f"dhcp-host={line}" for line in reservations.splitlines() if line and not line.startswith("#")]
    return re.sub(r"^dhcp-hostsfile=.*\n", "", conf, flags=re.MULTILINE) + "\n".join(lines) + "\n"


def dhcpd(here: Serving) -> str:
    """Return ISC dhcpd's configuration."""
    return fill(
        "dhcpd.conf.j2",
        here,
        **_network(here),
        lease_seconds=lease_seconds(here.inventory.cluster.dhcp.lease),
        pxe_option=pxe_option().hex(":"),
    )


def _network(here: Serving) -> dict[str, object]:
    """Return what all DHCP servers are told about the network."""
    inventory = here.inventory
    dynamic = inventory.pools.get("dynamic")
    return {
        "subnet": inventory.subnet,
        "gateway": inventory.gateway,
        "name_servers": inventory.dns,
        "dynamic": dynamic_pool(here),
        "tftp_server": here.tftp_server,
        "pxe_menu": PXE_MENU,
        "authoritative": _authoritative(here, dynamic),
    }


def _authoritative(here: Serving, dynamic: AddressRange | None) -> bool:
    """Whether to refuse addresses that this server did not give: not those of the other server's half of a pool."""
    return dynamic is None or here.inventory.cluster.servers.backup is None


def kea(here: Serving) -> str:
    """Return Kea's configuration. Options for booting come with a class that the reservation puts a board into."""
    inventory = here.inventory
    lease = lease_seconds(inventory.cluster.dhcp.lease)
    dynamic = dynamic_pool(here)
    subnet: dict[str, object] = {
        "id": 1,
        "subnet": str(inventory.subnet),
        "interface": here.entry.interface,
        "option-data": _kea_options(here),
        "pools": [{"pool": f"{dynamic.first} - {dynamic.last}", "client-class": "UNKNOWN"}] if dynamic else [],
        "reservations": [_kea_reservation(node) for node in inventory.nodes],
    }
    server = {
        "interfaces-config": {"interfaces": [here.entry.interface], "service-sockets-max-retries": 60},
        "lease-database": {"type": "memfile", "name": "/var/lib/kea/kea-leases4.csv", "persist": True},
        "authoritative": _authoritative(here, inventory.pools.get("dynamic")),
        "match-client-id": False,
        "host-reservation-identifiers": ["hw-address"],
        "reservations-in-subnet": True,
        "reservations-out-of-pool": True,
        "valid-lifetime": lease,
        "client-classes": [_kea_netboot(here)],
        "subnet4": [subnet],
        "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
    }
    comment = f"// Written by pibuild from the inventory of cluster {inventory.cluster.name}; changes belong there.\n"
    return comment + json.dumps({"Dhcp4": server}, indent=2) + "\n"


def _kea_options(here: Serving) -> list[Mapping[str, object]]:
    inventory = here.inventory
    options: list[Mapping[str, object]] = [
        {"name": "routers", "data": str(inventory.gateway)},
        {"name": "domain-name-servers", "data": ", ".join(map(str, inventory.dns))},
        {"name": "broadcast-address", "data": str(inventory.subnet.broadcast_address)},
    ]
    if inventory.cluster.domain:
        options.append({"name": "domain-name", "data": inventory.cluster.domain})
    return options


def _kea_netboot(here: Serving) -> Mapping[str, object]:
    """Return the class of the boards that boot from the network; option 43 is declared as bytes, not as suboptions."""
    server = str(here.tftp_server)
    return {
        "name": "netboot",
        "next-server": server,
        "option-def": [{"name": "vendor-encapsulated-options", "code": 43, "type": "binary"}],
        "option-data": [
            {"name": "tftp-server-name", "data": server},
            {"name": "vendor-encapsulated-options", "data": pxe_option().hex().upper()},
        ],
    }


def _kea_reservation(node: Node) -> Mapping[str, object]:
    reservation: dict[str, object] = {"hw-address": node.mac, "ip-address": str(node.address), "hostname": node.name}
    return {**reservation, "client-classes": ["netboot"]} if node.boot == "network" else reservation

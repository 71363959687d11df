"""Kea. Options for booting come with a class that a reservation puts a board into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from builder.inventory.nodes import Node
from builder.services.files import ConfigFile, Serving
from builder.services.offer import authoritative, dynamic_pool, lease_seconds, pxe_option
from builder.services.server import Checker, Fits, Foreground, Leases, Server, Unit, hang_up

KEA = PurePosixPath("/etc/kea/kea-dhcp4.conf")
_LEASES = PurePosixPath("/var/lib/kea/kea-leases4.csv")  # and .1, .2, .completed of its own cleaning
_UNIT = "kea-dhcp4-server.service"
_ALONE = {"KEA_LOCKFILE_DIR": "none"}  # it would lock beside the running one


def _files(here: Serving) -> list[ConfigFile]:
    return [ConfigFile(path=KEA, text=kea(here))]


def kea(here: Serving) -> str:
    """Return Kea's configuration."""
    inventory = here.inventory
    lease = lease_seconds(inventory.cluster.dhcp.lease)
    dynamic = dynamic_pool(here)
    subnet: dict[str, object] = {
        "id": 1,
        "subnet": str(inventory.subnet),
        "interface": here.entry.interface,
        "option-data": _options(here),
        "pools": [{"pool": f"{dynamic.first} - {dynamic.last}", "client-class": "UNKNOWN"}] if dynamic else [],
        "reservations": [_reservation(node) for node in inventory.nodes],
    }
    server = {
        "interfaces-config": {"interfaces": [here.entry.interface], "service-sockets-max-retries": 60},
        "lease-database": {"type": "memfile", "name": str(_LEASES), "persist": True},
        "authoritative": authoritative(here),
        "match-client-id": False,
        "host-reservation-identifiers": ["hw-address"],
        "reservations-in-subnet": True,
        "reservations-out-of-pool": True,
        "valid-lifetime": lease,
        "client-classes": [_netboot(here)],
        "subnet4": [subnet],
        "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
    }
    comment = f"// Written by pibuild from the inventory of cluster {inventory.cluster.name}; changes belong there.\n"
    return comment + json.dumps({"Dhcp4": server}, indent=2) + "\n"


def _options(here: Serving) -> list[Mapping[str, object]]:
    inventory = here.inventory
    options: list[Mapping[str, object]] = [
        {"name": "routers", "data": str(inventory.gateway)},
        {"name": "domain-name-servers", "data": ", ".join(map(str, inventory.dns))},
        {"name": "broadcast-address", "data": str(inventory.subnet.broadcast_address)},
    ]
    if inventory.cluster.domain:
        options.append({"name": "domain-name", "data": inventory.cluster.domain})
    return options


def _netboot(here: Serving) -> Mapping[str, object]:
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


def _reservation(node: Node) -> Mapping[str, object]:
    reservation: dict[str, object] = {"hw-address": node.mac, "ip-address": str(node.address), "hostname": node.name}
    return {**reservation, "client-classes": ["netboot"]} if node.boot == "network" else reservation


def kept(text: str, fits: Fits) -> str:
    """Return leases (CSV with a heading: address,hwaddr,…) without those that do not fit."""
    heading, *rows = text.split("\n")
    return "\n".join([heading, *(row for row in rows if fits.keeps(*_mac_and_address(row)))])


def _mac_and_address(row: str) -> tuple[str, str]:
    """Return what a row says, "" for what it lacks."""
    address, _, more = row.partition(",")
    return more.partition(",")[0], address


def _foreground(_: Serving) -> Foreground:
    script = f"mkdir -p /run/kea; exec kea-dhcp4 -c {KEA}"
    ports = frozenset({("udp", 67)})
    return Foreground(
        name="kea",
        program="kea-dhcp4",
        package="kea-dhcp4-server",
        argv=("sh", "-ec", script),
        ports=ports,
        env=tuple(_ALONE.items()),
    )


SERVER = Server(
    name="kea",
    units=(Unit(name=_UNIT, reload_on=(KEA,), reload=hang_up(_UNIT)),),
    files=(_files,),
    package="kea-dhcp4-server",
    program="kea-dhcp4",
    checkers=(
        Checker(
            path=KEA,
            program="kea-dhcp4",
            package="kea-dhcp4-server",
            argv=lambda file: ("-t", str(file)),
            env={**_ALONE, "KEA_LOGGER_DESTINATION": "stderr"},
        ),
    ),
    foreground=_foreground,
    writes=("/var/lib/kea",),
    leases=Leases(path=_LEASES, kept=kept, cleaned=True),
    given=r"DHCP4_LEASE_ALLOC(?:ATED)? .*{mac}.*lease (?P<address>[\d.]+) has been allocated",
)

"""What every DHCP server tells a board, whichever it is: its address, the network, and where it boots from.

A reservation matches the MAC address alone. Three DHCP clients run during one boot, the EEPROM's, the initramfs's and
the system's, and each sends another client id; a server that goes by it gives a node a second address.
"""

from __future__ import annotations

from builder.inventory.names import AddressRange
from builder.services.files import Serving

INFINITE = 0xFFFFFFFF  # seconds; RFC 2131, 3.3
PXE_MENU = "Raspberry Pi Boot"  # what the EEPROM looks for in option 43, with its trailing spaces dropped
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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


def network(here: Serving) -> dict[str, object]:
    """Return what all DHCP servers are told about the network."""
    inventory = here.inventory
    return {
        "subnet": inventory.subnet,
        "gateway": inventory.gateway,
        "name_servers": inventory.dns,
        "dynamic": dynamic_pool(here),
        "tftp_server": here.tftp_server,
        "pxe_menu": PXE_MENU,
        "authoritative": authoritative(here),
    }


def authoritative(here: Serving) -> bool:
    """Whether to refuse addresses that this server did not give: not those of the other server's half of a pool."""
    return here.inventory.pools.get("dynamic") is None or here.inventory.cluster.servers.backup is None

"""Leases that contradict the inventory: dnsmasq and Kea keep an address for the board that had it, for ever if told so.

A board that is replaced, or takes an address that another one had, gets none as long as the old lease is on record
("not using configured address … because it is leased to …"). ISC dhcpd keeps no leases of reserved addresses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from builder.inventory import Inventory
from builder.inventory_names import AddressRange

DNSMASQ_LEASES = Path("/var/lib/misc/dnsmasq.leases")
KEA_LEASES = Path("/var/lib/kea/kea-leases4.csv")  # and .1, .2, .completed of its own cleaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which leases may stay: those of reservations, MAC to address, and of strangers in the pool."""

    reserved: Mapping[str, IPv4Address]
    pool: AddressRange | None

    def keeps(self, mac: str, address: str) -> bool:
        """Return whether a lease may stay."""
        given = IPv4Address(address)
        if mac.lower() in self.reserved:
            return self.reserved[mac.lower()] == given
        return self.pool is not None and given in self.pool


def wanted(inventory: Inventory) -> Wanted:
    """Return which leases fit an inventory."""
    reserved = {node.mac: node.address for node in inventory.nodes}
    return Wanted(reserved=reserved, pool=inventory.pools.get("dynamic"))


def dnsmasq_kept(text: str, fits: Wanted) -> str:
    """Return dnsmasq's leases (`expiry MAC address name client-id` a line) without those that do not fit."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not _is_ipv4_lease(line.split()) or fits.keeps(*line.split()[1:3]))


def _is_ipv4_lease(words: list[str]) -> bool:
    """Return whether a line is one; those of IPv6 have `duid` first, or an address with colons in the third place."""
    return len(words) > 2 and words[0].isdigit() and ":" not in words[2]  # noqa: PLR2004 - expiry, MAC, address


def kea_kept(text: str, fits: Wanted) -> str:
    """Return Kea's leases (CSV with a heading: address,hwaddr,…) without those that do not fit."""
    heading, *rows = text.splitlines(keepends=True) or [""]
    return heading + "".join(row for row in rows if fits.keeps(*reversed(row.split(",")[:2])))


def contradicting(inventory: Inventory, root: Path = Path("/")) -> dict[Path, str]:
    """Return the lease files that have to change, with their new text."""
    fits, server = wanted(inventory), inventory.cluster.dhcp.server
    if server == "dnsmasq":
        path = root / DNSMASQ_LEASES.relative_to("/")
        books = {path: dnsmasq_kept(path.read_text(), fits)} if path.is_file() else {}
    elif server == "kea":
        home = root / KEA_LEASES.parent.relative_to("/")
        found = [path for path in home.glob(f"{KEA_LEASES.name}*") if path.suffix != ".pid"]
        books = {path: kea_kept(path.read_text(), fits) for path in sorted(found)}
    else:
        books = {}
    return {path: text for path, text in books.items() if text != path.read_text()}


def replace(path: Path, text: str) -> None:
    """Write a lease file anew, its owner and mode as they were. Its server must not run."""
    facts = path.stat()
    new = path.with_name(f".{path.name}.pibuild")
    new.write_text(text)
    os.chown(new, facts.st_uid, facts.st_gid)
    new.chmod(facts.st_mode & 0o7777)
    new.replace(path)

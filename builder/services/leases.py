"""Leases that contradict the inventory: dnsmasq and Kea keep an address for the board that had it, for ever if told so.

A board that is replaced, or takes an address that another one had, gets none as long as the old lease is on record
("not using configured address … because it is leased to …"). ISC dhcpd keeps no leases of reserved addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

from builder.inventory.names import AddressRange
from builder.inventory.nodes import Inventory
from builder.services.place import at, put, read_text

DNSMASQ_LEASES = PurePosixPath("/var/lib/misc/dnsmasq.leases")
KEA_LEASES = PurePosixPath("/var/lib/kea/kea-leases4.csv")  # and .1, .2, .completed of its own cleaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which leases may stay: those of reservations, MAC to address, and of strangers in the pool."""

    reserved: Mapping[str, IPv4Address]
    pool: AddressRange | None

    def keeps(self, mac: str, address: str) -> bool:
        """Return whether a lease may stay. A line that is none is the server's to judge."""
        try:
            given = IPv4Address(address)
        except ValueError:
            return True
        if not mac:
            return True
        if mac.lower() in self.reserved:
            return self.reserved[mac.lower()] == given
        return self.pool is not None and given in self.pool


def wanted(inventory: Inventory) -> Wanted:
    """Return which leases fit an inventory."""
    reserved = {node.mac: node.address for node in inventory.nodes}
    return Wanted(reserved=reserved, pool=inventory.pools.get("dynamic"))


def dnsmasq_kept(text: str, fits: Wanted) -> str:
    """Return dnsmasq's leases (`expiry MAC address name client-id` a line) without those that do not fit."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not _is_ipv4_lease(line.split()) or fits.keeps(*line.split()[1:3]))


def _is_ipv4_lease(words: list[str]) -> bool:
    """Return whether a line is one; those of IPv6 have `duid` first, or an address with colons in the third place."""
    return len(words) > 2 and words[0].isdigit() and ":" not in words[2]  # noqa: PLR2004 - expiry, MAC, address


def kea_kept(text: str, fits: Wanted) -> str:
    """Return Kea's leases (CSV with a heading: address,hwaddr,…) without those that do not fit."""
    heading, *rows = text.split("\n")
    return "\n".join([heading, *(row for row in rows if fits.keeps(*_mac_and_address(row)))])


def _mac_and_address(row: str) -> tuple[str, str]:
    """Return what a row of Kea's says, "" for what it lacks."""
    address, _, more = row.partition(",")
    return more.partition(",")[0], address


def contradicting(inventory: Inventory, root: Path = Path("/")) -> dict[PurePosixPath, str]:
    """Return the lease files that have to change, with their new text. Raises HostError for what is no file."""
    fits, server = wanted(inventory), inventory.cluster.dhcp.server
    books: dict[PurePosixPath, Callable[[str, Wanted], str]] = {}
    if server == "dnsmasq":
        books = {DNSMASQ_LEASES: dnsmasq_kept}
    elif server == "kea":
        found = at(root, KEA_LEASES.parent).glob(f"{KEA_LEASES.name}*")
        books = {KEA_LEASES.with_name(path.name): kea_kept for path in sorted(found) if path.suffix != ".pid"}
    texts = {path: (read_text(root, path) or "", keep) for path, keep in books.items()}
    kept = {path: (text, keep(text, fits)) for path, (text, keep) in texts.items()}
    return {path: after for path, (before, after) in kept.items() if before != after}


def replace(path: PurePosixPath, text: str, root: Path = Path("/")) -> None:
    """Write a lease file anew, its owner and mode as they were. Its server must not run."""
    put(root, path, text.encode(errors="surrogateescape"), like=at(root, path))

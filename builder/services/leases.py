"""Leases that contradict the inventory: dnsmasq and Kea keep an address for the board that had it, for ever if told so.

A board that is replaced, or takes an address that another one had, gets none as long as the old lease is on record
("not using configured address … because it is leased to …"). A server whose row has no `leases` keeps none
of reserved addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from builder.inventory.nodes import Inventory
from builder.services.place import at, put, read_text
from builder.services.server import Fits, Leases
from builder.services.servers import of_kind


def fits(inventory: Inventory) -> Fits:
    """Return which leases fit an inventory."""
    reserved = {node.mac: node.address for node in inventory.nodes}
    return Fits(reserved=reserved, pool=inventory.pools.get("dynamic"))


def contradicting(inventory: Inventory, root: Path = Path("/")) -> dict[PurePosixPath, str]:
    """Return the lease files that have to change, with their new text. Raises HostError for what is no file."""
    leases = of_kind("dhcp")[inventory.cluster.dhcp.server].leases
    if leases is None:
        return {}
    texts = {path: read_text(root, path) or "" for path in _files(leases, root)}
    kept = {path: leases.kept(text, fits(inventory)) for path, text in texts.items()}
    return {path: after for path, after in kept.items() if texts[path] != after}


def _files(leases: Leases, root: Path) -> Iterator[PurePosixPath]:
    if not leases.cleaned:
        yield leases.path
        return
    for path in sorted(at(root, leases.path.parent).glob(f"{leases.path.name}*")):
        if path.suffix != ".pid":
            yield leases.path.with_name(path.name)


def replace(path: PurePosixPath, text: str, root: Path = Path("/")) -> None:
    """Write a lease file anew, its owner and mode as they were. Its server must not run."""
    put(root, path, text.encode(errors="surrogateescape"), like=at(root, path))

"""NFS exports: a node's directories for its own address alone, with file system ids that never change.

A fixed id keeps file handles valid when the server restarts: running nodes go on. Handles also hold the numbers of
inodes, so a copy of the tree on another server has others, whatever its ids.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from builder.services.files import Serving, netboot

_IDS = uuid.UUID("6a3c7cf5-2f0c-5e0c-9b2a-5d3f6c1b7e42")  # of pibuild's own making; changing it breaks running nodes
_KINDS = 2  # exports of a node
_SHARED_ID = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A directory, and who may mount it. `id` counts from 1 and depends on the node's address alone."""

    path: Path
    client: IPv4Address | IPv4Network
    read_only: bool
    fsid: uuid.UUID
    id: int


def exports(here: Serving) -> list[Export]:
    """Return every export: two for each netbooting node (roots, boot directory), one for what nodes share."""
    inventory, served = here.inventory, netboot(here.inventory)
    found = []
    if any(node.root == "shared" for node in here.netbooting):
        fsid = uuid.uuid5(_IDS, f"{inventory.cluster.name}/generations")
        path = served.generations
        found.append(Export(path=path, client=inventory.subnet, read_only=True, fsid=fsid, id=_SHARED_ID))
    for node in here.netbooting:
        offset = int(node.address) - int(inventory.subnet.network_address)
        directories = (served.roots / node.name, served.tftp / "boot" / node.name)
        for kind, path in enumerate(directories):
            fsid = uuid.uuid5(_IDS, f"{node.serial}/{kind}")
            number = _SHARED_ID + _KINDS * offset + kind
            found.append(Export(path=path, client=node.address, read_only=False, fsid=fsid, id=number))
    return found

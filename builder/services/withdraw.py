"""Remove a node's reservation, lease and exports from the servers of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from builder import console
from builder.inventory.nodes import Inventory
from builder.services.apply import apply, compare
from builder.services.files import ServerRole, serving
from builder.services.record import is_interrupted, served_as
from builder.services.render import render
from builder.services.tell import Servers

_HERE = Path("/")


def in_step(inventory: Inventory) -> ServerRole | None:
    """Return which server this machine is, when its files are what the inventory says: then an apply changes no more.

    None elsewhere, and without root.
    """
    role = served_as(_HERE)
    if role is None or os.geteuid() != 0 or is_interrupted(_HERE) or compare(render(inventory, role), _HERE):
        return None
    return role


def follow(inventory: Inventory, role: ServerRole | None) -> None:
    """Apply the changed inventory where this machine was `in_step`, and say where else it has to be."""
    if role is not None:
        applied = apply(render(inventory, role), _HERE, servers=Servers(here=serving(inventory, role)))
        for change in applied.changes:
            console.note(f"{change.kind}: {change.path}")
    others = [("login", inventory.login), ("backup", inventory.backup)]
    for other, node in others:
        if node is not None and other != role:
            console.say(f"on {node.name}: sudo pibuild services apply --for {other}   # reservation, lease and exports")

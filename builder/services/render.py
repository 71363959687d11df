"""The servers' configuration: every file of the login or the backup node, from the inventory alone.

Pure and deterministic: the same inventory gives the same bytes. `apply.py` compares and replaces what is live.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.inventory.nodes import Inventory
from builder.monitoring.forwarder import forwarder_files
from builder.services.files import ConfigFile, ServerRole, Serving, serving
from builder.services.names import name_files
from builder.services.servers import wanted


def render(inventory: Inventory, role: ServerRole) -> tuple[ConfigFile, ...]:
    """Return every file of a server, sorted by path. Raises InputError."""
    here = serving(inventory, role)
    makers = dict.fromkeys([*(make for row in wanted(here) for make in row.files), name_files, _forwarder])
    return tuple(sorted((file for make in makers for file in make(here)), key=lambda file: file.path))


def _forwarder(here: Serving) -> list[ConfigFile]:
    """Return what a server's forwarder of metrics reads: nobody explodes a server, which would bring it."""
    if here.node.boot == "network":
        return []
    files = forwarder_files(here.inventory, here.node)
    return [ConfigFile(path=PurePosixPath(path), text=text) for path, text in files.items() if text]

"""Find the inventory, and read it unless the cache has it.

Reading a file in full (`read`) takes pydantic and YAML, seconds on a board. An inventory that was read once is kept
(`kept`) and taken from there until the file changes, and then neither is imported.
"""

from __future__ import annotations

from pathlib import Path

from builder.errors import InputError, Problem
from builder.inventory import kept
from builder.inventory.nodes import Inventory

DEFAULT_PATHS = (Path("cluster.yaml"), Path("/etc/pibuild/cluster.yaml"))


def find_inventory(given: Path | None = None) -> Path:
    """Return the inventory to use: the given one, ./cluster.yaml, or /etc/pibuild/cluster.yaml. Raises InputError."""
    if given is not None:
        return given
    for path in DEFAULT_PATHS:
        if path.is_file():
            return path
    places = " and ".join(str(path) for path in DEFAULT_PATHS)
    raise InputError(Problem(message=f"no inventory: neither {places} exists", hint="name it: --cluster FILE"))


def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory. Raises InputError with every problem, in the order of the file."""
    text = kept.text_of(path)
    known = kept.find(path, text)
    if known is not None:
        return known
    from builder.inventory.read import read_inventory  # noqa: PLC0415 - what is slow

    inventory = read_inventory(path).inventory
    if text and text == kept.text_of(path):  # it is what was read
        kept.keep(path, text, inventory)
    return inventory

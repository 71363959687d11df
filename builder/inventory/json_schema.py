"""A JSON Schema of cluster.yaml, for editors, from the models that check it."""

from __future__ import annotations

from typing import Any

from builder.inventory.schema import InventoryFile


def inventory_schema() -> dict[str, Any]:
    """Return the schema of an inventory, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **InventoryFile.model_json_schema(),
        "title": "pibuild cluster",
    }

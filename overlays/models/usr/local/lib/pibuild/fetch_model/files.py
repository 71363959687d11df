"""Small files, whole under their names or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file, readable by all; one that is `durable` outlives a power cut."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    new.replace(path)
    if durable:
        sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of our own; a missing or broken one counts as empty."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

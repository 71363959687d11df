"""Content keys: one way to turn a value or a file into a sha256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from builder.named_file import open_named


def digest_of(value: object) -> str:
    """Return the sha256 (64 hex digits) of a JSON-able value in canonical form: sorted keys, no white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's content."""
    with open_named(path, device=True) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

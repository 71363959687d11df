"""Content keys: one way to turn a value or a file into a sha256."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from builder.host.named_file import open_named


def digest_of(value: object) -> str:
    """Return the sha256 (64 hex digits) of a JSON-able value in canonical form: sorted keys, no white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's content."""
    with open_named(path, device=True) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file from outside, named by its checksum (64 lower-case hex digits)."""

    url: str
    sha256: str
    optional: bool = False

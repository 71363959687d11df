"""Read the manifest.json beside a published image; it is input, and may be damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import InputError, Problem
from builder.host.named_file import read_named

MANIFEST = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 1 << 50  # bytes of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was published: the image's file name and sha256, the sizes of all files, and what tells builds apart."""

    image: str
    sha256: str
    files: Mapping[str, int]
    identity: str


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a published directory. Raises OSError, InputError for what is none."""
    path = directory / MANIFEST
    try:
        return _manifest(json.loads(read_named(path)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "build the image again, or copy the whole directory again"
        raise InputError(Problem(message=f"{path} is not the manifest of an image: {error}", hint=hint)) from error


def _manifest(said: Mapping[str, Any]) -> Manifest:
    files = {str(name): _size(file["size"]) for name, file in said["files"].items()}
    image, sha256 = said["image"], said["sha256"]
    if not isinstance(image, str) or "/" in image or "\0" in image or image in ("", ".", ".."):
        raise ValueError("image names no file beside it")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 is no checksum")
    return Manifest(image=image, sha256=sha256, files=files, identity=str(said.get("identity", "")))


def _size(written: object) -> int:
    if type(written) is not int or not 0 <= written < _LARGEST:
        raise ValueError("a file's size is no number of bytes")
    return written

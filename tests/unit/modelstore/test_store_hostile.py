"""Manifests and GGUF headers of nonsense, as the publisher meets them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from builder.errors import FetchError, InputError
from builder.modelstore.chunks import gguf_boundaries
from builder.modelstore.manifest import LARGEST, read_manifest

CHUNK = {"sha256": "0" * 64, "off": 0, "len": 5}
WHOLE = {"format": 1, "model": "m", "version": "1", "file": "m.bin", "sha256": "0" * 64, "size": 5, "published": "now"}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{",
        b"[]",
        b"\xff",
        json.dumps(WHOLE | {"chunks": [CHUNK | {"sha256": 5}]}).encode(),
        json.dumps(WHOLE | {"chunks": [CHUNK | {"len": "5"}]}).encode(),
        json.dumps(WHOLE | {"chunks": [CHUNK | {"len": float("inf")}]}).encode(),
        json.dumps(WHOLE | {"chunks": [CHUNK], "published": 5}).encode(),
        json.dumps(WHOLE | {"chunks": [CHUNK], "size": 5.0}).encode(),
        json.dumps(WHOLE | {"chunks": [CHUNK]}).encode() + b" " * LARGEST,
    ],
    ids=range(10),
)
def test_a_manifest_of_nonsense_is_told(content: bytes) -> None:
    with pytest.raises(FetchError, match="not a"):
        read_manifest(content, "here")


def header(tensors: int, pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(1 << 40, 0), "tensors"),
        (header(0, 1 << 60), "values"),
        (header(0, 1) + struct.pack("<Q", 1 << 30), "a name of"),
        (header(1, 0) + struct.pack("<QI", 0, 1 << 31), "dimensions"),
        (header(0, 1) + struct.pack("<QIIQ", 0, 9, 8, 1 << 50), "arrays of more than"),
        (header(0, 1) + struct.pack("<QI", 0, 99), "unknown type"),
        (header(1, 0), "ends within"),
    ],
)
def test_a_gguf_header_of_nonsense_is_told_at_once(content: bytes, said: str, tmp_path: Path) -> None:
    """Of a file of 64 GiB, all holes: nothing of it is gone through or held."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    size = len(content) if said == "ends within" else 64 << 30
    with path.open("r+b") as file:
        file.truncate(size)
        with pytest.raises(InputError, match=said):
            gguf_boundaries(file, size)

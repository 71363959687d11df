"""Small and large GGUF files of random weights."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

ALIGNMENT = 32
_STRING, _ARRAY, _UINT32, _I8 = 8, 9, 4, 24  # GGUF_TYPE_*, GGML_TYPE_I8


def tensors(count: int, size: int) -> dict[str, bytes]:
    """Return `count` tensors of `size` random bytes."""
    return {f"blk.{number}.weight": os.urandom(size) for number in range(count)}


def write(path: Path, weights: Mapping[str, bytes], *, template: str = "", words: int = 0, version: int = 3) -> Path:
    """Write a file with a chat template and a vocabulary of that many words. Returns its path."""
    pairs = [
        _string("general.architecture") + struct.pack("<I", _STRING) + _string("llama"),
        _string("general.alignment") + struct.pack("<II", _UINT32, ALIGNMENT),
        _string("tokenizer.chat_template") + struct.pack("<I", _STRING) + _string(template),
        _string("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", _ARRAY, _STRING, words)
        + b"".join(_string(f"word {number}") for number in range(words)),
    ]
    infos, offset = [], 0
    for name, content in weights.items():
        infos.append(_string(name) + struct.pack("<IQIQ", 1, len(content), _I8, offset))
        offset += len(content) + -len(content) % ALIGNMENT
    header = b"GGUF" + struct.pack("<IQQ", version, len(weights), len(pairs)) + b"".join([*pairs, *infos])
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for content in weights.values():
            file.write(content + bytes(-len(content) % ALIGNMENT))
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()

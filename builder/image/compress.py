"""Compress an image, always to the same bytes for the same release of the compressor.

What several threads write does not depend on their number, as long as it is never one alone in a mode of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from builder.image.partitions import MIB
from builder.run import find_tool, run

Compression = Literal["zst", "xz"]

# A 1.7 GB image on 2 cores: level 3 took 4.7 s for 532 MB, 6 took 12.2 s for 498 MB, 9 took 23.4 s for 472 MB.
_ZSTD_LEVEL = 3
_XZ_BLOCK = 24 * MIB  # three dictionaries of preset 6, as xz itself would choose; said, so that it stays
_MOST_THREADS = 8  # bounds the memory: 170 MiB a thread of xz -6, 20 MiB a thread of zstd -3


def compress(image: Path, kind: Compression) -> Path:
    """Compress `image` beside itself and return the new file, `NAME.img.zst` or `NAME.img.xz`; the image stays."""
    threads = max(2, min(os.cpu_count() or 1, _MOST_THREADS))
    packed = image.with_name(f"{image.name}.{kind}")
    if kind == "zst":
        tool = find_tool("zstd", package="zstd")
        options: list[str | Path] = [f"-{_ZSTD_LEVEL}", f"-T{threads}", "--quiet", "--force", "--check", "-o", packed]
        run([tool, *options, image], what=f"compressing {image.name}")
    else:
        tool = find_tool("xz", package="xz-utils")
        options = [
            "-6",
            f"-T{threads}",
            f"--block-size={_XZ_BLOCK}",
            "--no-adjust",
            "--check=crc64",
            "--keep",
            "--force",
        ]
        run([tool, *options, image], what=f"compressing {image.name}")
    return packed

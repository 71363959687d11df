"""What a kernel file is: an arm64 Image, plain or gzip-compressed, and of which version.

Header: Documentation/arch/arm64/booting.rst of the kernel; compressed EFI program: drivers/firmware/efi/libstub/zboot.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Literal

_ARM64_MAGIC = b"ARM\x64"
_ARM64_MAGIC_AT = 0x38
_GZIP_MAGIC = b"\x1f\x8b"
_BANNER = re.compile(rb"Linux version ([0-9][0-9A-Za-z.+~_-]*) \(")

_MOST_BYTES = 256 << 20  # five times the biggest there is

Format = Literal["arm64", "gzip", "zboot", "broken", "too big", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    """A kernel file. The firmware boots `arm64` and `gzip` (one inside the other), not `zboot` (for EFI) or the rest.

    `too big` unpacks to more than any kernel; how much more is not found out.

    `version` as `uname -r` says it, empty when it cannot be told; `size` is that of the uncompressed Image in bytes.
    """

    format: Format
    version: str = ""
    size: int = 0

    @property
    def bootable(self) -> bool:
        """Whether the Pi's firmware can start it."""
        return self.format in ("arm64", "gzip")


def read_kernel(data: bytes) -> KernelImage:
    """Say what a kernel file is from its content."""
    if data[4:8] == b"zimg":
        return KernelImage(format="zboot", size=len(data))
    packed = data.startswith(_GZIP_MAGIC)
    if packed:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data, _MOST_BYTES + 1)
        except zlib.error:
            return KernelImage(format="broken")
        if len(data) > _MOST_BYTES:
            return KernelImage(format="too big", size=len(data))
        if not unpacker.eof:
            return KernelImage(format="broken", size=len(data))
    if data[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] != _ARM64_MAGIC:
        return KernelImage(format="unknown", size=len(data))
    banner = _BANNER.search(data)
    return KernelImage(
        format="gzip" if packed else "arm64",
        version=banner[1].decode() if banner else "",
        size=len(data),
    )

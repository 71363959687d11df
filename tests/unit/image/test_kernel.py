"""A kernel file is what its content says, and a bomb is not unpacked to find out."""

import gzip
import tracemalloc

import pytest

from builder.image import kernel as kernel_image
from builder.image.kernel import read_kernel
from tests.images import VERSION, kernel


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (kernel(), "arm64"),
        (gzip.compress(kernel()), "gzip"),
        (gzip.compress(kernel())[:-20], "broken"),
        (b"\x1f\x8b" + bytes(20), "broken"),
        (b"MZ\0\0zimg" + bytes(100), "zboot"),
        (b"", "unknown"),
        (bytes(5000), "unknown"),
    ],
)
def test_formats(data: bytes, what: str) -> None:
    found = read_kernel(data)
    assert found.format == what
    assert found.version == (VERSION if found.bootable else "")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_image, "_MOST_BYTES", 4 << 20)
    bomb = gzip.compress(kernel() + bytes(16 << 20), 1)
    tracemalloc.start()
    found = read_kernel(bomb)
    assert (found.format, found.bootable) == ("too big", False)
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()

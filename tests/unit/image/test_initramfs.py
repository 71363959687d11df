"""An initramfs is looked into whatever it is compressed with, and damage is told in words."""

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.image import initramfs as initramfs_reader
from builder.image.initramfs import BrokenInitramfsError, read_initramfs
from builder.run import run
from tests.images import VERSION, cpio, initramfs

FILES = {"./init": b"#!/bin/sh\n", "etc/fstab": b"", f"usr/lib/modules/{VERSION}/kernel/a.ko": bytes(999), "lib": b"x"}


def _tool(name: str) -> Callable[[bytes, Path], bytes]:
    def compress(data: bytes, scratch: Path) -> bytes:
        (scratch / "plain").write_bytes(data)
        words = ["-l"] if name == "lz4" else []
        run([name, "-q", *words, scratch / "plain", *(["-o"] if name == "zstd" else []), scratch / "packed"])
        return (scratch / "packed").read_bytes()

    return compress


@pytest.mark.tools
@pytest.mark.parametrize(
    ("kind", "compress"),
    [
        ("gzip", lambda data, _: gzip.compress(data)),
        ("xz", lambda data, _: lzma.compress(data, check=lzma.CHECK_CRC32)),
        ("lzma", lambda data, _: lzma.compress(data, format=lzma.FORMAT_ALONE)),
        ("bzip2", lambda data, _: bz2.compress(data)),
        ("zstd", _tool("zstd")),
        ("lz4", _tool("lz4")),
    ],
)
def test_compressions(kind: str, compress: Callable[[bytes, Path], bytes], tmp_path: Path) -> None:
    found = read_initramfs(cpio({"kernel/x": b"early"}) + bytes(512) + compress(cpio(FILES), tmp_path))
    assert found.compressions == ("none", kind)
    assert (found.modules, found.init, found.files) == ((VERSION,), True, 5)


def test_concatenated_gzips() -> None:
    found = read_initramfs(gzip.compress(cpio({"init": b""})) + gzip.compress(cpio({"lib/modules/6.1/x": b""})))
    assert found.compressions == ("gzip", "gzip")
    assert found.modules == ("6.1",)


@pytest.mark.parametrize("junk", [b"", bytes(100), b"\x1f\x8b" + bytes(20), b"070701zzzz" + bytes(200), b"junk"])
def test_damage(junk: bytes) -> None:
    with pytest.raises(BrokenInitramfsError):
        read_initramfs(junk)


@given(st.integers(min_value=1, max_value=len(initramfs()) - 1))
def test_cut_short_anywhere(length: int) -> None:
    try:
        found = read_initramfs(initramfs()[:length])
    except BrokenInitramfsError:
        return
    assert not found.init  # cut between two archives
    assert not found.modules


def _bomb(kind: str, scratch: Path) -> bytes:
    """Return 16 MiB of zeros, packed."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, 1),
        "xz": lambda data: lzma.compress(data, preset=0),
        "bzip2": bz2.compress,
    }
    return packers[kind](bytes(16 << 20)) if kind in packers else _tool(kind)(bytes(16 << 20), scratch)


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd", "lz4"])
def test_a_bomb_is_not_unpacked(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs_reader, "_MOST_BYTES", 4 << 20)
    bomb = _bomb(kind, tmp_path)
    tracemalloc.start()
    with pytest.raises(BrokenInitramfsError, match="more than 4 MiB"):
        read_initramfs(bomb)
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_parts_share_what_they_may_unpack_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs_reader, "_MOST_BYTES", 3000)
    part = gzip.compress(cpio({"a": bytes(2000)}))
    assert read_initramfs(part).files == 1
    with pytest.raises(BrokenInitramfsError, match="unpacks to more"):
        read_initramfs(part * 2)


def test_archives_without_number_end() -> None:
    with pytest.raises(BrokenInitramfsError, match="more than 64 archives"):
        read_initramfs(gzip.compress(cpio({})) * 100_000)


def test_files_without_number_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs_reader, "_MOST_FILES", 1000)
    one = cpio({"a": b""})
    with pytest.raises(BrokenInitramfsError, match="more than 1000 files"):
        read_initramfs(one[: one.index(b"TRAILER") - 110] * 2000)


def test_the_modules_of_each_version() -> None:
    names = [
        "lib/modules/1/kernel/a-b.ko.xz",
        "usr/lib/modules/1/c.ko",
        "lib/modules/2/modules.dep",
        "x/lib/modules/3/a.ko",
    ]
    found = read_initramfs(cpio(dict.fromkeys(names, b"")))
    assert found.drivers == {"1": {"a_b", "c"}, "2": frozenset()}

"""FAT file systems whose directories have no end: refused before anything follows them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image.extract import extract_fat
from builder.image.fat_check import check_fat
from builder.image.fat_read import FatReader
from builder.run import run

pytestmark = pytest.mark.tools
OFFSET = 1 << 20
SIZES = {"12": 2 << 20, "16": 16 << 20, "32": 64 << 20}
INNER, OUTER, FILE = b"B          \x10", b"A          \x10", b"F       TXT "


def made(tmp_path: Path, bits: str) -> Path:
    """Return a file that holds a FAT with a/b and 200 files in a, behind a gap."""
    fat, image = tmp_path / "fat", tmp_path / "image"
    with fat.open("wb") as file:
        file.truncate(SIZES[bits])
    run(["mkfs.vfat", "-F", bits, "-s", "1", fat])
    run(["mmd", "-i", fat, "::a", "::a/b"])
    (tmp_path / "f.txt").write_text("x" * 3000)
    names = [tmp_path / f"a rather long name {number}" for number in range(200)]
    for name in names:
        name.write_text(name.name)
    run(["mcopy", "-i", fat, tmp_path / "f.txt", "::"])
    run(["mcopy", "-i", fat, *names, "::a"])
    image.write_bytes(bytes(OFFSET) + fat.read_bytes())
    return image


def first_of(data: bytearray, entry: bytes) -> int:
    at = data.index(entry)
    return int(struct.unpack_from("<H", data, at + 26)[0] | struct.unpack_from("<H", data, at + 20)[0] << 16)


def point(data: bytearray, entry: bytes, cluster: int) -> None:
    at = data.index(entry)
    struct.pack_into("<H", data, at + 26, cluster & 0xFFFF)
    struct.pack_into("<H", data, at + 20, cluster >> 16)


def to_its_parent(data: bytearray) -> None:
    point(data, INNER, first_of(data, OUTER))


def to_the_top(data: bytearray) -> None:
    point(data, INNER, 0)


def to_itself(data: bytearray) -> None:
    """A directory's chain of clusters leads back to its first one, in every copy of the table."""
    first = first_of(data, OUTER)
    bits = {b"FAT12": 12, b"FAT16": 16}.get(bytes(data[OFFSET + 54 : OFFSET + 59]), 32)
    reserved, fats = struct.unpack_from("<HB", data, OFFSET + 14)
    size = struct.unpack_from("<H", data, OFFSET + 22)[0] or struct.unpack_from("<I", data, OFFSET + 36)[0]
    for number in range(fats):
        table = OFFSET + (reserved + number * size) * 512
        if bits == 12:
            at = table + first * 12 // 8
            old = struct.unpack_from("<H", data, at)[0]
            new = (old & 0xF) | first << 4 if first & 1 else (old & 0xF000) | first
            struct.pack_into("<H", data, at, new)
        else:
            struct.pack_into("<H" if bits == 16 else "<I", data, table + first * bits // 8, first)


def bigger_than_all(data: bytearray) -> None:
    struct.pack_into("<I", data, data.index(FILE) + 28, 1 << 31)


FAULTS: dict[Callable[[bytearray], None], str] = {
    to_its_parent: "in a circle",
    to_the_top: "in a circle",
    to_itself: "in a circle",
    bigger_than_all: "bigger than it is",
}


@pytest.mark.parametrize("bits", SIZES)
def test_a_sound_one_is_read(tmp_path: Path, bits: str) -> None:
    image = made(tmp_path, bits)
    check_fat(image, OFFSET, "the boot partition")
    reader = FatReader(image, OFFSET, SIZES[bits], "the boot partition")
    assert len(list(reader.walk())) == 203
    reader.close()


@pytest.mark.parametrize("bits", SIZES)
@pytest.mark.parametrize("fault", FAULTS)
def test_directories_without_an_end_are_refused(tmp_path: Path, bits: str, fault: Callable[[bytearray], None]) -> None:
    image = made(tmp_path, bits)
    data = bytearray(image.read_bytes())
    fault(data)
    image.write_bytes(data)
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match=FAULTS[fault]):
        extract_fat(image, OFFSET, tmp_path / "into")
    with pytest.raises(InputError, match=FAULTS[fault]):
        list(FatReader(image, OFFSET, SIZES[bits], "the boot partition").walk())
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("field", [(11, "<H"), (13, "<B"), (14, "<H"), (16, "<B"), (22, "<H"), (19, "<H")])
@pytest.mark.parametrize("value", [0, 0xFF])
def test_sizes_that_make_no_sense_end_soon(tmp_path: Path, field: tuple[int, str], value: int) -> None:
    image = made(tmp_path, "16")
    data = bytearray(image.read_bytes())
    struct.pack_into(field[1], data, OFFSET + field[0], value)
    image.write_bytes(data)
    try:
        check_fat(image, OFFSET, "the boot partition")
    except InputError as error:
        refused = error.message
    else:
        refused = ""
    assert not refused or refused.startswith("the boot partition: its ")

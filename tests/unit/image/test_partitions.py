"""The layout's arithmetic, and the bytes of the partition table."""

import mmap
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import InputError
from builder.image.partitions import (
    ALIGNMENT,
    MIB,
    DiskSpec,
    Table,
    TableError,
    make_id32,
    make_layout,
    make_uuid,
    read_table,
    reference,
    write_table,
)

SIZES = st.integers(min_value=1, max_value=900 * 1024 * MIB)


@given(boot=SIZES, root=SIZES, alignment=st.sampled_from([MIB, 8 * MIB]))
def test_partitions_are_aligned_large_enough_and_apart(boot: int, root: int, alignment: int) -> None:
    layout = make_layout(DiskSpec(boot_size=boot), disk_id=1, root_size=root, alignment=alignment)
    at = alignment  # the partition table lies before
    for partition, wanted in zip(layout.table.partitions, (boot, root), strict=True):
        assert partition.start == at
        assert partition.start % alignment == 0
        assert wanted <= partition.size < wanted + alignment
        at = partition.end
    assert layout.table.size == at


def test_more_than_an_mbr_can_say_is_refused() -> None:
    with pytest.raises(InputError, match="larger than 2 TiB"):
        make_layout(DiskSpec(), disk_id=1, root_size=2 << 40)


def test_the_table_holds_what_the_layout_says(tmp_path: Path) -> None:
    layout = make_layout(DiskSpec(boot_size=64 * MIB), disk_id=0x1A2B3C4D, root_size=100 * MIB)
    write_table(tmp_path / "x.img", layout.table)
    data = (tmp_path / "x.img").read_bytes()
    assert len(data) == layout.table.size == (8 + 64 + 104) * MIB
    assert struct.unpack_from("<I", data, 440) == (0x1A2B3C4D,)
    assert data[510:512] == b"\x55\xaa"
    entries = [struct.unpack_from("<BxxxBxxxII", data, 446 + 16 * index) for index in range(4)]
    assert entries == [(0, 0x0C, 16384, 131072), (0, 0x83, 147456, 212992), (0, 0, 0, 0), (0, 0, 0, 0)]
    assert not data[512:].strip(b"\0")
    write_table(tmp_path / "y.img", layout.table)
    assert (tmp_path / "y.img").read_bytes() == data


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boot=SIZES, root=SIZES, disk_id=st.integers(min_value=1, max_value=0xFFFFFFFF))
def test_what_is_written_is_what_is_read(boot: int, root: int, disk_id: int, tmp_path: Path) -> None:
    image = tmp_path / f"{boot}-{root}.img"  # libparted remembers the size of a file by its name
    written = make_layout(DiskSpec(boot_size=boot), disk_id=disk_id, root_size=root).table
    write_table(image, written)
    partitions = tuple(replace(each, label="") for each in written.partitions)  # a label is the file system's
    assert _read(image) == replace(written, partitions=partitions)
    image.unlink()


def _read(image: Path) -> Table:
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return read_table(image, data)


@pytest.mark.parametrize(
    ("offset", "content", "said"),
    [
        (510, b"\0\0", "no usable partition table"),
        (446 + 8, struct.pack("<I", 1 << 30), "outside the disk"),
        (446 + 16 + 12, struct.pack("<I", 1 << 30), "outside the disk"),
    ],
)
def test_a_table_that_lies_is_refused(offset: int, content: bytes, said: str, tmp_path: Path) -> None:
    image = tmp_path / "x.img"
    write_table(image, make_layout(DiskSpec(boot_size=64 * MIB), disk_id=1, root_size=100 * MIB).table)
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    with pytest.raises(TableError, match=said):
        _read(image)


def test_references() -> None:
    spec = DiskSpec(root_label="writable")
    layout = make_layout(spec, disk_id=0xAB, root_size=ALIGNMENT)
    assert layout.root.partuuid == "000000ab-02"
    assert reference(spec, layout.root) == "PARTUUID=000000ab-02"
    by_label = DiskSpec(root_label="writable", identify="label")
    assert [reference(by_label, each) for each in layout.table.partitions] == ["LABEL=bootfs", "LABEL=writable"]


def test_ids_follow_from_the_key_and_the_label_alone() -> None:
    """Pinned: another value would change every image."""
    assert str(make_uuid("key", "rootfs")) == "d20a0e74-7c88-54f0-af63-7949ce50df47"
    assert make_id32("key", "disk") == 0xDD1997D7
    assert make_uuid("key", "a") != make_uuid("key", "b")
    assert make_uuid("other", "a") != make_uuid("key", "a")

"""What an image's own files say of its style, and what its partition table says of its layout."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder.attach import Partition, read_layout
from builder.base_image import PartitionFacts, find_boot_mount, find_identify
from builder.errors import InputError

BOOT = PartitionFacts(label="bootfs", uuid="12C4-97FD", start=4 << 20, size=64 << 20)
PARTUUID = "0a1b2c3d-01"


@pytest.mark.parametrize(
    ("fstab", "where"),
    [
        ("LABEL=bootfs /boot/firmware vfat defaults 0 1", "/boot/firmware"),
        ('LABEL="bootfs" /efi vfat defaults 0 1', "/efi"),
        ("PARTUUID=0a1b2c3d-01  /boot  vfat  defaults  0  2", "/boot"),
        ("UUID=12C4-97FD\t/boot/firmware\tvfat", "/boot/firmware"),
        ("# LABEL=bootfs /no vfat\n/dev/mmcblk0p1 /boot vfat defaults 0 0", "/boot"),
        ("LABEL=rootfs / ext4\nLABEL=other /boot vfat\nLABEL=bootfs /boot/firmware vfat", "/boot/firmware"),
    ],
)
def test_the_boot_mount_is_read_from_fstab(fstab: str, where: str) -> None:
    assert find_boot_mount(fstab, BOOT, PARTUUID) == where


@pytest.mark.parametrize("fstab", ["", "LABEL=rootfs / ext4 defaults", "/dev/sda1 /mnt vfat", "LABEL=bootfs /boot"])
def test_an_fstab_without_the_boot_partition(fstab: str) -> None:
    with pytest.raises(InputError, match="does not mount its boot partition"):
        find_boot_mount(fstab, BOOT, PARTUUID)


@pytest.mark.parametrize(
    ("command_line", "fstab", "identify"),
    [
        ("console=tty1 root=LABEL=writable rootwait", "", "label"),
        ("root=PARTUUID=0a1b2c3d-02", "LABEL=writable / ext4", "partuuid"),
        ("root=/dev/mmcblk0p2", "LABEL=writable / ext4", "device"),
        ("console=tty1", "UUID=x / ext4 defaults", "uuid"),
        ("", "", "device"),
    ],
)
def test_the_style_of_root(command_line: str, fstab: str, identify: str) -> None:
    assert find_identify(command_line, fstab) == identify


def table(*entries: tuple[int, int, int], disk_id: int = 7) -> bytes:
    """Return an MBR with entries of type, first sector and sectors."""
    sector = bytearray(512)
    struct.pack_into("<I", sector, 440, disk_id)
    for index, (kind, start, count) in enumerate(entries):
        struct.pack_into("<4xB3xII", sector, 446 + 16 * index, kind, start, count)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def image(directory: Path, sector: bytes, sectors: int) -> Path:
    path = directory / "x.img"
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(max(sectors * 512, len(sector)))
    return path


def test_reads_the_layout_of_a_raspberry_pi(tmp_path: Path) -> None:
    layout = read_layout(image(tmp_path, table((0x0C, 8, 16), (0x83, 24, 100), disk_id=0xDEADBEEF), 124))
    assert layout.disk_id == 0xDEADBEEF
    assert layout.boot == Partition(number=1, kind=0x0C, start=8 * 512, size=16 * 512)
    assert layout.root == Partition(number=2, kind=0x83, start=24 * 512, size=100 * 512)


def test_takes_the_first_fat_and_the_first_linux_partition(tmp_path: Path) -> None:
    layout = read_layout(image(tmp_path, table((0x82, 1, 4), (0x0E, 8, 16), (0, 0, 0), (0x83, 24, 100)), 200))
    assert (layout.boot.number, layout.root.number) == (2, 4)


@pytest.mark.parametrize(
    ("sector", "sectors", "message"),
    [
        (b"", 0, "no partition table"),
        (bytes(512), 9, "no partition table"),
        (table(), 9, "has partitions of types none"),
        (table((0xEE, 1, 99)), 99, "has partitions of types 0xee"),
        (table((0x0C, 8, 16)), 99, "has partitions of types 0x0c"),
        (table((0x0C, 8, 16), (0x83, 24, 100)), 123, "cut short: 62976 of 63488 bytes"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, sector: bytes, sectors: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_layout(image(tmp_path, sector, sectors))

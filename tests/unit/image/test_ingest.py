"""What an image's own files say of its style, and what its partition table says of its layout."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image.attach import read_layout
from builder.image.ingest import find_boot_mount, find_identify
from builder.image.partitions import Partition
from tests.images import DEBIAN, MIB, make_image

BOOT = Partition(
    number=1, type="0x0c", partuuid="0a1b2c3d-01", label="bootfs", uuid="12C4-97FD", start=4 << 20, size=64 << 20
)


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
    assert find_boot_mount(fstab, BOOT) == where


@pytest.mark.parametrize("fstab", ["", "LABEL=rootfs / ext4 defaults", "/dev/sda1 /mnt vfat", "LABEL=bootfs /boot"])
def test_an_fstab_without_the_boot_partition(fstab: str) -> None:
    with pytest.raises(InputError, match="does not mount its boot partition"):
        find_boot_mount(fstab, BOOT)


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


@pytest.mark.tools
def test_reads_the_layout_of_a_raspberry_pi(tmp_path: Path) -> None:
    layout = read_layout(make_image(tmp_path / "a.img", DEBIAN))
    assert layout.table.disk_id == "deadbeef"
    assert (layout.boot.number, layout.boot.start, layout.boot.size) == (1, MIB, DEBIAN.boot_size)
    assert (layout.root.number, layout.root.size, layout.root.label) == (2, DEBIAN.root_size, "rootfs")


@pytest.mark.parametrize(
    ("sector", "sectors", "message"),
    [
        (b"", 0, "it is empty"),
        (bytes(512), 9, "no usable partition table"),
        (table(), 9, "no partition holds an ext file system"),
        (table((0x0C, 8, 16)), 99, "no partition holds an ext file system"),
        (table((0x0C, 8, 16), (0x83, 24, 100)), 123, "partition"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, sector: bytes, sectors: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_layout(image(tmp_path, sector, sectors))

"""Where the partitions of an image lie: arithmetic on bytes, and the MBR that says so.

Raspberry Pi firmware before the Pi 4 reads MBR only, so every image has one: partition 1 is the FAT that the firmware
reads (type 0x0C), partition 2 the ext4 root (type 0x83).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import parted

from builder.errors import InputError, Problem

MIB = 1 << 20
ALIGNMENT = 8 * MIB  # SD cards erase in units of 4 or 8 MiB; Raspberry Pi OS aligns the same way
SECTOR = 512
FAT32_LBA = 0x0C
LINUX = 0x83
_DISK_ID_OFFSET = 440  # the MBR's "disk signature", 4 bytes, little-endian
_MBR_SECTORS = 1 << 32  # a sector number in the MBR has 32 bits
_NAMESPACE = uuid.UUID("6c1b2f6e-9d0c-5d0a-8f5b-3f1f0c2b7a44")  # pibuild's own; nothing else derives ids from it


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """What a recipe says of the disk. Sizes are bytes.

    `root_size` None is what the tree needs plus the slack, which is `slack_percent` of that and `slack_bytes`.
    `boot_mount` is the absolute path where the boot partition is mounted.
    """

    boot_size: int = 256 * MIB
    boot_label: str = "bootfs"
    boot_mount: str = "/boot/firmware"
    root_size: int | None = None
    slack_percent: int = 15
    slack_bytes: int = 0
    root_label: str = "rootfs"
    identify: Literal["partuuid", "label"] = "partuuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition; `number` counts from 1, `kind` is the MBR type byte, `start` and `size` are bytes."""

    number: int
    kind: int
    start: int
    size: int
    label: str

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A disk of `size` bytes with its 32-bit MBR id."""

    disk_id: int
    size: int
    partitions: tuple[Partition, ...]

    @property
    def boot(self) -> Partition:
        """The partition the firmware reads."""
        return self.partitions[0]

    @property
    def root(self) -> Partition:
        """The partition Linux takes its root from."""
        return self.partitions[1]


def make_uuid(key: str, label: str) -> uuid.UUID:
    """Return the id of what `label` names in an image made from a recipe: the same for the same recipe key."""
    return uuid.uuid5(_NAMESPACE, f"{key}/{label}")


def make_id32(key: str, label: str) -> int:
    """Return a 32-bit id (of a disk, of a FAT) that is never 0, which means "none" in an MBR."""
    return int.from_bytes(make_uuid(key, label).bytes[:4], "big") or 1


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """Return the next multiple of `alignment` that is not below `size`."""
    return -(-size // alignment) * alignment


def make_layout(spec: DiskSpec, *, disk_id: int, root_size: int, alignment: int = ALIGNMENT) -> Layout:
    """Place the boot and the root partition; both sizes are rounded up to the alignment.

    Raises InputError where the disk would be larger than an MBR can say.
    """
    boot = Partition(
        number=1, kind=FAT32_LBA, start=alignment, size=align(spec.boot_size, alignment), label=spec.boot_label
    )
    root = Partition(number=2, kind=LINUX, start=boot.end, size=align(root_size, alignment), label=spec.root_label)
    if root.end // SECTOR >= _MBR_SECTORS:
        raise InputError(
            Problem(message="the disk would be larger than 2 TiB", hint="lower disk.boot.size or disk.root.size")
        )
    return Layout(disk_id=disk_id, size=root.end, partitions=(boot, root))


def partuuid(layout: Layout, number: int) -> str:
    """Return the PARTUUID Linux gives a partition of an MBR disk, `1a2b3c4d-02` (block/partitions/msdos.c)."""
    return f"{layout.disk_id:08x}-{number:02x}"


def reference(spec: DiskSpec, layout: Layout, number: int) -> str:
    """Return how fstab and root= name a partition: `PARTUUID=1a2b3c4d-02` or `LABEL=rootfs`."""
    if spec.identify == "label":
        return f"LABEL={layout.partitions[number - 1].label}"
    return f"PARTUUID={partuuid(layout, number)}"


def write_partition_table(image: Path, layout: Layout) -> None:
    """Make `image` a sparse file of the layout's size, if it is not, and write the MBR into it."""
    with image.open("ab") as file:
        file.truncate(layout.size)
    device = parted.getDevice(str(image))
    disk = parted.freshDisk(device, "msdos")
    for part in layout.partitions:
        geometry = parted.Geometry(device=device, start=part.start // SECTOR, length=part.size // SECTOR)
        is_fat = part.kind == FAT32_LBA
        system = parted.FileSystem(type="fat32" if is_fat else "ext4", geometry=geometry)
        made = parted.Partition(disk=disk, type=parted.PARTITION_NORMAL, geometry=geometry, fs=system)
        disk.addPartition(partition=made, constraint=parted.Constraint(exactGeom=geometry))
        if is_fat:
            made.setFlag(parted.PARTITION_LBA)
    disk.commitToDevice()
    with image.open("r+b") as file:
        file.seek(_DISK_ID_OFFSET)
        file.write(struct.pack("<I", layout.disk_id))

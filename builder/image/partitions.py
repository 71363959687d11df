"""The partition table of an image: what it says of a disk, where an image's partitions lie, reading and writing it.

Raspberry Pi firmware before the Pi 4 reads MBR only, so every image made here has one: partition 1 is the FAT that the
firmware reads (type 0x0c), partition 2 the ext4 root (type 0x83).
"""

from __future__ import annotations

import mmap
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import _ped
import parted

from builder.errors import InputError, Problem

MIB = 1 << 20
ALIGNMENT = 8 * MIB  # SD cards erase in units of 4 or 8 MiB; Raspberry Pi OS aligns the same way
SECTOR = 512
FAT32_LBA = "0x0c"
LINUX = "0x83"
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
    """A partition, the first is number 1. `start`, `size`, `free` are bytes. `type` is `0x0c` on MBR, a GUID on GPT.

    `partuuid` is as Linux and its `root=PARTUUID=` say it: `<disk id>-<number>` on MBR, the partition's GUID on GPT, in
    lower case. `filesystem` is vfat, ext4 (ext2 and ext3 too) or empty: what was read in it, with its `label`, `uuid`
    and `free` space. Of one that is yet to be written, `label` is the one that it will have.
    """

    number: int
    start: int
    size: int
    type: str
    active: bool = False
    partuuid: str = ""
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    free: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The partition table of a disk of `size` bytes, as it is or will be.

    `kind` is msdos or gpt; `disk_id` is as Linux has it: 8 hex digits of an MBR's signature, or a GUID.
    """

    kind: str
    disk_id: str
    size: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A disk that a Raspberry Pi boots from: the partition its firmware reads, the one that holds the root."""

    table: Table
    boot: Partition
    root: Partition


class TableError(Exception):
    """A disk without a partition table that can be used; says why."""


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
    signature = f"{disk_id:08x}"
    boot = Partition(
        number=1,
        start=alignment,
        size=align(spec.boot_size, alignment),
        type=FAT32_LBA,
        partuuid=mbr_partuuid(signature, 1),
        label=spec.boot_label,
    )
    root = Partition(
        number=2,
        start=boot.end,
        size=align(root_size, alignment),
        type=LINUX,
        partuuid=mbr_partuuid(signature, 2),
        label=spec.root_label,
    )
    if root.end // SECTOR >= _MBR_SECTORS:
        raise InputError(
            Problem(message="the disk would be larger than 2 TiB", hint="lower disk.boot.size or disk.root.size")
        )
    table = Table(kind="msdos", disk_id=signature, size=root.end, partitions=(boot, root))
    return Layout(table=table, boot=boot, root=root)


def mbr_partuuid(disk_id: str, number: int) -> str:
    """Return the PARTUUID Linux gives a partition of an MBR disk, `1a2b3c4d-02` (block/partitions/msdos.c)."""
    return f"{disk_id}-{number:02x}"


def reference(spec: DiskSpec, partition: Partition) -> str:
    """Return how fstab and root= name a partition: `PARTUUID=1a2b3c4d-02` or `LABEL=rootfs`."""
    return f"LABEL={partition.label}" if spec.identify == "label" else f"PARTUUID={partition.partuuid}"


def write_table(image: Path, table: Table) -> None:
    """Make `image` a sparse file of the disk's size, if it is not, and write the table, an MBR, into it."""
    with image.open("ab") as file:
        file.truncate(table.size)
    device = parted.getDevice(str(image))
    disk = parted.freshDisk(device, "msdos")
    for part in table.partitions:
        geometry = parted.Geometry(device=device, start=part.start // SECTOR, length=part.size // SECTOR)
        is_fat = part.type == FAT32_LBA
        system = parted.FileSystem(type="fat32" if is_fat else "ext4", geometry=geometry)
        made = parted.Partition(disk=disk, type=parted.PARTITION_NORMAL, geometry=geometry, fs=system)
        disk.addPartition(partition=made, constraint=parted.Constraint(exactGeom=geometry))
        if is_fat:
            made.setFlag(parted.PARTITION_LBA)
    disk.commitToDevice()
    with image.open("r+b") as file:
        file.seek(_DISK_ID_OFFSET)
        file.write(struct.pack("<I", int(table.disk_id, 16)))


def read_table(image: Path, data: mmap.mmap) -> Table:
    """Return the partition table of an image, `data` its bytes, without what is in the partitions.

    Raises TableError for one that libparted cannot use, or that says more than the image holds.
    """
    try:
        device = parted.getDevice(str(image))
        device.removeFromCache()  # libparted would remember the size of a file that is since rewritten
        disk = parted.newDisk(device)
        found = [(part.number, part.geometry.start, part.geometry.length, part.active) for part in disk.partitions]
        table, sector = str(disk.type), int(device.sectorSize)
    except (_ped.DiskException, _ped.IOException, _ped.DeviceException, _ped.PartitionException) as error:
        raise TableError(f"no usable partition table: {' '.join(str(error).split())}") from error
    if table == "msdos":
        disk_id = f"{struct.unpack_from('<I', data, _DISK_ID_OFFSET)[0]:08x}"
    elif table == "gpt":
        disk_id = str(uuid.UUID(bytes_le=data[sector + 56 : sector + 72]))
    else:
        raise TableError(f"the partition table is '{table}', not msdos or gpt: is it a file system, not an image?")
    partitions = []
    for number, start, length, active in sorted(found):
        kind, partuuid, bootable = (
            _mbr_facts(data, number, disk_id) if table == "msdos" else _gpt_facts(data, number, sector)
        )
        if active and (start + length) * sector > len(data):
            raise TableError(f"partition {number} ends behind the end of the image: it is cut short")
        if active:
            partitions.append(
                Partition(
                    number=number,
                    start=start * sector,
                    size=length * sector,
                    type=kind,
                    active=bootable,
                    partuuid=partuuid,
                )
            )
    return Table(kind=table, disk_id=disk_id, size=len(data), partitions=tuple(partitions))


def _mbr_facts(data: mmap.mmap, number: int, disk_id: str) -> tuple[str, str, bool]:
    """Return type, PARTUUID, bootable; logical partitions (5 and up) have their entries elsewhere and no type here."""
    partuuid = mbr_partuuid(disk_id, number)
    if not 1 <= number <= 4:  # noqa: PLR2004 - the four entries of the table
        return "", partuuid, False
    at = 446 + (number - 1) * 16
    return f"0x{data[at + 4]:02x}", partuuid, data[at] == 0x80  # noqa: PLR2004 - the flag


def _gpt_facts(data: mmap.mmap, number: int, sector: int) -> tuple[str, str, bool]:
    """Return type GUID, PARTUUID, legacy bootable (UEFI specification 2.10, 5.3: header in sector 1)."""
    entries, _count, length = struct.unpack_from("<QII", data, sector + 72)
    at = entries * sector + (number - 1) * length
    kind, partuuid = (str(uuid.UUID(bytes_le=data[at + 16 * index : at + 16 * index + 16])) for index in (0, 1))
    return kind, partuuid, bool(data[at + 48] & 4)

"""Open an image for reading: .img, .img.zst, .img.xz, .img.gz, a directory that a build published, a whole disk.

No root, no mount, no loop device, whoever laid the image out: Ubuntu (system-boot, writable), Raspberry Pi OS (bootfs,
rootfs), Debian, this project. The partition table is libparted's business, the file systems' are `fat_read` and
`ext4_read`.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import mmap
import os
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from builder.console import progress
from builder.errors import InputError, Problem
from builder.host.named_file import open_named
from builder.host.scratch import temporary
from builder.image.ext4_read import Ext4Reader, is_ext
from builder.image.fat_read import FatReader, is_fat
from builder.image.filesystem import FileSystem
from builder.image.partitions import Partition, Table, TableError, read_table
from builder.run import CommandError, find_tool, run

COMPRESSIONS = (".zst", ".xz", ".gz")
_MAGICS = {".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd", ".gz": b"\x1f\x8b"}  # what each begins with
_UNREAD = {b"PK\x03\x04": "unzip", b"BZh": "bunzip2 --keep", b"7z\xbc\xaf": "7z x"}  # and what unpacks it
_BOOT = re.compile(r"config\.txt|cmdline\.txt|bootcode\.bin|start.*\.elf|kernel.*\.img|vmlinuz.*")
_LINE = 1 << 16  # bytes of a command line or an fstab
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An opened image; valid inside open_image's block.

    `given` is what was asked for, `path` the (decompressed) file. `boot` is the FAT that the firmware reads, `root` the
    Linux root file system; they lie on `boot_partition` and `root_partition`.
    """

    given: Path
    path: Path
    table: Table
    boot: FileSystem | None
    boot_partition: Partition | None
    root: Ext4Reader
    root_partition: Partition

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.table.size

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Its partitions, by number."""
        return self.table.partitions


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image]:
    """Open an image for reading; everything temporary is gone when the block is left.

    Raises InputError when it is not there, damaged, has no partition table or no Linux root file system.
    """
    file = find_image(path)
    with contextlib.ExitStack() as stack:
        packing = packing_of(file)
        require_readable_packing(file)
        plain = stack.enter_context(_decompressed(file, packing)) if packing else file
        try:
            raw = stack.enter_context(open_named(plain, device=True))
            data = stack.enter_context(mmap.mmap(raw.fileno(), raw.seek(0, os.SEEK_END), prot=mmap.PROT_READ))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is empty"
            raise _unusable(path, f"cannot be read: {reason}") from error
        try:
            table = read_table(plain, data)
        except TableError as error:
            raise _unusable(path, str(error)) from error
        systems, broken = _file_systems(plain, data, table.partitions, path)
        for each in systems.values():
            stack.callback(each.close)
        if broken and not any(isinstance(each, Ext4Reader) for each in systems.values()):
            raise broken[0]
        yield _image(path, plain, _with_systems(table, systems), systems)


def packing_of(file: Path) -> str:
    """Return how a file is packed, as a suffix (`.xz`), by its first bytes; empty when it is not, or unreadable.

    A download in the cache is named by its checksum alone.
    """
    try:
        with open_named(file, device=True) as stream:
            head = stream.read(6)
    except OSError:
        return ""
    return next((suffix for suffix, magic in _MAGICS.items() if head.startswith(magic)), "")


def require_readable_packing(file: Path) -> None:
    """Raise InputError, with the command that unpacks it, for a file packed in a way that is not read here."""
    with open_named(file, device=True) as stream:
        head = stream.read(6)
    tool = next((tool for magic, tool in _UNREAD.items() if head.startswith(magic)), "")
    if tool:
        hint = f"unpack it: `{tool} {shlex.quote(str(file))}`, and name the .img file that comes out"
        raise _unusable(file, "is packed in a way that is not read here", hint)


def find_image(path: Path) -> Path:
    """Return the image file that a path means: itself, or the one image in a directory, preferably uncompressed."""
    if not path.is_dir():
        if not path.exists():
            raise _unusable(path, "no such image", "pibuild build makes one; its directory is output/NAME/latest")
        return path
    for suffix in ("", *COMPRESSIONS):
        found = sorted(path.glob(f"*.img{suffix}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise _unusable(path, f"holds several images: {', '.join(each.name for each in found)}", "name one of them")
    raise _unusable(
        path, "this directory holds no image", "one with a .img, .img.zst, .img.xz or .img.gz file is wanted"
    )


def _unusable(path: Path, what: str, hint: str = "") -> InputError:
    return InputError(Problem(message=f"{path}: {what}", hint=hint or "fetch or build it again"))


@contextlib.contextmanager
def _decompressed(file: Path, packing: str) -> Iterator[Path]:
    """Unpack into a temporary directory on disk ($TMPDIR, else /var/tmp), holes where there are zeros."""
    with temporary("image") as scratch:
        plain = scratch / "image"
        with progress(f"decompressing {file.name}"):
            try:
                if packing == ".zst":
                    run([find_tool("zstd", package="zstd"), "-d", "-q", "--sparse", "-o", plain, file])
                else:
                    opener = lzma.open if packing == ".xz" else gzip.open
                    with opener(file, "rb") as packed, plain.open("wb") as unpacked:
                        _copy_sparse(packed, unpacked)
            except CommandError as error:
                raise _unusable(file, f"cannot be decompressed: {error.completed.stderr.strip()}") from error
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise _unusable(file, f"cannot be decompressed: {error}") from error
        yield plain


def _copy_sparse(source: lzma.LZMAFile | gzip.GzipFile, target: IO[bytes]) -> None:
    zeros = bytes(_PIECE)
    while piece := source.read(_PIECE):
        if piece == zeros[: len(piece)]:
            target.seek(len(piece), os.SEEK_CUR)
        else:
            target.write(piece)
    target.truncate()


def _file_systems(
    plain: Path, data: mmap.mmap, partitions: tuple[Partition, ...], path: Path
) -> tuple[dict[int, FatReader | Ext4Reader], list[InputError]]:
    """Return the file systems that can be read, and why others cannot: a partition of data may be anything."""
    found: dict[int, FatReader | Ext4Reader] = {}
    broken = []
    for each in partitions:
        name = f"{path} partition {each.number}"
        try:
            if is_ext(data, each.start):
                found[each.number] = Ext4Reader(data, each.start, name)
            elif is_fat(data, each.start):
                found[each.number] = FatReader(plain, each.start, each.size, name)
        except InputError as error:
            broken.append(error)
    return found, broken


def _with_systems(table: Table, systems: Mapping[int, FileSystem]) -> Table:
    """Return a table whose partitions say what is in them."""
    partitions = [
        replace(each, filesystem=system.kind, label=system.label, uuid=system.uuid, free=system.free)
        if (system := systems.get(each.number)) is not None
        else each
        for each in table.partitions
    ]
    return replace(table, partitions=tuple(partitions))


def _image(given: Path, path: Path, table: Table, systems: dict[int, FatReader | Ext4Reader]) -> Image:
    by_number = {each.number: each for each in table.partitions}
    root, boot = choose(given, table.partitions, systems)
    return Image(
        given=given,
        path=path,
        table=table,
        boot=None if boot is None else systems[boot],
        boot_partition=None if boot is None else by_number[boot],
        root=_ext4(systems[root]),
        root_partition=by_number[root],
    )


def _ext4(system: FileSystem) -> Ext4Reader:
    assert isinstance(system, Ext4Reader)  # noqa: S101 - what was chosen
    return system


def choose(
    given: Path, partitions: tuple[Partition, ...], systems: Mapping[int, FatReader | Ext4Reader]
) -> tuple[int, int | None]:
    """Return the numbers of the root and the boot partition, by what is in them. Raises InputError where several fit.

    A root has an os-release and a program to start; of several, it is the one that the boot partition's command line
    names. A boot partition has what the firmware reads; of several, it is the one that the root's fstab mounts.
    """
    exts = [number for number, each in systems.items() if isinstance(each, Ext4Reader)]
    if not exts:
        kinds = ", ".join(f"{each.number}: {each.filesystem or 'unknown'}" for each in partitions) or "none"
        raise _unusable(given, f"no partition holds an ext file system (partitions: {kinds})")
    fats = [number for number, each in systems.items() if isinstance(each, FatReader)]
    roots = [number for number in exts if _is_root(systems[number])] or exts
    boots = [number for number in fats if _is_boot(systems[number])] or fats
    by_number = {each.number: each for each in partitions}
    if len(roots) > 1:
        named = {name for number in boots for name in _command_line_roots(systems[number])}
        roots = [number for number in roots if named & _names(by_number[number])] or roots
    root = _only(given, "root", roots)
    if len(boots) > 1:
        mounted = _fstab_boots(systems[root])
        boots = [number for number in boots if mounted & _names(by_number[number])] or boots
    return root, _only(given, "boot", boots) if boots else None


def _only(given: Path, role: str, numbers: list[int]) -> int:
    if len(numbers) > 1:
        them = ", ".join(str(number) for number in numbers)
        hint = "take the other partitions out of a copy of it (`parted COPY rm NUMBER`), or use an image for one system"
        raise _unusable(given, f"partitions {them} could each be the {role} partition, and nothing tells which", hint)
    return numbers[0]


def _is_root(system: FileSystem) -> bool:
    release = any(system.find(path) for path in ("/etc/os-release", "/usr/lib/os-release"))
    return release and any(system.find(path, follow=False) for path in ("/sbin/init", "/usr/lib/systemd/systemd"))


def _is_boot(system: FileSystem) -> bool:
    names = (entry.name.lower() for entry in system.list("/"))
    return any(_BOOT.fullmatch(name) for name in names)


def _names(partition: Partition) -> set[str]:
    """Return what a command line and an fstab may call a partition, in lower case."""
    names = {f"label={partition.label}", f"uuid={partition.uuid}", f"partuuid={partition.partuuid}"}
    devices = {f"/dev/{disk}{partition.number}" for disk in ("mmcblk0p", "sda", "nvme0n1p")}
    return {name.lower() for name in names if not name.endswith("=")} | devices


def _command_line_roots(boot: FileSystem) -> set[str]:
    text = boot.head("/cmdline.txt", _LINE).decode(errors="replace") if boot.find("/cmdline.txt") else ""
    return {word.removeprefix("root=").lower() for word in text.split() if word.startswith("root=")}


def _fstab_boots(root: FileSystem) -> set[str]:
    """Return what the root's fstab mounts where the firmware's files belong."""
    text = root.head("/etc/fstab", _LINE).decode(errors="replace") if root.find("/etc/fstab") else ""
    rows = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    return {row[0].replace('"', "").lower() for row in rows if row[1:2] in (["/boot"], ["/boot/firmware"])}

"""Write the boot partition's FAT into an image with mkfs.vfat and mtools: no mount, the same bits every time."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.console import size as readable
from builder.errors import HostError, InputError, Problem
from builder.host.confine import resolve_in
from builder.image.partitions import MIB, SECTOR
from builder.run import find_tool, run

_FAT32_FROM = 64 * MIB  # below, FAT32's minimum of 65,525 clusters does not fit
_MIN_CLUSTERS = {16: 4085, 32: 65525}  # Microsoft's FAT specification: fewer is FAT12, or FAT16
_MAX_CLUSTERS = {16: 65524, 32: 0x0FFFFFF5}
_DOS_BEGINS = 315532800  # 1980-01-01, the first time a FAT can hold
_ARGUMENTS = 200  # files one mcopy is given
_BIGGEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fat:
    """A FAT file system to write: `offset` and `size` in bytes within the image, `volume_id` of 32 bits."""

    offset: int
    size: int
    label: str
    volume_id: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Geometry:
    """`bits` of a FAT entry, `cluster` in bytes, and how many clusters hold content."""

    bits: int
    cluster: int
    clusters: int


def write_fat(
    image: Path, fat: Fat, source: Path, *, scratch: Path, root: Path | None = None, override: Mapping[str, bytes] = {}
) -> None:
    """Write the content of `source` into the image, where there must be nothing but zeros.

    A FAT has no symbolic links: the content of a link's target is written, looked up within `root` (the tree of which
    `source` is the boot directory; by default `source`). `override` has content for some relative paths instead of the
    tree's. `scratch` is a directory for a copy; the copy is removed. Modification times after the epoch become the
    epoch. Raises InputError when the content does not fit or two names differ in case only, CommandError when a tool
    fails.
    """
    stage = scratch / "fat"
    try:
        _stage(stage, source, root=root or source, override=override)
        _check_names(stage)
        _check_fits(stage, fat)
        _clamp_times(stage, fat.epoch)
        _mkfs(image, fat)
        _copy(stage, image, fat)
    finally:
        if stage.exists():
            shutil.rmtree(stage)


def _stage(stage: Path, source: Path, *, root: Path, override: Mapping[str, bytes]) -> None:
    stage.mkdir()
    if source.exists():
        _stage_directory(source, stage, root, frozenset())
    for path, content in override.items():
        target = stage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _stage_directory(source: Path, stage: Path, root: Path, above: frozenset[Path]) -> None:
    """Copy files and directories, links as what they lead to; a link to a directory above itself is an error."""
    if source in above:
        raise InputError(
            Problem(message=f"{source}: a symbolic link leads to a directory above it", hint="remove the link")
        )
    for child in sorted(source.iterdir(), key=os.fsencode):
        real = resolve_in(root, PurePosixPath("/", child.relative_to(root))) if child.is_symlink() else child
        copy = stage / child.name
        if real.is_dir():
            copy.mkdir()
            _stage_directory(real, copy, root, above | {source})
            os.utime(copy, (0, real.stat().st_mtime))
        elif real.is_file():
            shutil.copyfile(real, copy)
            os.utime(copy, (0, real.stat().st_mtime))
        else:
            what = "a symbolic link that leads nowhere" if child.is_symlink() else "neither file nor directory"
            raise InputError(
                Problem(message=f"{child}: {what}, which a FAT cannot hold", hint="remove it from the boot partition")
            )


def _check_names(stage: Path) -> None:
    for directory, directories, files in os.walk(stage):
        seen: dict[str, str] = {}
        for name in sorted([*directories, *files]):
            if (other := seen.setdefault(name.casefold(), name)) != name:
                at = Path(directory).relative_to(stage)
                problem = f"boot partition: {at / other} and {at / name} are one name on a FAT"
                raise InputError(Problem(message=problem, hint="rename one of them"))


def _check_fits(stage: Path, fat: Fat) -> None:
    geometry = _geometry(fat)
    sizes: list[tuple[int, str]] = []
    clusters = 0
    for directory, directories, files in os.walk(stage):
        entries = sum(2 + len(name.encode("utf-16-le", "surrogatepass")) // 26 for name in (*directories, *files))
        clusters += 1 + (entries + 2) * 32 // geometry.cluster
        for name in files:
            path = Path(directory) / name
            sizes.append((path.stat().st_size, str(path.relative_to(stage))))
            clusters += -(-sizes[-1][0] // geometry.cluster)
    if clusters <= geometry.clusters:
        return
    biggest = ", ".join(f"{name} ({readable(size)})" for size, name in sorted(sizes, reverse=True)[:_BIGGEST])
    needed = -(-(clusters * geometry.cluster + fat.size - geometry.clusters * geometry.cluster) // MIB)
    raise InputError(
        Problem(
            message=f"the boot partition of {fat.size // MIB} MiB is too small: its files need {needed} MiB; "
            f"the biggest: {biggest}",
            hint=f"set disk.boot.size to more than {needed}M, or leave files out",
        )
    )


def _clamp_times(stage: Path, epoch: int) -> None:
    for directory, directories, files in os.walk(stage):
        for name in (*directories, *files):
            path = Path(directory) / name
            time = max(min(int(path.stat().st_mtime), epoch), _DOS_BEGINS)
            os.utime(path, (time, time))


def _geometry(fat: Fat) -> _Geometry:
    """Return FAT32 from 64 MiB on, else FAT16, with the largest clusters up to 4 KiB that its cluster count allows."""
    bits = 32 if fat.size >= _FAT32_FROM else 16
    sectors = fat.size // SECTOR
    for per_cluster in (8, 4, 2, 1):
        clusters = _clusters(sectors, bits, per_cluster)
        if _MIN_CLUSTERS[bits] <= clusters <= _MAX_CLUSTERS[bits]:
            return _Geometry(bits=bits, cluster=per_cluster * SECTOR, clusters=clusters)
    raise InputError(
        Problem(message=f"no FAT has a size of {fat.size} bytes", hint="set disk.boot.size to 64M or more")
    )


def _clusters(sectors: int, bits: int, per_cluster: int) -> int:
    """Return a lower bound of the data clusters: without reserved sectors, root directory and two FATs."""
    table = -(-(sectors // per_cluster + 2) * bits // 8 // SECTOR) + per_cluster
    return (sectors - 64 - 2 * table) // per_cluster


def _mkfs(image: Path, fat: Fat) -> None:
    geometry = _geometry(fat)
    run(
        [
            *(find_tool("mkfs.vfat", package="dosfstools"), "--invariant", "-F", str(geometry.bits)),
            *("-s", str(geometry.cluster // SECTOR), "-S", str(SECTOR), "-i", f"{fat.volume_id:08x}", "-n", fat.label),
            *(f"--offset={fat.offset // SECTOR}", "-h", str(fat.offset // SECTOR), image, str(fat.size // 1024)),
        ],
        what="making the boot file system",
    )


def _copy(stage: Path, image: Path, fat: Fat) -> None:
    """Copy the staged files, a directory at a time, in the order of their names."""
    environment = {
        "SOURCE_DATE_EPOCH": str(max(fat.epoch, _DOS_BEGINS)),
        "MTOOLSRC": "/dev/null",
        "MTOOLS_SKIP_CHECK": "1",
    }
    at = f"{image}@@{fat.offset}"
    mcopy, mmd = find_tool("mcopy", package="mtools"), find_tool("mmd", package="mtools")
    for directory in _directories(stage):
        inside = f"::/{directory}" if directory else "::"
        if directory:
            run([mmd, "-i", at, inside], what="filling the boot file system", env=environment)
        files = sorted((path for path in (stage / directory).iterdir() if path.is_file()), key=os.fsencode)
        for some in _slices(files):
            run(
                [mcopy, "-Q", "-m", "-i", at, "--", *some, f"{inside}/"],
                what="filling the boot file system",
                env=environment,
            )


def _directories(stage: Path) -> list[str]:
    """Return the relative paths of the directories, parents first; the top is empty."""
    found = [path.relative_to(stage) for path in stage.rglob("*") if path.is_dir()]
    return ["", *(str(path) for path in sorted(found, key=lambda path: [os.fsencode(part) for part in path.parts]))]


def _slices(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for begin in range(0, len(files), _ARGUMENTS):
        yield files[begin : begin + _ARGUMENTS]


def used_end(image: Path, offset: int) -> int:
    """Return the first byte of the image after everything a FAT16 or FAT32 at `offset` uses: tables and clusters.

    Files written into a fresh FAT lie one behind the other. Raises HostError where there is no such file system.
    """
    with image.open("rb") as file:
        file.seek(offset)
        boot = file.read(SECTOR)
        sector, per_cluster, reserved, tables, roots = struct.unpack_from("<HBHBH", boot, 11)
        short, long = struct.unpack_from("<H", boot, 22)[0], struct.unpack_from("<I", boot, 36)[0]
        if boot[510:] != b"\x55\xaa" or sector != SECTOR or not per_cluster:
            raise HostError(f"{image}: no FAT at byte {offset}", hint="the image is not one that this program wrote")
        length = short or long
        file.seek(offset + reserved * sector)
        table = file.read(length * sector)
    entries = memoryview(table).cast("H") if short else memoryview(table).cast("I")
    last = max((number for number, entry in enumerate(entries) if entry), default=1)
    data = reserved + tables * length + roots * 32 // sector
    return offset + int(data + (last - 1) * per_cluster) * SECTOR

"""Reach the files of an image's two partitions with what this machine offers.

    kpartx  device-mapper nodes for the partitions, the root partition mounted read-only
    loop    mount -o loop,offset=,sizelimit=: no partition nodes at all
    files   no mount: the root partition's files are taken out with debugfs

The boot partition is always copied out with mtools: it is small, and the result is the same on kernels without vfat and
does not depend on mount options. Nothing outlives the process: mounts belong in the caller's private mount namespace,
`mount -o loop` makes loop devices that detach themselves (LO_FLAGS_AUTOCLEAR), device-mapper nodes are removed as soon
as they are mounted (the end of their last user is then their own), and what a kill between two of these steps leaves
is recorded under /run and removed by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from builder.console import note
from builder.errors import HostError, InputError, PibuildError, Problem
from builder.extract import extract_ext4, extract_fat
from builder.mounts import unmount
from builder.run import CommandError, find_tool, run

Method = Literal["auto", "kpartx", "loop", "files"]
METHODS: tuple[Method, ...] = get_args(Method)
_SECTOR = 512
_FAT_TYPES = frozenset({0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E})
_LINUX_TYPE = 0x83
_RECOVER = 0x4  # INCOMPAT_RECOVER of the ext4 superblock: the journal has not been replayed
_RECORDS = Path("/run/pibuild/kpartx")
_MISC = Path("/proc/misc")  # lists device-mapper where the kernel has it
_SETTLE = 5.0  # seconds the kernel may take to drop a mapping after its last user


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """An entry of the partition table. `number` counts from 1; `start` and `size` are bytes."""

    number: int
    kind: int
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The partitions that a Raspberry Pi boots from. `disk_id` is the MBR's, the front part of every PARTUUID."""

    disk_id: int
    boot: Partition
    root: Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """An image's files.

    `boot` is a copy of the FAT's content; `root` is the mounted root partition, or when `mounted` is false a copy of
    what it holds, which may be moved away.
    """

    layout: Layout
    boot: Path
    root: Path
    mounted: bool


def read_layout(image: Path) -> Layout:
    """Return the first FAT and the first Linux partition of an image's MBR. Raises InputError for any other layout."""
    with image.open("rb") as file:
        sector = file.read(_SECTOR)
    if len(sector) < _SECTOR or sector[510:512] != b"\x55\xaa":
        raise _no_layout(image, "it has no partition table")
    partitions = []
    for index in range(4):
        kind, start, count = struct.unpack_from("<4xB3xII", sector, 446 + 16 * index)
        if kind and count:
            partitions.append(Partition(number=index + 1, kind=kind, start=start * _SECTOR, size=count * _SECTOR))
    boot = next((partition for partition in partitions if partition.kind in _FAT_TYPES), None)
    root = next((partition for partition in partitions if partition.kind == _LINUX_TYPE), None)
    if boot is None or root is None:
        kinds = ", ".join(f"0x{partition.kind:02x}" for partition in partitions) or "none"
        raise _no_layout(image, f"it needs a FAT and a Linux partition in an MBR, and has partitions of types {kinds}")
    end = max(partition.start + partition.size for partition in (boot, root))
    if image.stat().st_size < end:
        raise _no_layout(image, f"it is cut short: {image.stat().st_size} of {end} bytes")
    return Layout(disk_id=struct.unpack_from("<I", sector, 440)[0], boot=boot, root=root)


def _no_layout(image: Path, why: str) -> InputError:
    hint = "a base image is a whole SD card image for Raspberry Pi, no root file system and no installer"
    return InputError(Problem(message=f"{image}: {why}", hint=hint))


def _check_clean(image: Path, root: Partition) -> None:
    with image.open("rb") as file:
        file.seek(root.start + 1024)
        superblock = file.read(1024)
    if superblock[0x38:0x3A] != b"\x53\xef":
        raise _no_layout(image, f"partition {root.number} holds no ext4 file system")
    if struct.unpack_from("<I", superblock, 0x60)[0] & _RECOVER:
        hint = (
            f"on a copy of the image: `losetup -o {root.start} --show -f COPY`, then `e2fsck -fy` on what that prints"
        )
        raise InputError(Problem(message=f"{image}: the root partition was not unmounted cleanly", hint=hint))


@contextlib.contextmanager
def attached(image: Path, method: Method, scratch: Path) -> Iterator[Attached]:
    """Give the files of an image for the time of the block. Needs root, and for mounts a private mount namespace.

    `scratch` is an empty directory on the file system the files will end up on. Raises InputError when the image does
    not have the layout of a Raspberry Pi's, HostError when this machine does not offer the method.
    """
    image = image.resolve()
    layout = read_layout(image)
    _check_clean(image, layout.root)
    boot, root = scratch / "boot", scratch / "root"
    boot.mkdir()
    root.mkdir()
    extract_fat(image, layout.boot.start, boot)
    with contextlib.ExitStack() as stack:
        mounted = _attach_root(stack, image, layout.root, root, method)
        if not mounted:
            extract_ext4(image, layout.root.start, root, scratch=scratch)
        yield Attached(layout=layout, boot=boot, root=root, mounted=mounted)


def _attach_root(stack: contextlib.ExitStack, image: Path, root: Partition, at: Path, method: Method) -> bool:
    """Mount the root partition by the first way that works. Returns False when its files have to be taken out."""
    for way in _ways(method):
        mounting = _kpartx(image, root, at) if way == "kpartx" else _loop(image, root, at)
        try:
            stack.enter_context(mounting)
        except (HostError, CommandError) as error:
            if method != "auto":
                raise
            note(f"{image.name}: attaching by {way} does not work here ({error.message.splitlines()[0]})")
        else:
            return True
    return False


def _ways(method: Method) -> tuple[str, ...]:
    if method != "auto":
        return () if method == "files" else (method,)
    ways = []
    if not _kpartx_missing():
        ways.append("kpartx")
    if Path("/dev/loop-control").exists():
        ways.append("loop")
    return tuple(ways)


@contextlib.contextmanager
def _loop(image: Path, root: Partition, at: Path) -> Iterator[None]:
    """Mount through a loop device that begins and ends with the partition; mount(8) makes it detach itself."""
    options = f"loop,ro,nodev,offset={root.start},sizelimit={root.size}"
    _mount(image, at, options)
    try:
        yield
    finally:
        unmount(at)


def _mount(source: Path, at: Path, options: str) -> None:
    mount = find_tool("mount", package="mount")
    try:
        run([mount, "-t", "ext4", "-o", options, source, at], what="mounting the root partition")
    except CommandError as error:
        raise HostError(error.message, hint="use --attach files, which mounts nothing") from error


# -------------------------------------------------------------------------------------------------------------- kpartx


def _kpartx_missing() -> PibuildError | None:
    """Return why partition nodes cannot be made here, None when they can."""
    hint = "use --attach loop or --attach files, which need no partition nodes"
    try:
        find_tool("kpartx", package="kpartx")
        find_tool("dmsetup", package="dmsetup")
    except HostError as error:
        return error
    if " device-mapper" not in _MISC.read_text():
        run(["sh", "-c", "command -v modprobe >/dev/null && modprobe -q dm_mod"], check=False)
    if " device-mapper" not in _MISC.read_text():
        return HostError("kpartx: this kernel has no device-mapper", hint=hint)
    return None


@contextlib.contextmanager
def _kpartx(image: Path, root: Partition, at: Path) -> Iterator[None]:
    """Mount the partition's node, and have all nodes go away with the mount."""
    missing = _kpartx_missing()
    if missing is not None:
        raise missing
    with _recorded(image) as identity:
        try:
            said = run(
                [find_tool("kpartx", package="kpartx"), "-a", "-r", "-s", "-v", image], what="mapping partitions"
            )
            nodes = re.findall(r"^add map (\S+) ", said.stdout, flags=re.MULTILINE)
            node = next((name for name in nodes if name.endswith(f"p{root.number}")), None)
            if node is None:
                raise HostError(f"kpartx made no node for partition {root.number} of {image}", hint="use --attach loop")
            _mount(Path("/dev/mapper") / node, at, "ro,nodev")
            try:
                for name in nodes:
                    run(["dmsetup", "remove", "--deferred", name])
                for loop in _loops_of(identity):
                    run(["losetup", "--detach", Path("/dev") / loop])  # in use: it detaches itself after that
                yield
            finally:
                unmount(at)
                _wait_unmapped(identity)
        finally:
            _unmap(identity)


def _identity(image: Path) -> str:
    """Return a file's inode and device as losetup writes them: its path is lost with its mount namespace."""
    status = image.stat()
    return f"{status.st_ino} {os.major(status.st_dev)}:{os.minor(status.st_dev)}"


def _loops_of(identity: str) -> list[str]:
    """Return the loop devices on the file with an `_identity`, deleted or not: `loop0`, …."""
    listed = run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"]).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [Path(row[0]).name for row in rows if row[1:] == identity.split()]


def _wait_unmapped(identity: str) -> None:
    end = time.monotonic() + _SETTLE
    while _loops_of(identity) and time.monotonic() < end:
        time.sleep(0.02)


def _unmap(identity: str) -> None:
    """Remove every partition node and loop device of an image that is still there."""
    for loop in _loops_of(identity):
        for name in sorted((Path("/sys/block") / loop / "holders").glob("*/dm/name")):
            run(["dmsetup", "remove", "--retry", name.read_text().strip()])
        if loop in _loops_of(identity):
            run(["losetup", "--detach", Path("/dev") / loop])
    if not Path("/run/udev/control").exists():
        run(["dmsetup", "mknodes"])  # without udev, nodes outlive deferred removal


@contextlib.contextmanager
def _recorded(image: Path) -> Iterator[str]:
    """Keep a locked note of the image being mapped, and give its identity; first undo what dead processes had noted."""
    _RECORDS.mkdir(parents=True, exist_ok=True)
    for record in _RECORDS.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), record.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unmap(file.read())
            record.unlink(missing_ok=True)
    identity = _identity(image)
    record = _RECORDS / f"{os.getpid()}-{time.monotonic_ns()}"
    unlocked = record.with_name(f".{record.name}")
    with unlocked.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(identity)
        file.flush()
        unlocked.rename(record)
        try:
            yield identity
        finally:
            record.unlink(missing_ok=True)

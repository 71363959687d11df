"""Reach the files of an image's two partitions with what this machine offers.

    kpartx  device-mapper nodes for the partitions, the root partition mounted read-only
    loop    a loop device that begins and ends with the root partition: no partition nodes at all
    files   no mount: the root partition's files are read and written one by one

The boot partition is always copied out with mtools: it is small, and the result is the same on kernels without vfat and
does not depend on mount options. Nothing outlives the process: mounts belong in the caller's private mount namespace,
loop devices are detached and device-mapper nodes removed as soon as they are mounted (the end of their last user is
then their own), and what a kill between two of these steps leaves is recorded under /run and removed by the next run,
whatever its method. Other loop devices of the same image, a person's or another run's, are no obstacle and stay.

kpartx and dmsetup do without udev (DM_DISABLE_UDEV, libdevmapper): they would wait, without limit, on a semaphore that
udevd raises in the machine's IPC namespace, while this process has one of its own. libdevmapper makes the nodes itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.console import note, warn
from builder.errors import HostError, InputError, PibuildError, Problem
from builder.host.mounts import unmount
from builder.image.ext4_read import opened_ext4
from builder.image.extract import extract_ext4, extract_fat
from builder.image.open import open_image
from builder.image.partitions import Layout, Partition
from builder.run import CommandError, find_tool, run

Method = Literal["auto", "kpartx", "loop", "files"]
# What the superblock says of errors (stop the machine) and of its journal (any device) is not followed.
_SAFE = "ro,nodev,nosuid,noload,errors=continue"
_NOT_OFFERED = ("permission denied", "not permitted", "unknown filesystem type")  # of mount(8)
_RECORDS = Path("/run/pibuild/loops")
_MISC = Path("/proc/misc")  # lists device-mapper where the kernel has it
_WITHOUT_UDEV = {"DM_DISABLE_UDEV": "1"}
_LIMIT = 60.0  # seconds for a command that attaches: a Pi with a busy SD card is slow
_TIDY = 3.0  # seconds for a command that detaches: a signal ends the whole within ten
_SETTLE = 3.0  # seconds the kernel may take to drop a mapping after its last user
_TRIES = 10  # for a free loop device that somebody else takes first


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
    """Return what an image's boot and root partition are, as `open_image` says. Raises InputError for others."""
    with open_image(image) as opened:
        if opened.table.kind != "msdos" or opened.boot_partition is None:
            found = ", ".join(f"{each.number}: {each.filesystem or 'unknown'}" for each in opened.partitions)
            what = f"it needs a FAT and an ext4 file system in an MBR, and has {found} in a table '{opened.table.kind}'"
            raise _no_layout(image, what)
        if opened.root.dirty:
            start = opened.root_partition.start
            hint = f"on a copy of the image: `losetup -o {start} --show -f COPY`, then `e2fsck -fy` on what that prints"
            raise InputError(Problem(message=f"{image}: the root partition was not unmounted cleanly", hint=hint))
        return Layout(table=opened.table, boot=opened.boot_partition, root=opened.root_partition)


def _no_layout(image: Path, why: str) -> InputError:
    hint = "a base image is a whole SD card image for Raspberry Pi, no root file system and no installer"
    return InputError(Problem(message=f"{image}: {why}", hint=hint))


@contextlib.contextmanager
def attached(image: Path, method: Method, scratch: Path) -> Iterator[Attached]:
    """Give the files of an image for the time of the block. Needs root, and for mounts a private mount namespace.

    `scratch` is an empty directory on the file system the files will end up on. Raises InputError when the image does
    not have the layout of a Raspberry Pi's, HostError when this machine does not offer the method.
    """
    image = image.resolve()
    layout = read_layout(image)
    boot, root = scratch / "boot", scratch / "root"
    boot.mkdir()
    root.mkdir()
    extract_fat(image, layout.boot.start, boot)
    _sweep()
    with contextlib.ExitStack() as stack:
        with opened_ext4(image, layout.root.start, f"{image} partition {layout.root.number}") as system:
            for _ in system.walk():  # every name is checked before the kernel or anything else meets it
                pass
            mounted = _attach_root(stack, image, layout.root, root, method)
            if not mounted:
                extract_ext4(system, root)
        yield Attached(layout=layout, boot=boot, root=root, mounted=mounted)


def _attach_root(stack: contextlib.ExitStack, image: Path, root: Partition, at: Path, method: Method) -> bool:
    """Mount the root partition by the first way this machine offers. Returns False when there is none.

    An image that is refused stays refused: it must not choose the way in which it is read.
    """
    for way in _ways(method):
        try:
            stack.enter_context(_mounted(image, root, at, kpartx=way == "kpartx"))
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
def _mounted(image: Path, root: Partition, at: Path, *, kpartx: bool) -> Iterator[None]:
    """Mount the root partition by a loop device; the device and its nodes go away with the mount."""
    missing = _kpartx_missing() if kpartx else None
    if missing is not None:
        raise missing
    with _recorded(image) as record:
        try:
            loop = _take_loop(image, None if kpartx else root, record)
            try:
                source = _map(loop, root) if kpartx else loop
                _mount(source, at)
                try:
                    _let_go(loop)
                    yield
                finally:
                    unmount(at)
            finally:
                _wait_until_free(record)
        finally:
            _clear(record)


def _mount(source: Path, at: Path) -> None:
    mount = find_tool("mount", package="mount")
    try:
        run([mount, "-t", "ext4", "-o", _SAFE, source, at], what="mounting the root partition", timeout=_LIMIT)
    except CommandError as error:
        if any(words in error.completed.stderr for words in _NOT_OFFERED):
            raise HostError(error.message, hint="use --attach files, which mounts nothing") from error
        hint = "look at it with `e2fsck -fn`; --attach files reads it without the kernel's help"
        raise InputError(Problem(message=f"the kernel refuses the image: {error.message}", hint=hint)) from error


def _take_loop(image: Path, part: Partition | None, record: _Record) -> Path:
    """Put the image, or a part of it, on a free loop device; the record names it before it is taken."""
    losetup = find_tool("losetup", package="mount")
    span: list[str | Path] = ["--offset", str(part.start), "--sizelimit", str(part.size)] if part else []
    tries_left = _TRIES
    while True:
        tries_left -= 1
        loop = run([losetup, "--find"], what="finding a free loop device", timeout=_LIMIT).stdout.strip()
        record.name(Path(loop).name)
        argv: list[str | Path] = [losetup, "--read-only", *span, loop, image]
        done = run(argv, what="attaching the image", timeout=_LIMIT, check=not tries_left)
        if done.returncode == 0:
            return Path(loop)
        time.sleep(0.05)


def _let_go(loop: Path) -> None:
    """Have a mounted loop device and the nodes on it go away with their last user."""
    for node in _nodes_of(loop.name):
        try:
            _dmsetup("remove", "--deferred", node)
        except CommandError:
            if node in _nodes_of(loop.name):
                raise
    run(["losetup", "--detach", loop], timeout=_TIDY)


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
        load = "command -v modprobe >/dev/null && modprobe -q dm_mod"
        run(["sh", "-c", load], check=False, timeout=_LIMIT)
    if " device-mapper" not in _MISC.read_text():
        return HostError("kpartx: this kernel has no device-mapper", hint=hint)
    return None


def _map(loop: Path, root: Partition) -> Path:
    """Make the partitions' nodes; return the root partition's."""
    kpartx = find_tool("kpartx", package="kpartx")
    argv: list[str | Path] = [kpartx, "-a", "-r", "-s", "-v", loop]
    said = run(argv, what="mapping partitions", env=_WITHOUT_UDEV, timeout=_LIMIT)
    nodes: list[str] = re.findall(r"^add map (\S+) ", said.stdout, flags=re.MULTILINE)
    node = next((name for name in nodes if name.endswith(f"p{root.number}")), None)
    if node is None:
        raise HostError(f"kpartx made no node for partition {root.number} on {loop}", hint="use --attach loop")
    _dmsetup("mknodes", node)
    return Path("/dev/mapper") / node


def _dmsetup(*words: str) -> str:
    return run([find_tool("dmsetup", package="dmsetup"), *words], env=_WITHOUT_UDEV, timeout=_TIDY).stdout


def _may_have_nodes() -> bool:
    """Return whether there can be device-mapper nodes here; nothing is loaded to find out."""
    return " device-mapper" in _MISC.read_text() and _kpartx_missing() is None


def _nodes_of(loop: str) -> list[str]:
    """Return the device-mapper nodes that kpartx made of a loop device.

    By their names: one that was killed before it got its table holds nothing, and is not in /sys at all.
    """
    listed = _dmsetup("ls") if _may_have_nodes() else ""
    return sorted(re.findall(rf"^({loop}p\d+)\t", listed, flags=re.MULTILINE))


# ------------------------------------------------------------------------------------------------------- what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A note of the loop device that a process uses for a file, locked while the process lives."""

    path: Path
    identity: str

    def name(self, loop: str) -> None:
        """Say which device it will be; in place, as the lock is on the file."""
        self.path.write_text(f"{loop} {self.identity}")


def _identity(image: Path) -> str:
    """Return a file's inode and device as losetup writes them: its path is lost with its mount namespace."""
    status = image.stat()
    return f"{status.st_ino} {os.major(status.st_dev)}:{os.minor(status.st_dev)}"


def _loops_of(identity: str) -> list[str]:
    """Return the loop devices on the file with an `_identity`, deleted or not: `loop0`, …."""
    argv = ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"]
    rows = [line.split() for line in run(argv, timeout=_TIDY).stdout.splitlines()]
    return [Path(row[0]).name for row in rows if row[1:] == identity.split()]


def _held(record: str) -> str | None:
    """Return the loop device that a record's text names, None where it is free or somebody else's by now."""
    loop, _, identity = record.partition(" ")
    return loop if loop in _loops_of(identity) else None


def _wait_until_free(record: _Record) -> None:
    end = time.monotonic() + _SETTLE
    while _held(record.path.read_text()) and time.monotonic() < end:
        time.sleep(0.02)


def _clear(record: _Record) -> None:
    """Take away what is still there, then the record: one that stays is the next run's to clear."""
    _free(record.path.read_text())
    record.path.unlink(missing_ok=True)


def _free(record: str) -> None:
    """Detach a record's loop device, and remove the nodes on it: now, or with their last user."""
    loop = _held(record)
    if loop is not None:
        _let_go(Path("/dev") / loop)
    if _may_have_nodes():
        _dmsetup("mknodes")  # the kernel's deferred removal leaves the files in /dev/mapper


def _sweep() -> None:
    """Undo what dead processes had noted. What cannot be undone is said, and is in nobody's way."""
    living, dead = set(), []
    for path in _RECORDS.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                living.add(file.read().partition(" ")[0])
            else:
                dead.append((path, file.read()))
    for path, record in dead:
        if record.partition(" ")[0] not in living:
            try:
                _free(record)
            except PibuildError as error:
                warn(f"a loop device that a killed run left stays: {error.message}")
                continue
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _recorded(image: Path) -> Iterator[_Record]:
    """Give a record that names no device yet, locked until the block is left."""
    _RECORDS.mkdir(parents=True, exist_ok=True)
    identity = _identity(image)
    path = _RECORDS / f"{os.getpid()}-{time.monotonic_ns()}"
    unlocked = path.with_name(f".{path.name}")
    with unlocked.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        unlocked.rename(path)
        yield _Record(path=path, identity=identity)

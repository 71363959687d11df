"""Trees with everything that an image has to carry, and copies of them that differ in all that must not matter."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.host import tree
from builder.run import run

EPOCH = 1_700_000_000
CAP_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # linux/capability.h: struct vfs_cap_data, revision 2
ACL = struct.pack(  # linux/posix_acl_xattr.h: version 2; user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    "<I" + "HHI" * 5, 2, 1, 6, 0xFFFFFFFF, 2, 4, 1000, 4, 4, 0xFFFFFFFF, 16, 4, 0xFFFFFFFF, 32, 0, 0xFFFFFFFF
)
AWKWARD = (
    "with space", 'quo"te', '""', "tab\there", "system-systemd\\x2dcryptsetup.slice", "#comment", "<12>", "-f", "*",
    "ünïcode", os.fsdecode(b"latin\xe9"), "'single'", "n" * 255, "a;b", "$HOME", "~", "?", "%s", " ",
)  # fmt: skip


def make_tree(root: Path) -> Path:
    """Fill `root`: owners, modes, links, xattrs, capabilities, ACLs, devices, sparse files, awkward names, a boot."""
    for name in (
        "boot/firmware/overlays",
        "etc",
        "usr/bin",
        "var/lib/dpkg",
        "var/empty",
        "dev",
        "names",
        "many",
        "tmp",
    ):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    _make_files(root)
    _make_special(root)
    for number, name in enumerate(AWKWARD):
        (root / "names" / name).write_text(f"{number}\n")
        (root / "names" / f"{number}.link").symlink_to(name)
    (root / "names" / 'dir "x" y').mkdir()
    (root / "names" / 'dir "x" y' / "in it").write_text("deep")
    for number in range(400):
        (root / "many" / f"file-{number:05}").write_bytes(b"x" * (number % 7))
    _make_boot(root)
    for number, entry in enumerate(tree.walk(root)):
        time = EPOCH - 5000 + number  # some lie after the epoch
        os.utime(root / entry.path, (time, time), follow_symlinks=False)
    return root


def _make_files(root: Path) -> None:
    (root / "etc/fstab").write_text("# what is mounted\nPARTUUID=00000000-02 / ext4 defaults,noatime 0 1\n")
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    (root / "var/lib/dpkg/status").write_text(
        "Package: bash\nStatus: install ok installed\nVersion: 5.2.37-2+b1\nArchitecture: arm64\n"
    )
    sudo = root / "usr/bin/sudo"
    sudo.write_bytes(random.Random(1).randbytes(300_000))  # noqa: S311 - noise, the same each time
    os.chown(sudo, 0, 1234)
    sudo.chmod(0o4755)
    for link in ("usr/bin/sudoedit", "etc/zz", "a-first"):
        os.link(sudo, root / link)
    ping = root / "usr/bin/ping"
    ping.write_bytes(b"\x7fELF")
    os.setxattr(ping, "security.capability", CAP_NET_RAW)
    shared = root / "etc/shared"
    shared.write_text("acl")
    shared.chmod(0o640)
    os.setxattr(shared, "system.posix_acl_access", ACL)
    os.setxattr(shared, "user.comment", b"two words\0binary\xff")
    os.setxattr(shared, "user.a", b"1")
    os.setxattr(root / "etc", "user.long", b"v" * 2000)
    os.setxattr(root / "etc", "trusted.note", b"t")
    os.chown(root / "var/empty", 70_000, 4_000_000_000)
    with (root / "var/sparse").open("wb") as file:
        file.write(b"head")
        file.seek(20 << 20)
        file.write(b"middle" + bytes(9000) + b"x")
        file.truncate(300 << 20)
    (root / "var/zeros").write_bytes(bytes(3 << 20))
    (root / "var/nothing").touch()


def _make_special(root: Path) -> None:
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "dev/big", 0o60640, os.makedev(259, 300))
    os.mkfifo(root / "dev/fifo", 0o640)
    os.link(root / "dev/fifo", root / "dev/fifo2")
    (root / "dev/fd").symlink_to("/proc/self/fd")
    (root / "dev/long").symlink_to("x/" * 500 + "y")
    os.link(root / "dev/long", root / "dev/long2", follow_symlinks=False)
    os.lchown(root / "dev/fd", 5, 6)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "dev/log"))


def _make_boot(root: Path) -> None:
    boot = root / "boot/firmware"
    (boot / "cmdline.txt").write_text("console=tty1 root=/dev/mmcblk0p2 quiet\n")
    (boot / "config.txt").write_text("arm_64bit=1\nkernel=vmlinuz\n")
    (boot / "vmlinuz").write_bytes(random.Random(2).randbytes(2 << 20))  # noqa: S311 - noise, the same each time
    (boot / "overlays/disable-wifi.dtbo").write_bytes(bytes(5000))
    (boot / "overlays/README.long.name.txt").write_text("overlays")
    (boot / "vmlinuz.old").symlink_to("/boot/firmware/vmlinuz")


def copy_shuffled(source: Path, to: Path) -> Path:
    """Copy a tree so that directories list names in another order, holes are filled and all other times differ."""
    to.mkdir(exist_ok=True)
    entries = list(tree.walk(source))
    shuffled = random.sample(entries, len(entries))
    for entry in shuffled:
        if entry.kind == "directory":
            (to / entry.path).mkdir(parents=True, exist_ok=True)
    for entry in shuffled:
        if entry.kind != "directory" and entry.link in ("", entry.path):
            _copy_one(source / entry.path, to / entry.path, entry)
    for entry in shuffled:
        if entry.link not in ("", entry.path):
            os.link(to / entry.link, to / entry.path, follow_symlinks=False)
    for entry in reversed(entries):
        if entry.kind == "directory":
            os.chown(to / entry.path, entry.uid, entry.gid)
            shutil.copystat(source / entry.path, to / entry.path)
    return to


def _copy_one(source: Path, to: Path, entry: tree.Entry) -> None:
    if entry.kind != "file":
        run(["cp", "-a", "--", source, to])
        return
    shutil.copyfile(source, to)
    os.chown(to, entry.uid, entry.gid)
    shutil.copystat(source, to)


@contextmanager
def in_memory() -> Iterator[Path]:
    """Give a directory on a tmpfs: directories list their names backwards there, and there is no extent to be seen."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@contextmanager
def mounted(image: Path, offset: int, at: Path) -> Iterator[Path]:
    """Mount a file system of an image, for the kernel's opinion of it."""
    at.mkdir()
    run(["mount", "-t", "ext4", "-o", f"loop,ro,noload,offset={offset}", image, at])
    try:
        yield at
    finally:
        run(["umount", at])

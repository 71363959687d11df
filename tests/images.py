"""Tiny images in the layouts of Ubuntu, Raspberry Pi OS and this project, made without root; kernels are stand-ins."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.firmware.boards import BOARDS
from builder.run import run

MIB = 1 << 20
VERSION = "6.12.48+deb13-arm64"
DISK_ID = "deadbeef"
WAYS = [way for board in BOARDS.values() for way in board.ways.values()]
DTB = b"\xd0\x0d\xfe\xed" + bytes(60) + b"".join(f"{name}\0".encode() for way in WAYS for name in way.devices)
# a kernel that has everything built in
BUILTIN = "".join(
    f"kernel/{name}.ko\n" for name in ["ext4", *(name for way in WAYS for each in way.drivers for name in each.modules)]
).encode()


_MADE: dict[str, bytes] = {}  # file systems made already, compressed: most tests change one of the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symlink in the root file system."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What an image is made of: contents by path, `modes` of files, `debugfs` commands run on the root at the end."""

    boot: Mapping[str, bytes]
    root: Mapping[str, bytes | Link]
    boot_label: str = "bootfs"
    root_label: str = "rootfs"
    modes: Mapping[str, int] = field(default_factory=dict)
    debugfs: tuple[str, ...] = ()
    boot_size: int = 4 * MIB
    root_size: int = 8 * MIB
    mke2fs: tuple[str, ...] = ()


def kernel(version: str = VERSION) -> bytes:
    """Return what looks like an arm64 Image to whoever reads its header and its banner."""
    head = bytearray(bytes(64))
    head[0:2] = b"MZ"
    head[0x38:0x3C] = b"ARM\x64"
    return bytes(head) + bytes(1000) + f"Linux version {version} (somebody@somewhere) (gcc)\n".encode() + bytes(1000)


def cpio(names: Mapping[str, bytes]) -> bytes:
    """Return a newc archive."""
    archive = bytearray()
    for number, (name, content) in enumerate([*names.items(), ("TRAILER!!!", b"")], start=1):
        numbers = (number, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + "".join(f"{each:08x}" for each in numbers).encode() + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def initramfs(version: str = VERSION) -> bytes:
    """Return an initramfs as Debian makes it: a plain archive, then a compressed one with /init and modules."""
    late = cpio({"init": b"#!/bin/sh\n", f"usr/lib/modules/{version}/modules.dep": b""})
    return cpio({"kernel": b"early"}) + gzip.compress(late, mtime=0)


def elf(machine: int = 183) -> bytes:
    """Return the beginning of a program for a machine; 183 is arm64."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(44)


PACKAGE = """Package: base-files
Status: install ok installed
Architecture: arm64
Installed-Size: 340
Version: 13.8
Description: a system

Package: openssh-server
Status: install ok installed
Architecture: arm64
Installed-Size: 1900
Source: openssh (1:10.0p1-7)
Version: 1:10.0p1-7+b1

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""

ROOT: dict[str, bytes | Link] = {
    "etc/os-release": Link(target="../usr/lib/os-release"),
    "usr/lib/os-release": b'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n',
    "etc/hostname": b"golden\n",
    "etc/machine-id": b"",
    "etc/fstab": f"PARTUUID={DISK_ID}-02 / ext4 defaults 0 1\n".encode()
    + f"PARTUUID={DISK_ID}-01 /boot/firmware vfat defaults 0 2\n".encode(),
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n"
    b"ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n",
    "etc/shadow": b"root:*:20000:0:99999:7:::\ndaemon:*:20000::::::\nubuntu:!:20000:0:99999:7:::\n",
    "home/ubuntu/.ssh/authorized_keys": b"# mine\nssh-ed25519 AAAA me\n",
    "etc/ssh/sshd_config": b"PasswordAuthentication no\n",
    "etc/systemd/system/multi-user.target.wants/ssh.service": Link(target="/usr/lib/systemd/system/ssh.service"),
    "etc/systemd/system/apt-daily.timer": Link(target="/dev/null"),
    "usr/lib/systemd/systemd": elf(),
    "usr/sbin/init": Link(target="../lib/systemd/systemd"),
    "sbin": Link(target="usr/sbin"),
    "lib": Link(target="usr/lib"),
    f"usr/lib/modules/{VERSION}/modules.dep": b"",
    f"usr/lib/modules/{VERSION}/modules.builtin": BUILTIN,
    "var/lib/dpkg/status": PACKAGE.encode(),
}

FIRMWARE = {
    "start4.elf": b"firmware",
    "fixup4.dat": b"fixup",
    "bcm2711-rpi-4-b.dtb": DTB,
    "bcm2712-rpi-5-b.dtb": DTB,
    "overlays/disable-bt.dtbo": DTB,
}

DEBIAN = Layout(
    boot={
        **FIRMWARE,
        "config.txt": b"[all]\nkernel=vmlinuz\ninitramfs initrd.img followkernel\ndtoverlay=disable-bt\n",
        "cmdline.txt": f"console=tty1 root=PARTUUID={DISK_ID}-02 rootfstype=ext4 rootwait\n".encode(),
        "vmlinuz": kernel(),
        "initrd.img": initramfs(),
    },
    root=ROOT,
    modes={"usr/lib/systemd/systemd": 0o755},
)

UBUNTU = Layout(
    boot={
        **FIRMWARE,
        "config.txt": b"[all]\narm_64bit=1\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\n",
        "cmdline.txt": b"console=tty1 multipath=off root=LABEL=writable rootfstype=ext4 rootwait fixrtc\n",
        "vmlinuz": gzip.compress(kernel(), mtime=0),
        "initrd.img": initramfs(),
        "user-data": b"#cloud-config\n",
    },
    root={
        **ROOT,
        "etc/fstab": b"LABEL=writable / ext4 defaults 0 1\nLABEL=system-boot /boot/firmware vfat defaults 0 1\n",
    },
    boot_label="system-boot",
    root_label="writable",
    modes=DEBIAN.modes,
)

RASPIOS = Layout(
    boot={
        **FIRMWARE,
        "config.txt": b"auto_initramfs=1\narm_64bit=1\n[pi5]\ndtparam=pciex1\n",
        "cmdline.txt": f"console=tty1 root=PARTUUID={DISK_ID}-02 rootfstype=ext4 rootwait quiet\n".encode(),
        "kernel8.img": kernel("6.12.25+rpt-rpi-v8"),
        "kernel_2712.img": kernel("6.12.25+rpt-rpi-2712"),
        "initramfs8": initramfs("6.12.25+rpt-rpi-v8"),
        "initramfs_2712": initramfs("6.12.25+rpt-rpi-2712"),
    },
    root={
        **ROOT,
        **{
            f"usr/lib/modules/6.12.25+rpt-rpi-{each}/{name}": content
            for each in ("v8", "2712")
            for name, content in (("modules.dep", b""), ("modules.builtin", BUILTIN))
        },
    },
    modes=DEBIAN.modes,
)


def make_image(at: Path, layout: Layout) -> Path:
    """Write an image file with an MBR, a FAT and an ext4 file system, and return its path."""
    work = at.with_suffix(".work")
    first, second = MIB, MIB + layout.boot_size
    with at.open("wb") as image:
        image.write(mbr([(0x0C, first, layout.boot_size), (0x83, second, layout.root_size)]))
        for start, make, place in ((first, make_fat, work / "boot"), (second, make_ext4, work / "root")):
            key = repr((make.__name__, _part(layout, make.__name__)))
            if key not in _MADE:
                _MADE[key] = zlib.compress(make(place, layout).read_bytes(), level=1)
            image.seek(start)
            image.write(zlib.decompress(_MADE[key]))
    return at


def _part(layout: Layout, maker: str) -> tuple[object, ...]:
    """Return what one of the two file systems depends on."""
    if maker == "make_fat":
        return (layout.boot, layout.boot_label, layout.boot_size)
    return (layout.root, layout.root_label, layout.root_size, layout.modes, layout.debugfs, layout.mke2fs)


def mbr(partitions: list[tuple[int, int, int]]) -> bytes:
    """Return a first sector with (type, start, size) in bytes."""
    table = b"".join(
        struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start // 512, size // 512)
        for kind, start, size in partitions
    )
    disk_id = struct.pack("<I", int(DISK_ID, 16))
    return bytes(440) + disk_id + bytes(2) + table.ljust(64, b"\0") + b"\x55\xaa"


def make_fat(work: Path, layout: Layout) -> Path:
    """Write the boot partition's file system."""
    tree = work / "tree"
    tree.mkdir(parents=True)
    for name, content in layout.boot.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    file = work / "fat"
    with file.open("wb") as empty:
        empty.truncate(layout.boot_size)
    run(["mkfs.vfat", "-n", layout.boot_label, "-i", "0BADF00D", file])
    run(["mcopy", "-s", "-m", "-i", file, *sorted(tree.iterdir()), "::"])
    return file


def make_ext4(work: Path, layout: Layout) -> Path:
    """Write the root partition's file system; all in it belongs to root."""
    tree = work / "tree"
    for name, content in layout.root.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)
            path.chmod(layout.modes.get(name, 0o644))
    file = work / "ext4"
    options = ("-q", "-t", "ext4", "-L", layout.root_label, "-E", "root_owner=0:0", *layout.mke2fs)
    run(["mke2fs", *options, "-d", tree, file, f"{layout.root_size // 1024}k"])
    if layout.debugfs:
        run(["debugfs", "-w", "-f", "-", file], input="\n".join(layout.debugfs).encode())
    return file

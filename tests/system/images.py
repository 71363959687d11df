"""Small images with the layouts of Ubuntu 24.04 Server for Pi and of Raspberry Pi OS, made from real arm64 packages.

Labels, command lines, fstabs and config.txt are those of the official images; the FAT is 64 MiB instead of 512 MiB, the
kernel and the firmware are stand-ins.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.run import run

PACKAGES = ("base-files", "coreutils", "dash", "iputils-ping", "libc6", "libcap2-bin")
MIB = 1 << 20
BOOT_SIZE, ROOT_SIZE = 64 * MIB, 96 * MIB
SPARSE_SIZE = 20 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What tells one distribution's images from another's. `start` is the first partition's, in bytes."""

    name: str
    start: int
    disk_id: int
    boot_label: str
    root_label: str
    identify: str
    fstab: str
    boot: Mapping[str, str]


UBUNTU = Style(
    name="ubuntu-24.04-preinstalled-server-arm64+raspi",
    start=1 * MIB,
    disk_id=0x2D0F1A9C,
    boot_label="system-boot",
    root_label="writable",
    identify="label",
    fstab="LABEL=writable\t/\text4\tdefaults\t0\t1\nLABEL=system-boot\t/boot/firmware\tvfat\tdefaults\t0\t1\n",
    boot={
        "cmdline.txt": "console=serial0,115200 multipath=off dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable "
        "rootfstype=ext4 rootwait fixrtc\n",
        "config.txt": "[all]\narm_64bit=1\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\n\n"
        "[pi4]\nmax_framebuffers=2\narm_boost=1\n",
        "vmlinuz": "a kernel\n",
        "initrd.img": "an initrd\n",
        "meta-data": "instance_id: cloud-image\n",
        "user-data": "#cloud-config\n",
        "network-config": "version: 2\n",
        "overlays/vc4-kms-v3d.dtbo": "an overlay\n",
        "bcm2711-rpi-4-b.dtb": "a tree\n",
    },
)
RASPIOS = Style(
    name="raspios-trixie-arm64-lite",
    start=8 * MIB,
    disk_id=0x0A1B2C3D,
    boot_label="bootfs",
    root_label="rootfs",
    identify="partuuid",
    fstab="proc            /proc           proc    defaults          0       0\n"
    "PARTUUID=0a1b2c3d-01  /boot/firmware  vfat    defaults          0       2\n"
    "PARTUUID=0a1b2c3d-02  /               ext4    defaults,noatime  0       1\n",
    boot={
        "cmdline.txt": "console=serial0,115200 console=tty1 root=PARTUUID=0a1b2c3d-02 rootfstype=ext4 fsck.repair=yes "
        "rootwait quiet\n",
        "config.txt": "dtparam=audio=on\nauto_initramfs=1\narm_64bit=1\n[cm4]\notg_mode=1\n[all]\n",
        "kernel8.img": "a kernel\n",
        "kernel_2712.img": "another kernel\n",
        "initramfs8": "an initramfs\n",
        "initramfs_2712": "another initramfs\n",
        "overlays/README": "about overlays\n",
    },
)


def download_packages(directory: Path) -> list[Path]:
    """Download arm64 packages with the sources of this machine, in an apt root that leaves the machine's own alone."""
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": directory,
        "Dir::State::Lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run([*apt, "update"])
    run([*apt, "download", *PACKAGES], cwd=directory / "packages")
    return sorted((directory / "packages").glob("*.deb"))


def make_tree(packages: list[Path], root: Path, style: Style) -> Path:
    """Unpack packages and add one of everything that is easily lost on the way."""
    root.mkdir(mode=0o755)
    for package in packages:
        run(["dpkg-deb", "--extract", package, root])
    (root / "boot" / "firmware").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "fstab").write_text(style.fstab)
    run(["setcap", "cap_net_raw+ep", next(path for path in root.rglob("ping") if path.is_file())])
    odd = root / "srv" / "odd"
    odd.mkdir(parents=True)
    (odd / "one name").write_text("linked\n")
    os.link(odd / "one name", odd / "zweiter näme")
    os.link(odd / "one name", root / "usr" / "third")
    os.chown(odd / "one name", 1234, 70_000)
    (odd / "attributes").write_text("x")
    os.setxattr(odd / "attributes", "user.short", b"v")
    os.setxattr(odd / "attributes", "user.binary", bytes(range(256)))
    os.setxattr(odd / "attributes", "trusted.thing", b"\0\1")
    os.setxattr(odd / "attributes", "system.posix_acl_access", _acl())
    os.setxattr(odd, "user.directory", b"yes")
    (odd / "setuid").write_text("#!/bin/sh\n")
    os.chown(odd / "setuid", 33, 42)
    (odd / "setuid").chmod(0o6755)
    (odd / "sticky").mkdir()
    (odd / "sticky").chmod(0o1777)
    (odd / "mode 0").write_text("")
    (odd / "mode 0").chmod(0)
    (odd / "'quoted\" $(name)").write_text("q")
    (odd / "dangling").symlink_to("/nowhere/at all")
    os.chown(odd / "dangling", 7, 8, follow_symlinks=False)
    (odd / "long link").symlink_to("/" + "very-long-target/" * 12)
    os.mkfifo(odd / "pipe")
    os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(odd / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    with (odd / "sparse").open("wb") as file:
        file.truncate(SPARSE_SIZE)
        file.seek(SPARSE_SIZE // 2)
        file.write(b"in the middle")
    os.utime(odd / "setuid", (1_000_000_000, 1_000_000_000))
    os.utime(odd, (1_234_567_890, 1_234_567_890))
    return root


def _acl() -> bytes:
    """An ACL as the kernel gives it: u::rw- u:1000:r-- g::r-- m::r-- o::--- (linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 4, 1000), (0x04, 4, nobody), (0x10, 4, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def make_image(tree: Path, image: Path, style: Style) -> Path:
    """Write an image of a style with the tree as its root partition."""
    root_start = style.start + BOOT_SIZE
    with image.open("wb") as file:
        file.truncate(root_start + ROOT_SIZE)
        file.seek(440)
        file.write(struct.pack("<I", style.disk_id))
        file.seek(446)
        for kind, start, size in ((0x0C, style.start, BOOT_SIZE), (0x83, root_start, ROOT_SIZE)):
            file.write(struct.pack("<4xB3xII", kind, start // 512, size // 512))
        file.seek(510)
        file.write(b"\x55\xaa")
    fat = ["mkfs.vfat", "-F", "32", "-s", "1", "-n", style.boot_label, "--offset", str(style.start // 512)]
    run([*fat, image, str(BOOT_SIZE // 1024)])
    content = image.with_suffix(".boot")
    for name, text in style.boot.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text)
        os.utime(content / name, (1_700_000_000, 1_700_000_000))
    env = {"MTOOLSRC": "/dev/null"}
    run(["mcopy", "-s", "-m", "-Q", "-i", f"{image}@@{style.start}", *sorted(content.iterdir()), "::/"], env=env)
    ext4: list[str | Path] = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        style.root_label,
        "-d",
        tree,
        "-E",
        f"offset={root_start}",
    ]
    run([*ext4, image, f"{ROOT_SIZE // 1024}K"])
    for which in ("mtime", "mtime_extra"):  # mke2fs gives the root directory the time it is run at
        seconds = f"@{int(tree.stat().st_mtime)}" if which == "mtime" else "0"
        run(["debugfs", "-w", "-R", f"set_inode_field <2> {which} {seconds}", f"{image}?offset={root_start}"])
    return image


def pack(image: Path, suffix: str) -> Path:
    """Pack an image as its publisher would: xz, zst or gz; "" leaves it as it is."""
    packers = {"xz": ["xz", "-0", "-k"], "zst": ["zstd", "-q", "-1"], "gz": ["gzip", "-1", "-k"]}
    if not suffix:
        return image
    packed = image.with_name(f"{image.name}.{suffix}")
    packed.unlink(missing_ok=True)
    run([*packers[suffix], image])
    return packed


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything about everything below a root, by path. Times are whole seconds: mke2fs writes no finer."""
    paths = [root, *root.rglob("*")]
    names: dict[int, list[str]] = {}
    for path in paths:
        names.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(root)))
    found: dict[str, tuple[object, ...]] = {}
    for path in paths:
        status = path.lstat()
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (
            f"{status.st_mode:o}",
            (status.st_uid, status.st_gid),
            int(status.st_mtime),
            os.major(status.st_rdev),
            os.minor(status.st_rdev),
            content,
            tuple(sorted(xattrs.items())),
            tuple(sorted(names[status.st_ino])),
        )
    return found

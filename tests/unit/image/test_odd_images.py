"""Images of several systems, names in capitals, bombs: the right partition, the right names, or words."""

import bz2
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.firmware.names import name_for_firmware
from builder.image.attach import read_layout
from builder.image.open import open_image
from builder.netboot.generation import Generation
from tests.images import DEBIAN, DISK_ID, MIB, Layout, make_ext4, make_fat, mbr

DATA = replace(DEBIAN, root={"models/one": b"data"}, root_label="data", boot={"notes": b"x"}, boot_label="files")


def disk(at: Path, *parts: tuple[str, Layout]) -> Path:
    """Write an image of several partitions: `fat` or `ext4`, each of a layout."""
    table, content = [], []
    start = MIB
    for number, (kind, layout) in enumerate(parts):
        make, size = (make_fat, layout.boot_size) if kind == "fat" else (make_ext4, layout.root_size)
        table.append((0x0C if kind == "fat" else 0x83, start, size))
        content.append((start, make(at.parent / f"part{number}", layout).read_bytes()))
        start += size
    with at.open("wb") as file:
        file.write(mbr(table))
        for place, data in content:
            file.seek(place)
            file.write(data)
    return at


def second(layout: Layout, root: int, boot: int) -> Layout:
    """Return a system whose command line and fstab name other partitions."""
    fstab = (
        f"PARTUUID={DISK_ID}-{root:02} / ext4 defaults 0 1\nPARTUUID={DISK_ID}-{boot:02} /boot/firmware vfat x 0 2\n"
    )
    line = f"console=tty1 root=PARTUUID={DISK_ID}-{root:02} rootwait\n"
    return replace(
        layout,
        boot={**layout.boot, "cmdline.txt": line.encode()},
        root={**layout.root, "etc/fstab": fstab.encode()},
    )


@pytest.mark.tools
def test_partitions_of_data_are_no_system(tmp_path: Path) -> None:
    system = second(DEBIAN, 4, 3)
    image = disk(tmp_path / "a.img", ("fat", DATA), ("ext4", DATA), ("fat", system), ("ext4", system))
    layout = read_layout(image)
    assert (layout.boot.number, layout.root.number) == (3, 4)
    with open_image(image) as opened:
        assert opened.boot_partition == layout.boot
        assert opened.root_partition == layout.root


@pytest.mark.tools
def test_of_two_systems_the_command_line_and_fstab_decide(tmp_path: Path) -> None:
    first, other = second(DEBIAN, 3, 1), second(DEBIAN, 3, 2)
    image = disk(tmp_path / "a.img", ("fat", other), ("fat", other), ("ext4", other), ("ext4", first))
    layout = read_layout(image)
    assert (layout.boot.number, layout.root.number) == (2, 3)


@pytest.mark.tools
def test_two_systems_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    one, two = second(DEBIAN, 3, 1), second(DEBIAN, 4, 2)
    image = disk(tmp_path / "a.img", ("fat", one), ("fat", two), ("ext4", one), ("ext4", two))
    with pytest.raises(InputError, match=r"partitions 3, 4 could each be the root partition"):
        read_layout(image)
    with pytest.raises(InputError, match=r"partitions 3, 4 could each be the root partition"), open_image(image):
        pass


# ------------------------------------------------------------------------------------------------------------- names


def boot_of(at: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    return at


def test_names_are_as_the_firmware_asks_for_them(tmp_path: Path) -> None:
    config = "kernel=VmLinuz\ninitramfs INITRD.img followkernel\ndtoverlay=Disable-BT,x=1\n"
    names = ("CMDLINE.TXT", "START4.ELF", "FIXUP4.DAT", "BCM2711-RPI-4-B.DTB", "VMLINUZ", "initrd.img", "README")
    boot = boot_of(tmp_path / "boot", {"CONFIG.TXT": config, **dict.fromkeys(names, "x")})
    boot_of(boot, {"OVERLAYS/DISABLE-BT.DTBO": "x", "OVERLAYS/VC4.DTBO": "x", "OVERLAYS/README": "x"})
    name_for_firmware(boot)
    assert {str(path.relative_to(boot)) for path in boot.rglob("*") if path.is_file()} == {
        "config.txt", "cmdline.txt", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "VmLinuz", "INITRD.img",
        "README", "overlays/Disable-BT.dtbo", "overlays/vc4.dtbo", "overlays/README",
    }  # fmt: skip


def test_names_of_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which a FAT cannot"):
        name_for_firmware(boot_of(tmp_path / "boot", {"config.txt": "", "CONFIG.TXT": ""}))


# ------------------------------------------------------------------------------------------------------------- bombs


def test_packings_that_are_not_read_are_told_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.img.bz2").write_bytes(bz2.compress(bytes(1000)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.img", bytes(1000))
    for name, command in (("a.img.bz2", "bunzip2 --keep"), ("a.zip", "unzip")):
        with pytest.raises(InputError) as caught, open_image(tmp_path / name):
            pass
        assert f"`{command} {tmp_path / name}`" in caught.value.problems[0].hint


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_what_is_no_file_is_no_image(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"a named pipe|a character device"), open_image(tmp_path / name):
        pass


@pytest.mark.tools
@pytest.mark.parametrize(
    ("at", "value"), [(0x18, 0xFFFFFFFF), (0x28, 1), (0x04, 0xFFFFFFFF), (0x14, 0xFFFFFFF0), (0x58, 1)]
)
def test_absurd_superblocks(tmp_path: Path, at: int, value: int) -> None:
    image = disk(tmp_path / "a.img", ("fat", DEBIAN), ("ext4", DEBIAN))
    with image.open("r+b") as file:
        file.seek(5 * MIB + 1024 + at)
        file.write(struct.pack("<I", value))
    with pytest.raises(InputError), open_image(image) as opened:
        list(opened.root.walk())


def test_lines_of_passwd_that_name_nobody(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    lines = (
        "+::::::\nbad:x:one:2::/:/bin/sh\nhuge:x:" + "9" * 5000 + ":1::/:/bin/sh\nubuntu:x:1000:1000::/home/u:/bin/sh\n"
    )
    (tmp_path / "root/etc/passwd").write_text(lines)
    assert list(Generation(directory=tmp_path, sha256="", boot_mount="/boot", capabilities={}).users()) == ["ubuntu"]

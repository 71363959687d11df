"""What `pibuild inspect` says of an image is what was put into it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.image.open import open_image
from builder.verify.boot_chain import check_boot_chain
from builder.verify.finding import holds
from builder.verify.inspect import Inspection, User, inspect, render, rows, to_dict
from tests.images import DEBIAN, MIB, RASPIOS, VERSION, Layout, Link, make_image

pytestmark = pytest.mark.tools


def look(tmp_path: Path, layout: Layout) -> Inspection:
    with open_image(make_image(tmp_path / "a.img", layout)) as image:
        return inspect(image)


def test_system(tmp_path: Path) -> None:
    found = look(tmp_path, DEBIAN)
    assert found.os["PRETTY_NAME"] == "Debian GNU/Linux 13 (trixie)"
    assert (found.hostname, found.architecture, found.modules) == ("golden", "arm64", (VERSION,))
    assert [(each.file, each.version, each.format) for each in found.kernels] == [("vmlinuz", VERSION, "arm64")]
    assert [(package.name, package.version, package.source) for package in found.packages] == [
        ("base-files", "13.8", "base-files"),
        ("openssh-server", "1:10.0p1-7+b1", "openssh"),
    ]
    assert (found.units.enabled, found.units.masked) == (("ssh.service",), ("apt-daily.timer",))
    assert found.users == (
        User(name="root", uid=0, shell="/bin/bash", password="locked", keys=0),  # noqa: S604 - a field
        User(name="ubuntu", uid=1000, shell="/bin/bash", password="locked", keys=1),  # noqa: S604
    )


def test_boards(tmp_path: Path) -> None:
    pi4, pi5 = look(tmp_path, RASPIOS).boards
    assert (pi4.board, pi4.kernel, pi4.initramfs, pi4.dtb) == (
        "pi4",
        "kernel8.img",
        ("initramfs8",),
        "bcm2711-rpi-4-b.dtb",
    )
    assert pi4.firmware == ("start4.elf", "fixup4.dat")
    assert (pi5.board, pi5.kernel, pi5.initramfs, pi5.firmware) == (
        "pi5",
        "kernel_2712.img",
        ("initramfs_2712",),
        (),
    )
    assert "root=PARTUUID=deadbeef-02" in pi5.cmdline
    assert (pi4.stop, pi5.stop) == ("", "")


def test_sizes_count_hard_links_once(tmp_path: Path) -> None:
    layout = replace(
        DEBIAN,
        root={**DEBIAN.root, "opt/one/data": b"x" * MIB},
        debugfs=("ln opt/one/data opt/two", "sif /opt/one/data links_count 2"),
    )
    largest = dict(look(tmp_path, layout).largest)
    assert largest["/opt"] == MIB
    assert largest["/opt/one"] == MIB


def test_for_programs_and_for_people(tmp_path: Path) -> None:
    found = look(tmp_path, DEBIAN)
    again = json.loads(json.dumps(to_dict(found)))
    assert again["partitions"][1]["label"] == "rootfs"
    assert again["boards"][0]["kernel"] == "vmlinuz"
    table = dict(rows(found))
    assert table["system"] == "Debian GNU/Linux 13 (trixie)"
    assert table["units masked"] == "apt-daily.timer"
    assert table["partition 1"].startswith("vfat bootfs  ")
    assert any(line.startswith("hostname ") and line.endswith("  golden") for line in render(found))


def test_a_system_of_almost_nothing(tmp_path: Path) -> None:
    found = look(tmp_path, replace(DEBIAN, root={"etc/hosts": b""}, boot={"a": b""}))
    assert (found.packages, found.units.enabled, found.users, found.modules) == ((), (), (), ())
    assert found.architecture == "unknown"
    assert all(board.stop for board in found.boards)
    assert ("system", "unknown") in rows(found)


def test_numbers_that_an_image_makes_up_count_as_none(tmp_path: Path) -> None:
    """`root=` of a partition, a user's number, a package's size: of 5,000 digits, or digits of another script."""
    digits = b"9" * 5000
    made_up: dict[str, bytes | Link] = {
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\n"
        b"a:x:%s:1::/:/bin/sh\nb:x:\xc2\xb2:1::/:/bin/sh\n+::::::/bin/sh\n" % digits,
        "etc/fstab": b"/dev/mmcblk0p%s / ext4 defaults 0 1\n" % digits,
        "var/lib/dpkg/status": b"Package: x\nStatus: install ok installed\nVersion: 1\nInstalled-Size: %s\n" % digits,
    }
    boot = {**DEBIAN.boot, "cmdline.txt": b"root=/dev/mmcblk0p%s rootwait\n" % digits}
    with open_image(
        make_image(tmp_path / "a.img", replace(DEBIAN, root={**DEBIAN.root, **made_up}, boot=boot))
    ) as image:
        found = inspect(image)
        assert [(user.name, user.uid) for user in found.users] == [("root", 0), ("a", -1), ("b", -1), ("+", -1)]
        assert [(package.name, package.size) for package in found.packages] == [("x", 0)]
        assert not holds(check_boot_chain(image))

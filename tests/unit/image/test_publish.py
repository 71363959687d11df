"""The pure parts of publishing: what names the partitions, the block map's text, the bill of materials, identity."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image.bmap import Range, make_bmap
from builder.image.fat_write import Fat, write_fat
from builder.image.identify import boot_files, edit_fstab, set_root
from builder.image.partitions import MIB, DiskSpec, make_layout
from builder.image.publish import PublishRequest, disk_facts
from builder.image.spdx import Subject, make_sbom
from builder.run import run

LAYOUT = make_layout(DiskSpec(), disk_id=0xABC, root_size=MIB)


def test_every_command_line_is_rewritten(tmp_path: Path) -> None:
    boot = tmp_path / "boot/firmware"
    (boot / "current").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (boot / "cmdline.txt").write_text("root=LABEL=old rw\n")
    (boot / "current/cmdline.txt").write_text("quiet root=/dev/x rootfstype=btrfs rootwait -- root=mine")
    (boot / "rescue.txt").write_text("single")
    (boot / "config.txt").write_text("[all]\ncmdline=rescue.txt\n")
    files = boot_files(tmp_path, DiskSpec(), LAYOUT)
    assert files.boot == {
        "cmdline.txt": b"root=PARTUUID=00000abc-02 rw rootfstype=ext4 rootwait\n",
        "current/cmdline.txt": b"quiet root=PARTUUID=00000abc-02 rootfstype=ext4 rootwait -- root=mine\n",
        "rescue.txt": b"single root=PARTUUID=00000abc-02 rootfstype=ext4 rootwait\n",
    }
    assert files.root == {
        "etc/fstab": b"PARTUUID=00000abc-02 / ext4 defaults,noatime,errors=remount-ro 0 1\n"
        b"PARTUUID=00000abc-01 /boot/firmware vfat defaults 0 2\n"
    }


def test_a_tree_without_a_command_line_gets_one(tmp_path: Path) -> None:
    (tmp_path / "boot/firmware").mkdir(parents=True)
    files = boot_files(tmp_path, DiskSpec(identify="label"), LAYOUT)
    assert files.boot == {"cmdline.txt": b"root=LABEL=rootfs rootfstype=ext4 rootwait\n"}


def test_an_fstab_keeps_all_else() -> None:
    text = (
        "# / of all\n\nLABEL=a\t/\text4\tnoatime 0 1\n"
        "LABEL=b  /boot/firmware vfat ro 0 2\ntmpfs /tmp tmpfs size=1G 0 0\n"
    )
    edited = edit_fstab(text, {"/": "LABEL=x", "/boot/firmware": "LABEL=y"})
    assert edited == text.replace("LABEL=a", "LABEL=x").replace("LABEL=b", "LABEL=y")
    assert edit_fstab(edited, {"/": "LABEL=x", "/boot/firmware": "LABEL=y"}) == edited
    assert set_root(set_root("a", "LABEL=x"), "LABEL=x") == "a root=LABEL=x rootfstype=ext4 rootwait\n"


def test_a_partition_that_was_dropped_leaves_fstab_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base image with a data partition and swap: what is published has neither, and would wait for both."""
    kept = [
        "# mine",
        "tmpfs /tmp tmpfs size=1G 0 0",
        "LABEL=usb /media/usb ext4 nofail 0 2",
        "/swapfile none swap sw 0 0",
    ]
    dropped = [
        "PARTUUID=1-03 /data ext4 defaults 0 2",
        "UUID=5 none swap sw 0 0",
        "/dev/mmcblk0p4 /log ext4 noatime 0 2",
    ]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("\n".join([*kept, *dropped, "LABEL=r / ext4 noatime 0 1"]) + "\n")
    (tmp_path / "boot/firmware").mkdir(parents=True)
    spec = DiskSpec()
    edited = boot_files(tmp_path, spec, LAYOUT).root["etc/fstab"].decode().splitlines()
    assert [line for line in edited if line in [*kept, *dropped]] == kept
    said = capsys.readouterr().err
    assert all(line.split()[0] in said for line in dropped)
    assert said.count("is left out") == len(dropped)


def test_the_text_of_a_block_map(tmp_path: Path) -> None:
    image = tmp_path / "x.img"
    image.write_bytes(b"a" * 4096 + bytes(8192) + b"b" * 5000)
    text, digest = make_bmap(image, [Range(first=0, last=0), Range(first=3, last=4)])
    assert digest == hashlib.sha256(image.read_bytes()).hexdigest()
    assert make_bmap(image, [Range(first=1, last=1)])[1] == digest  # also of what no range has
    assert "<ImageSize> 17288 </ImageSize>" in text
    assert "<BlocksCount> 5 </BlocksCount>" in text
    assert "<MappedBlocksCount> 3 </MappedBlocksCount>" in text
    sums = re.findall(r'chksum="(\w+)"> ([\d-]+) <', text)
    assert sums == [(hashlib.sha256(b"a" * 4096).hexdigest(), "0"), (hashlib.sha256(b"b" * 5000).hexdigest(), "3-4")]
    own = re.search(r"<BmapFileChecksum> (\w+) <", text)
    assert own
    assert hashlib.sha256(text.replace(own[1], "0" * 64).encode()).hexdigest() == own[1]


def test_a_bill_of_materials(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: libstdc++6\nStatus: install ok installed\nVersion: 1:14.2.0-19+b1\nArchitecture: arm64\n"
        "Source: gcc-14 (14.2.0-19)\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    checksums = {("libstdc++6", "1:14.2.0-19+b1", "arm64"): "c" * 64}
    subject = Subject(name="golden", digest="d" * 64, epoch=1_700_000_000, checksums=checksums)
    text = make_sbom(tmp_path, subject)
    assert text == make_sbom(tmp_path, subject)
    bill = json.loads(text)
    assert bill["spdxVersion"] == "SPDX-2.3"
    assert bill["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    _, package = bill["packages"]
    assert re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", package["SPDXID"])
    assert package["sourceInfo"] == "built from: gcc-14 14.2.0-19"
    assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": "c" * 64}]
    located = package["externalRefs"][0]["referenceLocator"]
    assert located == "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1?arch=arm64&distro=debian-13"
    assert {each["relatedSpdxElement"] for each in bill["relationships"]} == {
        each["SPDXID"] for each in bill["packages"]
    }
    other = make_sbom(tmp_path, replace(subject, digest="e" * 64))
    assert json.loads(other)["documentNamespace"] != bill["documentNamespace"]


def test_everything_that_changes_the_result_changes_the_identity(tmp_path: Path) -> None:
    request = PublishRequest(
        name="n", tree=tmp_path, disk=DiskSpec(), key="k", tree_key="t", epoch=1, output=tmp_path, lock_text="l"
    )
    others = [
        replace(request, name="m"),
        replace(request, disk=DiskSpec(slack_percent=16)),
        replace(request, key="j"),
        replace(request, tree_key="u"),
        replace(request, epoch=2),
        replace(request, lock_text="m"),
        replace(request, compress=("xz",)),
    ]
    assert len({each.identity for each in (request, *others)}) == len(others) + 1
    assert replace(request, output=tmp_path / "x").identity == request.identity
    assert replace(request, tree_key="").identity == ""


@pytest.mark.tools
@pytest.mark.parametrize("size", [16, 40, 64, 128, 256, 512])
def test_a_fat_of_any_size_has_the_same_bits_again(tmp_path: Path, size: int) -> None:
    source = tmp_path / "boot"
    (source / "overlays/deep er").mkdir(parents=True)
    (source / "overlays/deep er/A long name.dtbo").write_bytes(b"x" * 70_000)
    (source / "cmdline.txt").write_text("old")
    (source / "link").symlink_to("overlays/deep er")
    sums = set()
    for name in ("one.img", "two.img"):
        image = tmp_path / name
        with image.open("wb") as file:
            file.truncate((size + 8) * MIB)
        fat = Fat(offset=8 * MIB, size=size * MIB, label="bootfs", volume_id=0x1234ABCD, epoch=1_700_000_000)
        write_fat(image, fat, source, scratch=tmp_path, override={"cmdline.txt": b"new"})
        with image.open("rb") as file:
            sums.add(hashlib.file_digest(file, "sha256").hexdigest())
    assert len(sums) == 1
    image = tmp_path / "two.img"
    listed = run(["mdir", "-/", "-b", "-i", f"{image}@@8M"]).stdout.split("\n")
    assert "::/link/A long name.dtbo" in listed
    assert run(["mtype", "-i", f"{image}@@8M", "::cmdline.txt"]).stdout == "new"
    assert not (tmp_path / "fat").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda boot: (boot / "README").touch() or (boot / "readme").touch(),
            "README and readme are one name on a FAT",
        ),
        (lambda boot: (boot / "x").symlink_to("nowhere"), "a symbolic link that leads nowhere"),
        (lambda boot: (boot / "x").symlink_to("/"), "leads to a directory above it"),
    ],
)
def test_what_no_fat_can_hold(tmp_path: Path, make: object, message: str) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    make(boot)  # type: ignore[operator]
    fat = Fat(offset=0, size=64 * MIB, label="bootfs", volume_id=1, epoch=1)
    with pytest.raises(InputError, match=message):
        write_fat(tmp_path / "x.img", fat, boot, scratch=tmp_path)
    assert not (tmp_path / "fat").exists()


def test_a_disk_in_the_manifest() -> None:
    assert disk_facts(LAYOUT.table) == {
        "disk_id": "00000abc",
        "size": LAYOUT.table.size,
        "partitions": [
            {"number": 1, "kind": 0x0C, "start": 8 * MIB, "size": 256 * MIB, "label": "bootfs"},
            {"number": 2, "kind": 0x83, "start": 264 * MIB, "size": 8 * MIB, "label": "rootfs"},
        ],
    }

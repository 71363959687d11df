"""An ext4 written without a mount is what the kernel and e2fsck say it is, whatever the tree's copy looks like."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from builder.errors import HostError, InputError
from builder.host import tree
from builder.host.hashing import file_digest
from builder.image.ext4_write import Ext4, measure, select, size_for, write_ext4
from builder.image.partitions import MIB
from builder.run import run
from tests.system.trees import CAP_NET_RAW, EPOCH, copy_shuffled, in_memory, make_tree, mounted

pytestmark = pytest.mark.root
OFFSET = 8 * MIB
OWN = uuid.UUID("12345678-1234-5678-1234-567812345678")


def write(source: Path, image: Path, *, size: int | None = None) -> Ext4:
    entries = select(tree.walk(source), exclude=["boot/firmware"])
    usage = measure(source, entries)
    size = size or size_for(usage, slack_percent=0, slack_bytes=0)
    with image.open("wb") as file:
        file.truncate(OFFSET + size)
    ext4 = Ext4(offset=OFFSET, size=size, label="rootfs", uuid=OWN, epoch=EPOCH)
    write_ext4(image, ext4, source, entries, usage, override={"etc/fstab": b"new\n", "etc/added": b"added\n"})
    return ext4


def test_the_kernel_sees_the_tree(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "tree")
    write(source, tmp_path / "x.img")
    with mounted(tmp_path / "x.img", OFFSET, tmp_path / "at") as at:
        differences = tree.compare(source, at, ignore=("mtime",))
        expected = {entry.path: min(entry.mtime, EPOCH) for entry in tree.walk(source)}
        times = {entry.path: entry.mtime for entry in tree.walk(at)}
        changed = {path for path in times if path in expected and times[path] != expected[path]}
        assert os.getxattr(at / "usr/bin/ping", "security.capability") == CAP_NET_RAW
        assert (at / "usr/bin/sudo").stat().st_nlink == 4
        assert (at / "var/sparse").stat().st_blocks * 512 == 3 * 4096
        assert (at / "var/zeros").stat().st_blocks == 0
        assert {status.st_atime_ns for status in map(os.lstat, at.rglob("*"))} == {EPOCH * 10**9}
        assert (at / "etc/fstab").read_text() == "new\n"
        assert (at / "etc/added").read_text() == "added\n"
    assert {(difference.path, difference.what) for difference in differences} == {
        ("boot/firmware/cmdline.txt", "missing"),
        ("boot/firmware/config.txt", "missing"),
        ("boot/firmware/overlays", "missing"),
        ("boot/firmware/overlays/README.long.name.txt", "missing"),
        ("boot/firmware/overlays/disable-wifi.dtbo", "missing"),
        ("boot/firmware/vmlinuz", "missing"),
        ("boot/firmware/vmlinuz.old", "missing"),
        ("dev/log", "missing"),
        ("etc/added", "missing"),
        ("etc/fstab", "size"),
        ("lost+found", "missing"),
    }
    assert changed == {"etc/fstab"}


def test_a_copied_tree_gives_the_same_bits(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "tree")
    write(source, tmp_path / "x.img")
    with in_memory() as memory:
        copy = copy_shuffled(source, memory / "copy")
        assert not tree.compare(source, copy)
        write(copy, memory / "y.img")
        assert file_digest(tmp_path / "x.img") == file_digest(memory / "y.img")


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "boot").mkdir(parents=True)
    (source / "big").write_bytes(b"x" * (40 * MIB))
    with pytest.raises(InputError, match=r"a root file system of 16 MiB is too small: the tree needs 5\d"):
        write(source, tmp_path / "x.img", size=16 * MIB)


@pytest.mark.parametrize("files", [0, 1, 2000])
@pytest.mark.parametrize("size", [0, 5000])
def test_the_size_that_is_reckoned_is_enough(tmp_path: Path, files: int, size: int) -> None:
    source = tmp_path / "tree"
    (source / "etc").mkdir(parents=True)
    for number in range(files):
        (source / "etc" / f"{number:0200}").write_bytes(b"x" * size)
    write(source, tmp_path / "x.img")
    free = run(["debugfs", "-R", "stats -h", f"x.img?offset={OFFSET}"], cwd=tmp_path).stdout
    assert "Filesystem state:         clean" in free


def test_a_full_debugfs_is_not_taken_for_success(tmp_path: Path) -> None:
    """The reckoning left out: the tool's own complaint has to be heard, for it exits with 0."""
    source = tmp_path / "tree"
    (source / "etc").mkdir(parents=True)
    entries = select(tree.walk(source))
    (source / "etc/late").write_bytes(os.urandom(64 * MIB))
    with (tmp_path / "x.img").open("wb") as file:
        file.truncate(40 * MIB)
    late = {"etc/late": (source / "etc/late").read_bytes()}
    ext4 = Ext4(offset=OFFSET, size=32 * MIB, label="rootfs", uuid=OWN, epoch=EPOCH)
    with pytest.raises(HostError, match="Could not allocate block"):
        write_ext4(tmp_path / "x.img", ext4, source, entries, measure(source, entries), override=late)


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "etc").mkdir()
    (source / "two\nlines").touch()
    with pytest.raises(InputError, match="cannot be written into an ext4 image"):
        write(source, tmp_path / "x.img")


def test_links_fill_more_than_a_block_of_their_directory(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "etc").mkdir(parents=True)
    for directory in ("usr/lib/git-core", "."):
        (source / directory).mkdir(parents=True, exist_ok=True)
        (source / directory / "00first").write_text(directory)
        for number in range(400):
            name = f"{number:03}" + "x" * (number * 7 % 60)
            kind = number % 5
            if kind == 0:
                (source / directory / name).mkdir()
            elif kind == 1:
                (source / directory / name).symlink_to("00first")
            else:
                os.link(source / directory / "00first", source / directory / name)
    write(source, tmp_path / "x.img")
    with mounted(tmp_path / "x.img", OFFSET, tmp_path / "at") as at:
        differences = tree.compare(source, at, ignore=("mtime",))
        assert (at / "usr/lib/git-core/00first").stat().st_nlink == 241
        blocks = (at / "usr/lib/git-core").stat().st_size // 4096
    assert {difference.path for difference in differences} == {"etc/added", "etc/fstab", "lost+found"}
    assert 4 <= blocks <= 6  # as many as the names need

"""The script that debugfs is given, and the size that is reckoned before it."""

from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import HostError, InputError
from builder.host.tree import Entry
from builder.image.ext4_script import make_script
from builder.image.ext4_write import Usage, measure, select, size_for
from builder.image.partitions import MIB

DIRECTORY = Entry(path=".", kind="directory", mode=0o755, uid=0, gid=0, size=0, mtime=50)
FILE = replace(DIRECTORY, kind="file", mode=0o644)


def script(entries: list[Entry], scratch: Path, **override: bytes) -> list[str]:
    made = make_script(Path("/tree"), entries, override=override, epoch=100, scratch=scratch)
    return made.text.decode().splitlines()


def test_a_script_line_by_line(tmp_path: Path) -> None:
    entries = [
        DIRECTORY,
        replace(FILE, path="a", mode=0o4755, gid=7, link="a"),
        replace(DIRECTORY, path="d", mode=0o700, mtime=200),
        replace(DIRECTORY, path="d/e"),
        replace(FILE, path='d/q"', link="a", mode=0o4755, gid=7),
        replace(FILE, path="l", kind="symlink", mode=0o777, target="to here", mtime=-5),
        replace(FILE, path="n", kind="block", mode=0o660, device=(259, 300), uid=3),
        replace(FILE, path="x", xattrs=(("user.a", b"1"),)),
    ]
    value = tmp_path / "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert script(entries, tmp_path) == [
        "set_super_value flags 1",
        'write "/tree/a" "a"',
        "sif <12> mode 0104755",
        "sif <12> gid 7",
        'mkdir "d"',
        "sif <13> mode 040700",
        'symlink "l" "to here"',
        'mknod "n" b 259 300',
        "sif <15> mode 060660",
        "sif <15> uid 3",
        'write "/tree/x" "x"',
        "sif <16> mode 0100644",
        f'ea_set -f "{value}" <16> "user.a"',
        "cd <13>",
        'mkdir "e"',
        'ln <12> "q"""',
        "sif <12> links_count 2",
        "sif <2> mtime @50",
        "sif <12> mtime @50",
        "sif <14> mtime @0",
        "sif <15> mtime @50",
        "sif <16> mtime @50",
        "sif <17> mtime @50",
    ]
    assert value.read_bytes() == b"1"


def test_the_order_of_what_is_given_does_not_matter(tmp_path: Path) -> None:
    entries = [DIRECTORY, *(replace(FILE, path=name) for name in "abc"), replace(DIRECTORY, path="d")]
    assert script(entries, tmp_path) == script(entries[::-1], tmp_path)


def test_an_override_keeps_the_owner_and_leaves_the_other_names_linked(tmp_path: Path) -> None:
    linked = [replace(FILE, path=name, uid=5, link="a") for name in ("a", "b", "c")]
    lines = script([DIRECTORY, *linked], tmp_path, a=b"new")
    assert lines[1].startswith(f'write "{tmp_path}/')
    assert 'write "/tree/b" "b"' in lines
    assert "sif <12> uid 5" in lines
    assert "sif <13> links_count 2" in lines
    assert "sif <12> mtime @50" not in lines


def test_a_file_nobody_has_needs_its_directory(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="etc/fstab: the tree has no directory"):
        make_script(Path("/tree"), [DIRECTORY], override={"etc/fstab": b""}, epoch=1, scratch=tmp_path)


@pytest.mark.parametrize("name", ["two\nlines", "return\r", "x/" * 4001 + "x"])
def test_names_that_debugfs_cannot_take(tmp_path: Path, name: str) -> None:
    above = [replace(DIRECTORY, path=name[:end]) for end in range(1, len(name)) if name[end] == "/"]
    with pytest.raises(InputError, match="cannot be written into an ext4 image"):
        script([DIRECTORY, *above[:: max(1, len(above))], *above[1:], replace(FILE, path=name)], tmp_path)


def test_what_is_left_out() -> None:
    paths = [".", "boot", "boot/firmware", "boot/firmware/x", "boot/firmware2", "lost+found", "lost+found/y"]
    entries = [*(replace(FILE, path=path) for path in paths), replace(FILE, path="s", kind="socket")]
    kept = [entry.path for entry in select(entries, exclude=["boot/firmware"])]
    assert kept == [".", "boot", "boot/firmware", "boot/firmware2"]


def test_a_reckoning_counts_each_inode_once(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(16 * MIB))
    entries = [
        DIRECTORY,
        replace(FILE, path="one", size=4097, link="one"),
        replace(FILE, path="two", size=4097, link="one"),
        replace(FILE, path="zeros", size=16 * MIB),
        replace(FILE, path="link", kind="symlink", target="x" * 60),
    ]
    assert measure(tmp_path, entries) == Usage(blocks=1 + 2 + 1 + 1, inodes=12 + 4)


def test_sizes_grow_with_what_is_in_them() -> None:
    usages = [Usage(blocks=blocks, inodes=20) for blocks in (0, 1, 10_000, 300_000, 3_000_000)]
    sizes = [size_for(usage, slack_percent=15, slack_bytes=0) for usage in usages]
    assert sizes == sorted(sizes)
    for usage, size in zip(usages, sizes, strict=True):
        assert size % MIB == 0
        assert size > usage.blocks * 4096 * 1.15
        assert size_for(usage, slack_percent=15, slack_bytes=MIB) >= size + MIB

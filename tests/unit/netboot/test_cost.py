"""What exploding takes, said before it is done."""

import os
from pathlib import Path

from builder.netboot.cost import Cost, taken

GIB = 1 << 30
DEST = Path("/srv/netboot")


def test_copies_are_summed_up_and_what_is_cheaper_is_said() -> None:
    cost = Cost(roots={"a": GIB, "b": GIB}, ways={"a": "copy", "b": "copy"}, images=GIB, free=10 * GIB)
    copied, image, in_all, cheaper = cost.lines(DEST)
    assert copied == "2 roots copied, 1.0 GiB each, 2.0 GiB"
    assert image == "the image is brought in first: 1.0 GiB"
    assert in_all == "in all 3.0 GiB; 10.0 GiB are free in /srv/netboot"
    assert "btrfs" in cheaper
    assert "root: shared" in cheaper


def test_a_disk_that_is_too_small_is_said() -> None:
    cost = Cost(roots={"a": 2 * GIB}, ways={"a": "copy"}, images=0, free=GIB)
    assert cost.lines(DEST)[-1] == "in all 2.0 GiB; 1.0 GiB are free in /srv/netboot, which is not enough"


def test_roots_that_share_are_cheap_already_and_nothing_to_make_is_nothing_to_say() -> None:
    cost = Cost(roots={"a": 4096, "b": 512}, ways={"a": "reflink", "b": "shared"}, images=0, free=GIB)
    assert not any("cheaper" in line for line in cost.lines(DEST))
    assert Cost(roots={}, ways={}, images=0, free=GIB).lines(DEST) == []


def test_a_file_with_two_names_is_counted_once_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(b"x" * 100_000)
    before = taken([tmp_path])
    assert before >= 100_000
    os.link(tmp_path / "deep/file", tmp_path / "other")
    (tmp_path / "link").symlink_to("/usr")
    assert taken([tmp_path]) - before < 20_000

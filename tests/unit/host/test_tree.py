"""Trees are walked in one order, and compared by what an image carries."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from builder.host.tree import compare, digest, nonzero_blocks, walk


def make(root: Path) -> Path:
    (root / "b").mkdir(parents=True)
    (root / "b/file").write_text("x")
    os.link(root / "b/file", root / "a")
    (root / "b-").write_text("alone")
    (root / "c").symlink_to("b/file")
    for path in (root / "b/file", root / "b-", root / "c", root / "b", root):
        os.utime(path, (1, 1000), follow_symlinks=False)
    return root


def test_the_order_and_what_is_known_of_each(tmp_path: Path) -> None:
    found = {entry.path: entry for entry in walk(make(tmp_path / "t"))}
    assert list(found) == [".", "a", "b", "b/file", "b-", "c"]
    assert (found["a"].link, found["b/file"].link, found["b-"].link) == ("a", "a", "")
    assert (found["c"].kind, found["c"].target) == ("symlink", "b/file")
    assert (found["b"].size, found["b-"].size, found["b-"].mtime) == (0, 5, 1000)
    assert (found["b/file"].parent, found["b/file"].name, found["a"].parent) == ("b", "file", ".")


def test_a_link_out_of_the_tree_is_no_link(tmp_path: Path) -> None:
    root = make(tmp_path / "t")
    os.link(root / "b-", tmp_path / "outside")
    assert not {entry.path for entry in walk(root) if entry.link} & {"b-"}


def test_copies_compare_equal_and_every_change_is_named(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    assert not compare(one, two)
    assert digest(one) == digest(two)
    (two / "b-").write_text("other")
    (two / "b-").chmod(0o600)
    (two / "new").touch()
    (two / "c").unlink()
    (two / "c").symlink_to("elsewhere")
    (two / "a").unlink()
    (two / "a").write_text("x")
    told = {(difference.path, difference.what) for difference in compare(one, two, ignore=("mtime",))}
    assert told == {
        ("a", "link"),
        ("b/file", "link"),
        ("b-", "mode"),
        ("b-", "content"),
        ("c", "target"),
        ("new", "missing"),
    }
    assert (".", "mtime") in {(difference.path, difference.what) for difference in compare(one, two)}
    assert digest(one) != digest(two)
    assert str(compare(one, two, ignore=("mtime",))[-1]) == "new: missing - | file"


def test_digests_ignore_what_they_are_told_to(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    os.utime(two / "b-", (1, 2000))
    assert digest(one) != digest(two)
    assert digest(one, ignore=("mtime",)) == digest(two, ignore=("mtime",))


@given(st.lists(st.sampled_from([b"\0", b"\0\1", b"\1"]), max_size=12), st.integers(min_value=0, max_value=3))
def test_blocks_of_zeros_do_not_count(tmp_path_factory: object, kinds: list[bytes], tail: int) -> None:
    blocks = [kind.rjust(4, kind[:1]) for kind in kinds]
    path = Path(tmp_path_factory.mktemp("blocks") / "file")  # type: ignore[attr-defined]
    path.write_bytes(b"".join(blocks) + b"\0" * tail)
    assert nonzero_blocks(path, block=4) == sum(any(block) for block in blocks)

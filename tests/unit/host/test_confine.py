from __future__ import annotations

import errno
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host.confine import resolve_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "abs").symlink_to("/usr/lib")
    (root / "out").symlink_to("../../../../etc")
    (root / "circle").symlink_to("circle")
    (root / "usr/lib/up").symlink_to("../../usr")
    return root


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/a", "usr/lib/a"),
        ("usr/lib/a", "usr/lib/a"),
        ("//usr//lib/./a", "usr/lib/a"),
        ("/lib/a", "usr/lib/a"),
        ("/abs/a", "usr/lib/a"),
        ("/abs/up/lib/a", "usr/lib/a"),
        ("/out/passwd", "etc/passwd"),
        ("/../../etc/passwd", "etc/passwd"),
        ("/lib/../x", "usr/x"),
        ("/", "."),
        ("/none/at/all", "none/at/all"),
    ],
)
def test_resolves_as_if_the_root_were_the_whole_system(root: Path, path: str, expected: str) -> None:
    assert resolve_in(root, path) == root / expected


def test_the_last_link_can_be_left_alone(root: Path) -> None:
    assert resolve_in(root, "/abs", follow=False) == root / "abs"
    assert resolve_in(root, "/abs/up", follow=False) == root / "usr/lib/up"
    assert resolve_in(root, "/circle", follow=False) == root / "circle"


def test_links_in_circles_are_an_error(root: Path) -> None:
    with pytest.raises(OSError, match="circle") as caught:
        resolve_in(root, "/circle/a")
    assert caught.value.errno == errno.ELOOP


@given(
    st.lists(st.sampled_from(["..", ".", "lib", "abs", "out", "usr", "up", *string.ascii_lowercase[:2]]), max_size=8)
)
def test_never_leaves_the_root(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "confined/deep"
    if not root.exists():
        (root / "usr/lib").mkdir(parents=True)
        (root / "lib").symlink_to("usr/lib")
        (root / "abs").symlink_to("/usr/lib")
        (root / "out").symlink_to("../../..")
        (root / "usr/lib/up").symlink_to("../..")
    resolved = resolve_in(root, "/".join(names))
    assert resolved.is_relative_to(root)
    assert ".." not in resolved.parts
    assert not resolved.is_symlink()

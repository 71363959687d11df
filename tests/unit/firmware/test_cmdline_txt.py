from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.firmware.cmdline_txt import CmdlineEdit, edit, key_of, split

UBUNTU = (
    "console=serial0,115200 multipath=off dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable rootfstype=ext4 "
    "rootwait fixrtc\n"
)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("", CmdlineEdit(add=["quiet"]), "quiet\n"),
        ("a b\n", CmdlineEdit(), "a b\n"),
        ("a\nb\n\n", CmdlineEdit(), "a b\n"),
        ("root=LABEL=x rw", CmdlineEdit(set={"root": ["PARTUUID=1-2"]}), "root=PARTUUID=1-2 rw\n"),
        ("rw", CmdlineEdit(set={"root": ["/dev/nfs"]}), "rw root=/dev/nfs\n"),
        ("console=a x console=b y", CmdlineEdit(set={"console": ["c"]}), "console=c x y\n"),
        ("console=a x console=b y", CmdlineEdit(set={"console": ["b", "c"]}), "console=b console=c x y\n"),
        ("console=a x console=b", CmdlineEdit(remove=["console=a"]), "x console=b\n"),
        ("console=a x console=b", CmdlineEdit(remove=["console"]), "x\n"),
        ("console=a", CmdlineEdit(add=["console=b", "console=a"]), "console=a console=b\n"),
        ("quiet splash", CmdlineEdit(remove=["quiet", "rootdelay"]), "splash\n"),
        ("fsck.repair=yes", CmdlineEdit(remove=["fsck"]), "fsck.repair=yes\n"),
        ("dwc_otg.lpm-enable=0", CmdlineEdit(set={"dwc_otg.lpm_enable": ["1"]}), "dwc_otg.lpm_enable=1\n"),
        ('dyndbg="file a.c +p" rw', CmdlineEdit(remove=["rw"]), 'dyndbg="file a.c +p"\n'),
        ("rw -- single", CmdlineEdit(add=["quiet"], remove=["single"]), "rw quiet -- single\n"),
    ],
)
def test_edit(before: str, change: CmdlineEdit, after: str) -> None:
    assert edit(before, change) == after


def test_an_official_line_keeps_its_order() -> None:
    change = CmdlineEdit(set={"root": ["PARTUUID=0badcafe-02"]}, add=["cgroup_enable=memory"], remove=["multipath"])
    assert edit(UBUNTU, change) == (
        "console=serial0,115200 dwc_otg.lpm_enable=0 console=tty1 root=PARTUUID=0badcafe-02 rootfstype=ext4 "
        "rootwait fixrtc cgroup_enable=memory\n"
    )


KEYS = st.sampled_from(["console", "root", "quiet", "a-b", "a_b", "x.y"])
VALUES = st.sampled_from(["1", "tty1", '"two words"', "a=b"])
WORDS = st.one_of(KEYS, st.builds("{}={}".format, KEYS, VALUES))
TEXTS = st.lists(st.one_of(WORDS, st.just("--")), max_size=10).map(" ".join)


@st.composite
def edits(draw: st.DrawFn) -> CmdlineEdit:
    wanted = draw(
        st.dictionaries(st.sampled_from(["console", "root", "a_b"]), st.lists(VALUES, min_size=1, max_size=2))
    )
    keys = set(wanted)
    added = [word for word in draw(st.lists(WORDS, max_size=3)) if key_of(word) not in keys]
    keys |= {key_of(word) for word in added}
    removed = [word for word in draw(st.lists(WORDS, max_size=3)) if key_of(word) not in keys]
    return CmdlineEdit(set=wanted, add=added, remove=removed)


@given(TEXTS, edits())
def test_one_line_and_editing_twice_is_editing_once(text: str, change: CmdlineEdit) -> None:
    once = edit(text, change)
    assert once.count("\n") == 1
    assert once.endswith("\n")
    assert edit(once, change) == once


@given(TEXTS, edits())
def test_untouched_words_keep_their_order(text: str, change: CmdlineEdit) -> None:
    touched = {key_of(word) for word in [*change.set, *change.add, *change.remove]}

    def rest(line: str) -> list[str]:
        return [word for word in split(line) if key_of(word) not in touched]

    assert rest(edit(text, change)) == rest(text)

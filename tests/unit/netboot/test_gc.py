"""What node gc keeps: what a board boots, what that replaced, what a node is held at or started from, and for days."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.netboot.gc import collect
from builder.netboot.layout import PERSIST, Netboot
from builder.netboot.record import Record

DAY = 86400
KEEP = 7  # days
NAMES = tuple(f"{digit * 12}-0000000{digit}" for digit in "abcd")
SERIAL = "c0a3cab4"


@dataclass(frozen=True)
class Past:
    """What a node's roots have seen: which is booted, which that replaced, which is held; days since each was left."""

    booted: str
    previous: str
    held: str
    left: Mapping[str, int]
    started: Mapping[str, int]


roots = st.sampled_from(["", *NAMES])
PASTS = st.builds(
    Past,
    booted=roots,
    previous=roots,
    held=roots,
    left=st.fixed_dictionaries({name: st.integers(0, 14) for name in NAMES}),
    started=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 14)),
)


def lay(dest: Path, past: Past, node: str = "yellow3") -> Netboot:
    """Make a directory in which a node has this past."""
    netboot = Netboot(dest)
    now = time.time() - DAY / 2  # between two days: nothing is at the very edge
    with netboot.locked(begin=True):
        for name in NAMES:
            netboot.root(node, name).mkdir(parents=True)
            netboot.boot(node, name).mkdir(parents=True)
            (netboot.generations / name[:12]).mkdir(exist_ok=True)
            previous = past.previous if name == past.booted and past.previous != name else ""
            netboot.write_record(node, name, Record(generation=name[:12], way="copy", previous=previous))
            left = now - past.left[name] * DAY
            os.utime(netboot.records / node / f"{name}.json", (left, left))
        for name, days in past.started.items():
            seen = netboot.root(node, name) / "var/lib/pibuild/booted"
            seen.parent.mkdir(parents=True)
            seen.touch()
            os.utime(seen, (now - days * DAY, now - days * DAY))
        if past.booted:
            netboot.point(netboot.tftp / SERIAL, f"boot/{node}/{past.booted}")
        if past.held:
            netboot.hold(node, past.held)
    return netboot


def kept(past: Past, keep_days: int) -> set[str]:
    """Return what is to stay, said once more and otherwise."""
    stay = {past.booted, past.held, past.previous if past.booted else ""}
    if past.started:
        latest = min(past.started.values())
        stay.add(max(name for name, days in past.started.items() if days == latest))
    return {name for name in NAMES if name in stay or past.left[name] + 0.5 < keep_days}


@given(past=PASTS, keep_days=st.integers(0, 15))
def test_a_root_goes_only_when_nothing_speaks_for_it(past: Past, keep_days: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        netboot = lay(Path(directory) / "netboot", past)
        gone = {garbage.path for garbage in collect(netboot.dest, keep_days=keep_days, dry_run=True)}
        stays = kept(past, keep_days)
        assert {name for name in NAMES if netboot.root("yellow3", name) not in gone} == stays
        generations = {name[:12] for name in stays}
        assert {path.name for path in netboot.generations.iterdir() if path not in gone} == generations


def test_a_dry_run_removes_nothing_and_says_why(tmp_path: Path) -> None:
    left = dict.fromkeys(NAMES, 30)
    netboot = lay(tmp_path / "netboot", Past(booted=NAMES[0], previous="", held="", left=left, started={}))
    found = collect(netboot.dest, keep_days=KEEP, dry_run=True)
    whys = {"neither booted nor gone back to", "no root is made of it"}
    assert {garbage.why for garbage in found} == whys
    assert all(garbage.path.is_dir() for garbage in found)
    assert collect(netboot.dest, keep_days=KEEP, dry_run=True) == found


@pytest.mark.tools
def test_what_was_said_goes_with_its_boot_files_and_its_record_and_nothing_else(tmp_path: Path) -> None:
    left = dict.fromkeys(NAMES, 30)
    past = Past(booted=NAMES[0], previous=NAMES[1], held="", left=left, started={})
    netboot = lay(tmp_path / "netboot", past)
    netboot.root("yellow3", PERSIST).mkdir()
    said = collect(netboot.dest, keep_days=KEEP, dry_run=True)
    assert collect(netboot.dest, keep_days=KEEP, dry_run=False) == said
    assert netboot.names("yellow3") == list(NAMES[:2])
    assert [netboot.is_whole("yellow3", name) for name in NAMES] == [True, True, False, False]
    assert sorted(path.stem for path in (netboot.records / "yellow3").iterdir()) == list(NAMES[:2])
    assert netboot.root("yellow3", PERSIST).is_dir()
    assert collect(netboot.dest, keep_days=KEEP, dry_run=True) == ()


def test_what_a_node_put_beside_its_roots_goes_and_what_it_keeps_stays(tmp_path: Path) -> None:
    left = dict.fromkeys(NAMES, 0)
    netboot = lay(tmp_path / "netboot", Past(booted=NAMES[0], previous="", held="", left=left, started={}))
    netboot.root("yellow3", PERSIST).mkdir()
    own = netboot.roots / "yellow3/mine"
    own.mkdir()
    link = netboot.roots / "yellow3" / f"{'e' * 12}-0000000e"
    link.symlink_to("/etc")
    found = collect(netboot.dest, keep_days=KEEP, dry_run=True)
    assert {garbage.path for garbage in found} == {own, link}


def test_a_mark_of_the_future_is_one_of_its_node_alone(tmp_path: Path) -> None:
    """A node writes when it started: the root that it names stays, and no other's goes for it."""
    left = dict.fromkeys(NAMES, 30)
    past = Past(booted=NAMES[0], previous="", held="", left=left, started={NAMES[2]: -3650})
    netboot = lay(tmp_path / "netboot", past)
    gone = {garbage.path for garbage in collect(netboot.dest, keep_days=KEEP, dry_run=True)}
    assert {name for name in NAMES if netboot.root("yellow3", name) not in gone} == {NAMES[0], NAMES[2]}

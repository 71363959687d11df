"""What a board boots, as links say it; killed between two links, the board's own is what counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.netboot.layout import Netboot
from builder.netboot.record import Record

A, B, C = (f"{letter * 12}-0000000{letter}" for letter in "abc")


@pytest.fixture
def netboot(tmp_path: Path) -> Netboot:
    """A directory in which a node has been given three roots and boots the first."""
    made = Netboot(tmp_path / "netboot")
    with made.locked(begin=True):
        for name in (A, B, C):
            made.write_record("yellow3", name, Record(generation=name[:12], way="copy"))
    made.switch("yellow3", "dc5e13c7", A)
    return made


def test_a_board_that_was_switched_before_a_kill_goes_back_to_what_it_booted(netboot: Netboot) -> None:
    netboot.switch("yellow3", "dc5e13c7", B)
    netboot.point(netboot.dest / "nfs" / "yellow3", f"../roots/yellow3/{A}")  # the kill came before this link
    netboot.switch("yellow3", "dc5e13c7", C)
    record = netboot.record("yellow3", C)
    assert record is not None
    assert record.previous == B
    assert (netboot.dest / "nfs/yellow3").readlink().name == netboot.current("dc5e13c7") == C


def test_a_new_board_goes_back_to_what_the_node_booted(netboot: Netboot) -> None:
    netboot.switch("yellow3", "7adb8fa7", B)
    record = netboot.record("yellow3", B)
    assert record is not None
    assert (record.previous, netboot.booted()) == (A, {"7adb8fa7": ("yellow3", B)})


def test_what_many_nodes_booted_is_noted_as_each_switch_would(netboot: Netboot) -> None:
    noted = netboot.noted_before("yellow3", "dc5e13c7", B, netboot.booted())
    assert noted is not None
    assert noted.previous == A
    netboot.write_records({("yellow3", B): noted})
    written = (netboot.records / "yellow3" / f"{B}.json").stat()
    netboot.switch("yellow3", "dc5e13c7", B)
    assert netboot.record("yellow3", B) == noted
    assert (netboot.records / "yellow3" / f"{B}.json").stat().st_ino == written.st_ino  # not written again


@pytest.mark.parametrize(("node", "serial"), [("yellow3", "7adb8fa7"), ("green1", "dc5e13c7")])
def test_a_board_that_changes_hands_is_left_to_its_switch(netboot: Netboot, node: str, serial: str) -> None:
    netboot.write_record(node, B, Record(generation=B[:12], way="copy"))
    assert netboot.noted_before(node, serial, B, netboot.booted()) is None
    assert netboot.noted_before("yellow3", "dc5e13c7", A, netboot.booted()) is None  # it boots that already

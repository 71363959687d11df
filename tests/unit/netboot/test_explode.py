"""What explode decides for each node: make, switch, none, held or failed; and by what way a root is made."""

from __future__ import annotations

import errno
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import HostError, InputError, VerdictError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.netboot import root as making
from builder.netboot.explode import (
    Exploded,
    ExplodeOptions,
    Job,
    action_for,
    alone,
    conclude,
    method_of,
    stay,
)
from builder.netboot.explode import _switched as switched  # what it decides needs neither image nor root
from builder.netboot.generation import Generation
from builder.netboot.layout import Netboot
from builder.netboot.personalise import Personal
from builder.netboot.record import Record
from builder.netboot.root import SHARED_SCRIPT, SHARED_SCRIPT_OWN, Method, find_way
from tests.clusters import LAB

A, B = (f"{letter * 12}-0000000{letter}" for letter in "ab")
NODE, SERIAL = "yellow3", "c0a3cab4"


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load_inventory(LAB)


def begun(dest: Path, *whole: str) -> Netboot:
    """Return a directory in which the node has these roots, each with its boot files and on record."""
    made = Netboot(dest)
    with made.locked(begin=True):
        for name in whole:
            make_whole(made, name)
    return made


def make_whole(netboot: Netboot, name: str) -> None:
    netboot.root(NODE, name).mkdir(parents=True)
    netboot.boot(NODE, name).mkdir(parents=True)
    netboot.write_record(NODE, name, Record(generation=name[:12], way="copy"))


def generation_at(home: Path) -> Generation:
    (home / "root").mkdir(parents=True)
    return Generation(directory=home, sha256="a" * 64, boot_mount="/boot/firmware", capabilities={})


def job(inventory: Inventory, home: Path, name: str, action: str) -> Job:
    personal = Personal(name=name, files=(), cmdline="", persist=())
    node = inventory.node(NODE)
    return Job(node=node, generation=generation_at(home / name[:12]), personal=personal, way="copy", action=action)


# ------------------------------------------------------------------------------------------------- make, switch or none


@given(root=st.booleans(), boot=st.booleans(), booting=st.sampled_from(["", A, B]))
def test_what_is_not_whole_is_made_and_what_is_booted_is_left_alone(root: bool, boot: bool, booting: str) -> None:  # noqa: FBT001
    inventory = load_inventory(LAB)
    with tempfile.TemporaryDirectory() as directory:
        netboot = begun(Path(directory))
        if root:
            netboot.root(NODE, A).mkdir(parents=True)
        if boot:
            netboot.boot(NODE, A).mkdir(parents=True)
        if booting:
            netboot.point(netboot.tftp / SERIAL, f"boot/{NODE}/{booting}")
        action = action_for(netboot, inventory.node(NODE), A)
    if root and boot:
        assert action == ("none" if booting == A else "switch")
    else:
        assert action == "make"


def test_a_link_in_place_of_a_root_is_no_root(inventory: Inventory, tmp_path: Path) -> None:
    """The node writes where its roots are: what it puts there instead is made anew, not booted."""
    netboot = begun(tmp_path / "netboot", A)
    assert action_for(netboot, inventory.node(NODE), A) == "switch"
    netboot.root(NODE, A).rmdir()
    netboot.root(NODE, A).symlink_to("/")
    assert action_for(netboot, inventory.node(NODE), A) == "make"


def test_a_switch_says_what_was_booted_and_what_is(inventory: Inventory, tmp_path: Path) -> None:
    netboot = begun(tmp_path / "netboot", A, B)
    netboot.switch(NODE, SERIAL, A)
    row = switched(inventory, netboot, job(inventory, tmp_path, B, "switch"), netboot.booted(), "")
    assert (row.action, row.before, row.after, row.failed) == ("switch", A, B, "")
    assert netboot.current(SERIAL) == B


@pytest.mark.parametrize("action", ["make", "switch", "none"])
def test_a_node_whose_root_could_not_be_made_goes_on_with_what_it_booted(
    inventory: Inventory, tmp_path: Path, action: str
) -> None:
    netboot = begun(tmp_path / "netboot", A, B)
    netboot.switch(NODE, SERIAL, A)
    netboot.hold(NODE, A)
    row = switched(inventory, netboot, job(inventory, tmp_path, B, action), netboot.booted(), "the disk is gone")
    assert (row.action, row.after, row.failed) == ("failed", A, "the disk is gone")
    assert (netboot.current(SERIAL), netboot.held(NODE)) == (A, A)


def test_a_switch_that_fails_is_a_row_of_its_node(inventory: Inventory, tmp_path: Path) -> None:
    netboot = begun(tmp_path / "netboot", A)
    netboot.switch(NODE, SERIAL, A)
    row = switched(inventory, netboot, job(inventory, tmp_path, B, "make"), netboot.booted(), "")  # B is not on record
    assert (row.action, row.after) == ("failed", A)
    assert "nothing is on record" in row.failed


# ---------------------------------------------------------------------------------------------------------------- held


def test_a_held_node_stays_and_goes_forward_when_it_is_let(inventory: Inventory, tmp_path: Path) -> None:
    netboot = begun(tmp_path / "netboot", A, B)
    netboot.switch(NODE, SERIAL, A)
    netboot.hold(NODE, A)
    row = stay(netboot, inventory.node(NODE), netboot.booted())
    assert (row.action, row.before, row.after, row.image) == ("held", A, A, A[:12])
    switched(inventory, netboot, job(inventory, tmp_path, B, "switch"), netboot.booted(), "")
    assert (netboot.current(SERIAL), netboot.held(NODE)) == (B, "")


@pytest.mark.parametrize("dry", [True, False])
def test_a_new_board_of_a_held_node_boots_what_the_node_is_held_at(
    inventory: Inventory, tmp_path: Path, *, dry: bool
) -> None:
    netboot = begun(tmp_path / "netboot", A, B)
    netboot.hold(NODE, A)
    row = stay(netboot, inventory.node(NODE), None if dry else netboot.booted())
    assert (row.action, row.before, row.after) == ("switch", "", A)
    assert netboot.current(SERIAL) == ("" if dry else A)


@pytest.mark.parametrize("dry", [True, False])
def test_a_node_that_is_held_at_what_is_gone_fails_alone(inventory: Inventory, tmp_path: Path, *, dry: bool) -> None:
    netboot = begun(tmp_path / "netboot", B)
    netboot.switch(NODE, SERIAL, B)
    netboot.hold(NODE, A)
    row = stay(netboot, inventory.node(NODE), None if dry else netboot.booted())
    assert (row.action, row.after) == ("failed", B)
    assert f"held at {A}, which is gone" in row.failed
    assert netboot.current(SERIAL) == B


# ---------------------------------------------------------------------------------------------------- alone, or for all


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [OSError(errno.ELOOP, "Too many levels"), HostError("no"), PermissionError(13, "x")])
def test_what_fails_for_a_node_is_noted_and_the_others_go_on(inventory: Inventory, error: Exception) -> None:
    failed: dict[str, str] = {}
    with alone(inventory.node(NODE), failed):
        fail(error)
    assert failed == {NODE: str(error)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_it_for_all(inventory: Inventory, number: int) -> None:
    failed: dict[str, str] = {}
    with pytest.raises(OSError, match="full"), alone(inventory.node(NODE), failed):
        fail(OSError(number, "full"))
    assert failed == {}


def row_of(node: str, failed: str = "") -> Exploded:
    action = "failed" if failed else "make"
    return Exploded(
        node=node, serial="", image="", before="", after="", way="copy", action=action, changed=(), failed=failed
    )


@given(st.permutations(["green1", "yellow3", "yellow4"]), st.sets(st.sampled_from(["green1", "yellow3", "yellow4"])))
def test_rows_come_in_the_inventorys_order_and_boards_that_would_stop_are_the_verdict(
    order: list[str], stopping: set[str]
) -> None:
    inventory = load_inventory(LAB)
    rows = {name: row_of(name, "its Pi 4 would stop" if name in stopping else "") for name in order}
    stopped = dict.fromkeys(stopping, "its Pi 4 would stop")
    if stopped:
        with pytest.raises(VerdictError) as caught:
            conclude(inventory, [], rows, stopped)
        assert {name for name in rows if f"{name}: its Pi 4 would stop" in str(caught.value)} == stopping
    else:
        assert [row.node for row in conclude(inventory, [], rows, {})] == ["green1", "yellow3", "yellow4"]


def test_a_node_that_failed_by_itself_is_no_verdict(inventory: Inventory) -> None:
    rows = {"yellow3": row_of("yellow3", "its state is a directory"), "yellow4": row_of("yellow4")}
    assert [row.action for row in conclude(inventory, [], rows, {})] == ["failed", "make"]


# ------------------------------------------------------------------------------------------------------- by what way

ROOTS = ("auto", "copy", "reflink", "shared")


@pytest.mark.parametrize(("own", "asked"), list(itertools.product(ROOTS, ROOTS)))
def test_the_option_comes_before_the_inventory_and_that_before_finding_out(
    inventory: Inventory, own: Method, asked: Method
) -> None:
    node = replace(inventory.node(NODE), root=own)
    assert method_of(node, ExplodeOptions(method=asked)) == (own if asked == "auto" else asked)


@pytest.mark.parametrize("script", [SHARED_SCRIPT, SHARED_SCRIPT_OWN])
def test_a_shared_root_needs_an_image_whose_initramfs_mounts_it(tmp_path: Path, script: str) -> None:
    generation = generation_at(tmp_path / "generation")
    with pytest.raises(InputError, match="cannot mount a shared root"):
        find_way(tmp_path, generation, "shared")
    (generation.root / script).parent.mkdir(parents=True)
    (generation.root / script).write_text("#!/bin/sh\n")
    assert find_way(tmp_path, generation, "shared") == "shared"


@pytest.mark.parametrize("clones", [True, False])
@pytest.mark.parametrize("btrfs", [True, False])
@pytest.mark.parametrize("subvolume", [True, False])
def test_the_cheapest_way_that_the_disk_has_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, clones: bool, btrfs: bool, subvolume: bool
) -> None:
    """Of a btrfs subvolume a snapshot, where blocks can be shared clones, else copies; who asks for a copy gets one."""
    generation = generation_at(tmp_path / "generation")
    number = generation.root.stat().st_ino
    monkeypatch.setattr(making, "_shares_blocks", lambda _directory: clones)
    monkeypatch.setattr(making, "is_btrfs", lambda _path: btrfs)
    monkeypatch.setattr(making, "_SUBVOLUME", number if subvolume else number + 1)
    best = "snapshot" if btrfs and subvolume else "reflink" if clones else "copy"
    assert find_way(tmp_path / "not/yet/there", generation, "auto") == best
    assert find_way(tmp_path, generation, "copy") == "copy"
    if best == "copy":
        with pytest.raises(HostError, match="cannot share blocks") as caught:
            find_way(tmp_path, generation, "reflink")
        assert "--method copy" in caught.value.hint
    else:
        assert find_way(tmp_path, generation, "reflink") == best


def test_finding_out_leaves_nothing_behind(tmp_path: Path) -> None:
    generation = generation_at(tmp_path / "generation")
    (tmp_path / "dest").mkdir()
    found = find_way(tmp_path / "dest", generation, "auto")
    assert found in ("reflink", "copy")
    assert list((tmp_path / "dest").iterdir()) == []
    assert find_way(tmp_path / "dest/not/yet/there", generation, "auto") == found

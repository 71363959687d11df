"""A node that has been broken into: its root user writes where its roots lie, and the login node goes on.

A node has `roots/NODE` and `tftp/boot/NODE` mounted read-write, as root. What its root user would do there by NFS is
done here in place, which is the same to pibuild; tests/system/test_login_guest.py does it by NFS.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import main as cli
from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.netboot.gc import collect, withdraw
from builder.run import Completed, run
from tests.system.hostile_node import RECORDS, HostileNode, writing
from tests.system.test_explode import PROJECT, Lab

pytestmark = pytest.mark.root
NODES = ("yellow2", "yellow3", "green1")
GREEN = tuple(f"green{number}" for number in range(1, 9))
PATIENCE = 60  # seconds for a command, on a busy machine; what hangs does so for ever
ADDRESS_SPACE = 1 << 30


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three nodes that keep a directory and have booted two images each."""
    cluster = tmp_path / "cluster.yaml"
    text = (PROJECT / "cluster.yaml").read_text()
    cluster.write_text(text.replace("  user: ubuntu\n", "  user: ubuntu\n  persist: [/var/lib/kept]\n", 1))
    lab = Lab(load_inventory(cluster), tmp_path / "netboot")
    for text in "ab":
        lab.explode(lab.image(text), *NODES)
    return lab


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the login node that nobody may change."""
    outside = tmp_path / "outside"
    (outside / "restic").mkdir(parents=True)
    (outside / "restic/password").write_text("the login node's own\n")
    (outside / "hostname").write_text("login\n")
    before = contents(outside)
    yield outside
    assert contents(outside) == before


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    }


def pibuild(lab: Lab, *words: str | Path) -> Completed:
    """Run a command as the login node does, in bounded time and memory."""
    places: list[str | Path] = ["--cluster", lab.inventory.path, "--dest", lab.dest]
    limited = ["prlimit", f"--as={ADDRESS_SPACE}", sys.executable, "-m", "builder"]
    ended = run([*limited, *words, *places], cwd=PROJECT, check=False, timeout=PATIENCE)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def explode(lab: Lab, text: str, *words: str) -> tuple[int, dict[str, str]]:
    """Explode an image to the three; return the exit code and what became of each."""
    chosen = [word for name in NODES for word in ("--node", name)]
    ended = pibuild(lab, "explode", *chosen, "--image", lab.image(text), "--json", *words)
    return ended.returncode, {row["node"]: row["action"] for row in json.loads(ended.stdout)}


def as_node(lab: Lab, node: str, outside: Path = Path("/nowhere")) -> HostileNode:
    """Return what a node may do in place."""
    home, boot = lab.dest / "roots" / node, lab.dest / "tftp/boot" / node
    return HostileNode(home=home, boot=boot, root=lab.root(node).name, outside=outside)


def forget_records(lab: Lab) -> None:
    """Let the directory be one of an earlier version: records lie beside the roots."""
    for path in (lab.dest / "state/.roots").glob("*/*.json"):
        facts = json.loads(path.read_text())
        facts.pop("former")
        (lab.dest / "roots" / path.parent.name / path.name).write_text(json.dumps(facts))
    shutil.rmtree(lab.dest / "state/.roots")


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "of an earlier version"])
def test_no_record_that_a_node_writes_stops_or_steers_anything(lab: Lab, outside: Path, *, earlier: bool) -> None:
    for text in "ab":
        lab.explode(lab.image(text), *GREEN)
    if earlier:
        forget_records(lab)
    for node, make in zip(GREEN, RECORDS.values(), strict=True):
        path = lab.dest / f"roots/{node}/{lab.root(node).name}.json"
        path.unlink(missing_ok=True)
        make(path)
    assert pibuild(lab, "node", "gc", "--dry-run").returncode == 0
    rows = json.loads(pibuild(lab, "rollback", *GREEN, "yellow3", "--json").stdout)
    assert {row["node"] for row in rows if row["failed"]} == (set(GREEN) if earlier else set())
    ended = pibuild(lab, "explode", "--all", "--unhold", "--image", lab.image("c"))
    assert ended.returncode == 0, ended.stderr
    for node in (*GREEN, "yellow3", "yellow8"):
        lab.check(node, "c")
    assert pibuild(lab, "node", "gc", "--keep-days", "0").returncode == 0
    assert outside.is_dir()


def test_a_record_of_an_earlier_version_leads_a_board_nowhere_else(lab: Lab, outside: Path) -> None:
    for text in "ab":
        lab.explode(lab.image(text), *GREEN)
    forget_records(lab)
    elsewhere = ["../../../outside", f"../yellow2/{lab.root('yellow2').name}", "/etc", ".", "..", "persist", "", "x\0y"]
    for node, previous in zip(GREEN, elsewhere, strict=True):
        as_node(lab, node).record(previous=previous)
    before = {node: (lab.root(node), lab.boot(node)) for node in GREEN}
    ended = pibuild(lab, "rollback", *GREEN, "yellow3", "--json")
    rows = {row["node"]: row for row in json.loads(ended.stdout)}
    assert ended.returncode == 4
    assert all("has booted nothing before" in rows[node]["failed"] for node in GREEN)
    assert {node: (lab.root(node), lab.boot(node)) for node in GREEN} == before
    lab.check("yellow3", "a")
    assert outside.is_dir()


def test_what_another_node_keeps_stays_its_own(lab: Lab, outside: Path) -> None:
    """Of yellow9, which is no longer in the inventory, and of the login node itself."""
    (lab.dest / "roots/yellow9/persist").mkdir(parents=True)
    (lab.dest / "roots/yellow9/persist/secret").write_text("of yellow9")
    (outside / "persist").mkdir()
    forget_records(lab)
    for node, former in zip(NODES, ["yellow9", "./yellow9", "../../outside"], strict=True):
        as_node(lab, node).record(former=former)
        shutil.rmtree(lab.dest / "roots" / node / "persist")
    assert explode(lab, "c")[0] == 0
    assert (lab.dest / "roots/yellow9/persist/secret").read_text() == "of yellow9"
    assert [[path.name for path in (lab.dest / "roots" / node / "persist").iterdir()] for node in NODES] == [
        ["var"]
    ] * 3
    (outside / "persist").rmdir()


def test_records_of_an_earlier_version_are_taken_over_once(lab: Lab) -> None:
    first, second = lab.netboot.names("yellow3")
    now, before = (first, second) if lab.root("yellow3").name == first else (second, first)
    forget_records(lab)
    assert pibuild(lab, "rollback", "yellow3").returncode == 0
    assert lab.root("yellow3").name == before
    assert not list((lab.dest / "roots").glob("*/*.json"))
    as_node(lab, "yellow3").record(previous=now)
    assert "has booted nothing before" in pibuild(lab, "rollback", "yellow3").stderr


def test_what_a_node_keeps_is_made_inside_or_not_at_all(lab: Lab, outside: Path) -> None:
    persist = lab.dest / "roots/yellow3/persist"
    as_node(lab, "yellow3", outside).keep_by_a_link()
    code, became = explode(lab, "c")
    assert (code, became) == (4, {"yellow2": "make", "yellow3": "failed", "green1": "make"})
    lab.check("yellow2", "c")
    lab.check("yellow3", "b")
    as_node(lab, "yellow3", outside).keep_by_a_link_within()
    assert explode(lab, "c")[0] == 0  # inside: the link leads to the same path below persist
    assert (persist / str(outside).lstrip("/") / "lib/kept").is_dir()
    lab.check("yellow3", "c")


def test_a_root_that_a_node_replaced_is_made_anew(lab: Lab, outside: Path) -> None:
    lab.explode(lab.image("b"), "green2")
    changes = [(node, place) for node, place in zip((*NODES, "green2"), ["roots", "tftp/boot"] * 2, strict=True)]
    for number, (node, place) in enumerate(changes):
        taken = lab.dest / place / node / lab.root(node).name
        lab.netboot.switch(node, lab.inventory.node(node).serial, lab.netboot.names(node)[0], back=True)
        shutil.rmtree(taken)
        taken.symlink_to(outside) if number < 2 else taken.write_text("none")
    assert {row.action for row in lab.explode(lab.image("b"), *NODES, "green2")} == {"make"}
    for node, _ in changes:
        lab.check(node, "b")


def test_a_file_is_not_read_for_its_size(lab: Lab, outside: Path) -> None:
    as_node(lab, "yellow3", outside).spoil_what_is_read()
    begun = time.monotonic()
    assert explode(lab, "c")[0] == 0
    assert time.monotonic() - begun < PATIENCE
    lab.check("yellow3", "c")


def test_what_a_node_left_is_removed_and_nothing_else(lab: Lab, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs and goes on writing there; its links lead out, and its names are as bad as they can be."""
    home = lab.dest / "roots/yellow3"
    old = next(home / name for name in lab.netboot.names("yellow3") if home / name != lab.root("yellow3"))
    (old / "out").symlink_to(outside)
    as_node(lab, "yellow3", outside).leave_bad_names()
    lab.explode(lab.image("c"), *NODES)
    monkeypatch.setattr("builder.netboot.layout.PATIENCE", 2.0)
    with writing(old):
        collect(lab.dest, keep_days=0, dry_run=False)
    assert sorted(path.name for path in home.iterdir()) == sorted([*lab.netboot.names("yellow3"), "persist"])
    assert old.name not in lab.netboot.names("yellow3")
    assert not (lab.dest / "tftp/boot/yellow3/junk").is_symlink()
    with writing(lab.root("yellow3")):
        withdraw(lab.dest, "yellow3", keep_state=False)
    assert not home.exists()
    with lab.netboot.locked():
        assert not list(lab.netboot.tmp.iterdir())
    lab.check("yellow2", "c")


def test_only_root_enters_where_nodes_put_programs(lab: Lab) -> None:
    """A node's setuid program would make root of any account of the login node; also where it was open before."""
    for name in ("roots", "generations"):
        (lab.dest / name).chmod(0o755)
    assert explode(lab, "c")[0] == 0
    assert [(lab.dest / name).stat().st_mode & 0o777 for name in ("roots", "generations", "state")] == [0o700] * 3


def test_a_node_that_went_back_stays_until_it_is_released(lab: Lab) -> None:
    before = lab.root("yellow3").name
    ended = pibuild(lab, "rollback", "yellow3", "--json")
    (row,) = json.loads(ended.stdout)
    assert (row["left"], row["held"]) == (before, True)
    assert explode(lab, "c", "--fresh")[1] == {"yellow2": "make", "yellow3": "held", "green1": "make"}
    lab.check("yellow3", "a")
    lab.check("green1", "c")
    planned = pibuild(lab, "explode", "--node", "yellow3", "--image", lab.image("c"), "-n")
    assert "held" in planned.stdout
    assert "--unhold" in planned.stderr
    assert pibuild(lab, "node", "gc", "--keep-days", "0").returncode == 0
    lab.check("yellow3", "a")
    assert pibuild(lab, "rollback", "--unhold", "yellow3").returncode == 0
    assert explode(lab, "c")[1]["yellow3"] == "make"
    lab.check("yellow3", "c")


def test_groups_go_back_and_to_a_generation(lab: Lab) -> None:
    generation = lab.root("yellow3").name[:12]
    lab.explode(lab.image("c"), *NODES)
    ended = pibuild(lab, "rollback", "--group", "yellow", "--to", generation, "--json")
    rows = {row["node"]: row for row in json.loads(ended.stdout)}
    assert ended.returncode == 4  # the other yellow ones boot nothing
    assert "boots nothing" in rows["yellow1"]["failed"]
    for name in ("yellow2", "yellow3"):
        lab.check(name, "b")
    lab.check("green1", "c")
    assert "has no root of abcdef" in pibuild(lab, "rollback", "green1", "--to", "abcdef").stderr


BEGINS_NONE = (
    ("rollback", "yellow3"),
    ("node", "gc"),
    ("fleet", "token", "yellow3"),
    ("metrics", "token", "yellow3"),
    ("metrics", "vmauth", "-o", "/dev/null"),
    ("backup", "rotate", "yellow3"),
)


@pytest.mark.parametrize("words", BEGINS_NONE, ids=" ".join)
def test_what_needs_a_directory_that_nodes_boot_from_begins_none(tmp_path: Path, words: tuple[str, ...]) -> None:
    other = tmp_path / "other"
    said = CliRunner().invoke(cli.pibuild, [*words, "--cluster", str(PROJECT / "cluster.yaml"), "--dest", str(other)])
    assert isinstance(said.exception, InputError)
    assert f"nothing was exploded into {other}" in str(said.exception)
    assert not other.exists()


def test_a_name_that_a_node_wrote_gives_the_terminal_no_order(lab: Lab) -> None:
    """A line feed and what should follow, an order to the terminal, bytes that are no text: below roots and tftp."""
    name = b"x\x1b]0;mine\x07\nstate  all is well\xff\r\x9b2J"
    for home in ("roots", "tftp/boot"):
        Path(os.fsdecode(os.fsencode(lab.dest / home / "yellow3") + b"/" + name)).mkdir()
    shown = r"x\x1b]0;mine\x07\nstate  all is well\xff\r"
    ended = pibuild(lab, "node", "gc", "--keep-days", "0", "-n")
    assert ended.returncode == 0
    assert ended.stdout.count(shown) == 2
    removed = pibuild(lab, "node", "remove", "yellow3")
    assert removed.returncode == 0
    assert shown in removed.stderr
    for text in (ended.stdout, removed.stderr):
        assert not set(text) - {"\n"} & set(map(chr, (*range(32), *range(127, 160))))

"""Reading an inventory: what is refused and how it is said, what nodes inherit, and where each value comes from."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.options import ServedDirectory
from builder.errors import InputError
from builder.inventory.explain import explain
from builder.inventory.load import find_inventory, load_inventory
from builder.inventory.names import hostname, mac_of, range_of, serial_of
from builder.inventory.read import read_inventory
from tests.clusters import LAB

HERE = Path(__file__).parents[2]
INVALID = sorted((HERE / "inventories").glob("*.yaml"))
EXAMPLE = HERE.parent / "cluster.yaml"

CLUSTER = """\
cluster:
  name: test
  subnet: 10.0.0.0/16
  gateway: 10.0.0.1
  servers: {login: {node: gate}}
"""
GATE = '  - {name: gate, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login}\n'
NODE = '  - {name: a, serial: "00000002", mac: "02:00:00:00:00:02", address: 10.0.0.2, role: worker'


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_inventory_is_refused_with_its_message(path: Path, golden: Callable[[Path, str], None]) -> None:
    with pytest.raises(InputError) as caught:
        load_inventory(path)
    golden(path.with_suffix(".txt"), str(caught.value).replace(f"{path.parent}/", "") + "\n")


def test_the_example_is_the_lab() -> None:
    inventory = load_inventory(EXAMPLE)
    assert len(inventory.nodes) == 19
    assert [node.name for node in inventory.nodes if node.boot == "local"] == ["pi-login", "pi-backup"]
    assert inventory.login.name == "pi-login"
    assert inventory.backup is not None
    assert inventory.backup.user == "kalisperas"
    yellow3 = inventory.node("yellow3")
    assert (yellow3.serial, str(yellow3.address), yellow3.port) == ("c0a3cab4", "192.168.2.30", 37)
    assert yellow3.labels == {"cable": "yellow"}
    assert inventory.dns == (IPv4Address("192.168.2.1"),)


def test_the_labs_own_serial_of_green3_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, EXAMPLE.read_text().replace('"c72aafcf"', '"c72aafcfc"'))
    with pytest.raises(InputError) as caught:
        load_inventory(path)
    (problem,) = caught.value.problems
    assert problem.message == "node green3: serial 'c72aafcfc': it has 9 hex digits; a Raspberry Pi's has 8"
    assert "cat /proc/cpuinfo | grep Serial" in problem.hint


def test_the_labs_service_address_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, EXAMPLE.read_text().replace("192.168.2.200-192.168.2.219", "192.168.2.21"))
    with pytest.raises(InputError) as caught:
        load_inventory(path)
    assert [problem.message for problem in caught.value.problems] == [
        "pool services 192.168.2.21 covers 192.168.2.21, the address of node green2"
    ]


def test_an_underscored_name_is_an_alias_of_the_host_name() -> None:
    inventory = load_inventory(EXAMPLE)
    master = inventory.node("mlops_master")
    assert master is inventory.node("mlops-master")
    assert (master.name, master.aliases) == ("mlops-master", ("mlops_master",))
    assert inventory.node("login").name == "pi-login"


def test_an_unknown_node_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"no node 'yelow3' in .*; did you mean 'yellow3'"):
        load_inventory(EXAMPLE).node("yelow3")


def test_selecting() -> None:
    inventory = load_inventory(EXAMPLE)
    assert [node.name for node in inventory.select(["yellow3", "mlops_master"])] == ["mlops-master", "yellow3"]
    assert len(inventory.select(role="worker")) == 16
    assert len(inventory.select(group="green")) == 8
    assert len(inventory.select(everything=True)) == 19
    assert inventory.select() == ()
    with pytest.raises(InputError, match="no node has the role 'wroker'; did you mean 'worker'"):
        inventory.select(role="wroker")


def test_the_nearest_setting_wins_and_labels_and_words_add_up(tmp_path: Path) -> None:
    text = CLUSTER + (
        "defaults: {image: one, site: here, user: me, labels: {from: defaults, rack: a}, cmdline: [quiet]}\n"
        "roles: {worker: {image: two, site: there, labels: {from: role}, cmdline: [cgroup=1]}}\n"
        "groups: {x: {image: three, labels: {from: group}}, y: {image: four, board: pi5}}\n"
        "nodes:\n" + GATE + NODE + ", groups: [x, y], site: null, labels: {own: yes}, cmdline: [debug]}\n"
    )
    inventory = load_inventory(_write(tmp_path, text))
    node = inventory.node("a")
    assert (node.image, node.board, node.site, node.user) == ("three", "pi5", "there", "me")
    assert node.labels == {"rack": "a", "from": "group", "own": "yes"}
    assert node.cmdline == ("quiet", "cgroup=1", "debug")
    assert inventory.node("gate").image == "one"
    rows = {
        row.field: (row.why, row.mark.line if row.mark else None)
        for row in explain(read_inventory(inventory.path), node)
    }
    assert rows["image"] == ("group x", 8)
    assert rows["board"] == ("group y", 8)
    assert rows["site"] == ("role worker", 7)
    assert rows["user"] == ("defaults", 6)
    assert rows["boot"] == ("built in", None)
    assert rows["labels.from"] == ("group x", 8)
    assert rows["labels.own"] == ("its entry", 11)
    assert rows["port"] == ("not set", None)


def test_explaining_says_what_a_value_was_made_of(tmp_path: Path) -> None:
    text = (
        CLUSTER
        + "nodes:\n"
        + GATE
        + NODE.replace("name: a", "name: A_b").replace("00000002", "ABCDEF0100000002")
        + "}\n"
    )
    inventory = load_inventory(_write(tmp_path, text))
    read = read_inventory(inventory.path)
    rows = {row.field: (row.value, row.why) for row in explain(read, inventory.node("A_b"))}
    assert rows["name"] == ("a-b", "made of 'A_b'")
    assert rows["aliases"] == (("A_b",), "the name as written")
    assert rows["serial"] == ("00000002", "made of 'ABCDEF0100000002'")


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_inventory(Path("other.yaml")) == Path("other.yaml")
    (tmp_path / "cluster.yaml").touch()
    assert find_inventory() == Path("cluster.yaml")


def test_ten_thousand_nodes_are_read_and_checked_in_five_seconds(tmp_path: Path) -> None:
    lines = [
        f'  - {{name: n{i}, serial: "{i:08x}", mac: "02:00:00:{i >> 16:02x}:{i >> 8 & 255:02x}:{i & 255:02x}", '
        f"address: 10.0.{i // 250 + 1}.{i % 250 + 1}, port: {i + 1}, role: worker, groups: [x]}}\n"
        for i in range(16, 10_016)
    ]
    path = _write(tmp_path, CLUSTER + "groups: {x: {}}\nnodes:\n" + GATE + "".join(lines))
    begun = time.process_time()
    inventory = load_inventory(path)
    assert time.process_time() - begun < 5
    assert len(inventory.nodes) == 10_001


@given(st.integers(0, 2**64 - 1), st.sampled_from((str.lower, str.upper)))
def test_the_low_half_of_a_serial_counts_however_it_is_written(number: int, spell: Callable[[str], str]) -> None:
    written = f"{number:016x}"
    low = written[-8:]
    assert serial_of(spell(written)) == serial_of(spell(low)) == low


@given(st.text("0123456789abcdefABCDEF", max_size=20))
def test_a_serial_has_eight_or_sixteen_digits(digits: str) -> None:
    if len(digits) in {8, 16}:
        assert serial_of(digits) == digits[-8:].lower()
    else:
        with pytest.raises(ValueError, match=f"it has {len(digits)} hex digits"):
            serial_of(digits)


@given(st.binary(min_size=6, max_size=6), st.sampled_from(":-"), st.sampled_from((str.lower, str.upper)))
def test_a_mac_address_is_one_however_it_is_written(octets: bytes, separator: str, spell: Callable[[str], str]) -> None:
    single = bytes([octets[0] & 0xFE]) + octets[1:]
    assert mac_of(spell(single.hex(separator))) == single.hex(":")


@given(st.text(max_size=70))
def test_a_host_name_is_valid_or_refused(name: str) -> None:
    try:
        made = hostname(name)
    except ValueError:
        return
    assert made == hostname(made)
    assert 0 < len(made) < 64
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not made.startswith("-")
    assert not made.endswith("-")


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_range_holds_its_ends_and_what_is_between(one: int, other: int, third: int) -> None:
    first, last = sorted((IPv4Address(one), IPv4Address(other)))
    pool = range_of(f"{first} - {last}")
    assert first in pool
    assert last in pool
    assert (IPv4Address(third) in pool) == (first <= IPv4Address(third) <= last)
    assert range_of(str(pool)) == pool


HEAD = """cluster:
  name: x
  subnet: 10.0.0.0/24
  gateway: 10.0.0.1
  servers: {login: {node: login}}
  pools: {services: POOL}
nodes:
  - {name: login, serial: "ffffffff", mac: "02:00:00:00:00:ff", address: 10.0.0.1, role: login, boot: local}
"""


def problems_of(text: str) -> list[str]:
    path = Path(tempfile.mkdtemp()) / "cluster.yaml"
    path.write_text(text)
    try:
        load_inventory(path)
    except InputError as error:
        return [problem.message for problem in error.problems]
    finally:
        shutil.rmtree(path.parent)
    return []


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_boards_whose_low_halves_collide_are_refused(lows: list[int], highs: list[int]) -> None:
    lines = [
        f'  - {{name: n{at}, serial: "{high:08x}{low:08X}", mac: "02:00:00:00:00:{at:02x}", address: 10.0.0.{at + 2}, '
        "role: worker}\n"
        for at, (low, high) in enumerate(zip(lows, highs, strict=False))
    ]
    told = problems_of(HEAD.replace("POOL", "10.0.0.200-10.0.0.210") + "".join(lines))
    assert len(told) == len(lows) - len(set(lows))
    assert all("serial" in message for message in told)


@given(st.integers(0, 511), st.integers(2, 254), st.integers(0, 254))
def test_an_address_is_taken_when_it_is_in_the_subnet_and_in_no_pool(address: int, first: int, length: int) -> None:
    last = min(first + length, 254)
    pool = f"10.0.0.{first}-10.0.0.{last}"
    node = f"10.0.{address >> 8}.{address & 255}"
    line = f'  - {{name: n, serial: "00000001", mac: "02:00:00:00:00:01", address: {node}, role: worker}}\n'
    told = problems_of(HEAD.replace("POOL", pool) + line)
    good = 1 < address < 255 and not first <= address <= last
    assert (told == []) == good, told


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("/srv/net boot", "has ' '"),
        ("/srv/net\tboot", "has '\\t'"),
        ("/srv/a,b", "has ','"),
        ("/srv/a:b", "has ':'"),
        ("/srv/a#b", "has '#'"),
        ("/srv/a(b)", "has '('"),
        ("/srv/a%b", "has '%'"),
        ("/srv/a\\b", "has '\\\\'"),
        ("/srv/é", "has 'é'"),
        ("/srv//a", "has '//'"),
        ("/srv/../etc", "is not a directory of its own"),
        ("/", "is not a directory of its own"),
        ("srv/netboot", "is not an absolute path"),
    ],
)
def test_a_directory_that_exports_or_the_kernel_would_misread_is_refused_with_its_place(
    written: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(LAB.read_text().replace("netboot: /srv/netboot", f"netboot: {json.dumps(written)}"))
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        load_inventory(path)
    assert caught.value.problems[0].mark is not None
    assert (
        caught.value.problems[0].mark.line
        == path.read_text().split("\n").index(f"  netboot: {json.dumps(written)}") + 1
    )


@pytest.mark.parametrize("written", ["/srv/net boot", "/srv/a,b", "a:b", "/"])
def test_so_is_one_that_a_command_is_given(written: str) -> None:
    with pytest.raises(click.BadParameter, match=r"has '|is not a directory of its own"):
        ServedDirectory().convert(written, None, None)
    assert ServedDirectory().convert("netboot", None, None) == Path("netboot")

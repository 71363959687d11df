"""Edits of cluster.yaml keep every comment and the layout, and leave the file alone when something is wrong."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import InputError
from builder.inventory.edit import add_nodes, remove_node, rename_node
from builder.inventory.load import load_inventory
from builder.inventory.pi_info import NewNode, import_pi_info

EXAMPLE = Path(__file__).parents[3] / "cluster.yaml"
BLOCK = """\
# über allem
cluster:
  name: test
  subnet: 10.0.0.0/24   # ours
  gateway: 10.0.0.1
  servers: {login: {node: gate}}
nodes:

  # the first
  - name: gate
    serial: "00000001"    # read off the board
    mac: "02:00:00:00:00:01"
    address: 10.0.0.1
    role: login
  # the second; ünïcode
  - name: a   # best of all
    serial: "00000002"

    # in the middle
    mac: "02:00:00:00:00:02"
    address: 10.0.0.2
    role: worker
    labels:
      rack: one   # left
      row: >-
        two

# the end
"""


@pytest.fixture
def block(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(BLOCK)
    return path


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(EXAMPLE.read_bytes())
    return path


def _new(name: str, number: int, **fields: object) -> NewNode:
    octet = f"{number:02x}"
    entry = {"role": "worker", **fields}
    return NewNode(
        name=name, serial=f"000000{octet}", mac=f"02:00:00:00:00:{octet}", address=f"10.0.0.{number}", fields=entry
    )


def _changes(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and line[:3] not in {"+++", "---"}]


def test_adding_writes_one_line_like_the_others(lab: Path) -> None:
    new = NewNode(
        name="yellow9",
        serial="12345678",
        mac="e4:5f:01:f5:f1:d3",
        address="192.168.2.36",
        fields={"port": 1, "role": "worker", "groups": ["yellow"], "labels": {"spare": "yes"}},
    )
    before = lab.read_text()
    add_nodes(lab, [new])
    (line,) = _changes(before, lab.read_text())
    assert line == (
        '+  - {name: yellow9, serial: "12345678", mac: "e4:5f:01:f5:f1:d3", address: 192.168.2.36, port: 1, '
        'role: worker, groups: [yellow], labels: {spare: "yes"}}'
    )
    assert load_inventory(lab).node("yellow9").labels == {"cable": "yellow", "spare": "yes"}


def test_adding_to_nodes_written_as_blocks(block: Path) -> None:
    add_nodes(block, [_new("b", 3), _new("c", 4, boot="local")])
    assert _changes(BLOCK, block.read_text()) == [
        "+  - name: b",
        '+    serial: "00000003"',
        '+    mac: "02:00:00:00:00:03"',
        "+    address: 10.0.0.3",
        "+    role: worker",
        "+  - name: c",
        '+    serial: "00000004"',
        '+    mac: "02:00:00:00:00:04"',
        "+    address: 10.0.0.4",
        "+    role: worker",
        "+    boot: local",
    ]
    assert block.read_text().endswith("boot: local\n\n# the end\n")


@pytest.mark.parametrize("nodes", ["nodes: []\n# tail\n", "nodes:\n", "nodes: []"])
def test_adding_the_first_nodes(tmp_path: Path, nodes: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(BLOCK.partition("nodes:")[0] + nodes)
    add_nodes(path, [_new("gate", 1, role="login"), _new("a", 2)])
    assert [node.name for node in load_inventory(path).nodes] == ["gate", "a"]
    assert ("# tail" in path.read_text()) == ("# tail" in nodes)


def test_removing_takes_the_nodes_lines_alone(lab: Path) -> None:
    before = lab.read_text()
    remove_node(lab, "green3")
    (gone,) = _changes(before, lab.read_text())
    assert gone.startswith("-  - {name: green3,")


def test_removing_a_block_keeps_the_comments_around_it(block: Path) -> None:
    remove_node(block, "a")
    assert block.read_text() == BLOCK[: BLOCK.index("  - name: a ")] + "\n# the end\n"


def test_renaming_changes_the_name_where_it_stands(lab: Path) -> None:
    before = lab.read_text()
    rename_node(lab, "pi-login", "gate")
    changes = _changes(before, lab.read_text())
    assert [line.strip("+- {").partition(",")[0] for line in changes] == [
        "login: {node: pi_login",
        "login: {node: gate",
        "name: pi_login",
        "name: gate",
    ]
    assert "uplink: wlan0}" in changes[1]
    assert load_inventory(lab).login.name == "gate"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: remove_node(path, "pi_login"), "pi_login is the login server"),
        (lambda path: remove_node(path, "gren1"), "no node 'gren1' in .*; did you mean 'green1'"),
        (lambda path: rename_node(path, "green1", "green2"), "two nodes are called 'green2'"),
        (lambda path: rename_node(path, "green1", "a b"), "name 'a b' makes no host name"),
        (lambda path: add_nodes(path, [_new("x", 9)]), "address 10.0.0.9 is not in the subnet"),
        (lambda path: add_nodes(path, [_new("green1", 9)]), "two nodes are called 'green1'"),
        (lambda path: add_nodes(path, [_new("x", 9, rolle="a")]), "unknown key 'rolle'"),
    ],
)
def test_a_wrong_edit_leaves_the_file_alone(lab: Path, edit: Callable[[Path], None], message: str) -> None:
    before = lab.read_bytes()
    with pytest.raises(InputError, match=message):
        edit(lab)
    assert lab.read_bytes() == before
    assert list(lab.parent.iterdir()) == [lab]


def test_messages_name_the_file_and_not_its_new_text(lab: Path) -> None:
    with pytest.raises(InputError) as caught:
        add_nodes(lab, [_new("x", 9)])
    assert {problem.mark.file for problem in caught.value.problems if problem.mark} == {lab}


def test_a_wrong_node_can_be_removed_beside_another_wrong_one(lab: Path) -> None:
    lab.write_text(lab.read_text().replace("c72aafcf", "c72aafcfc").replace("26e8a399", "26e8a3999"))
    remove_node(lab, "green3")
    with pytest.raises(InputError) as caught:
        load_inventory(lab)
    assert [problem.message.partition(":")[0] for problem in caught.value.problems] == ["node green8"]


def test_nodes_in_one_flow_list_are_left_to_a_person(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    entry = '{name: gate, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login}'
    text = BLOCK.partition("nodes:")[0] + f"nodes: [{entry}]\n"
    path.write_text(text)
    with pytest.raises(InputError, match="nodes is not a list of '- ' items"):
        add_nodes(path, [_new("a", 2)])
    assert path.read_text() == text


def test_ends_of_lines_mode_and_link_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_bytes(BLOCK.replace("\n", "\r\n").encode())
    real.chmod(0o640)
    link = tmp_path / "cluster.yaml"
    link.symlink_to(real.name)
    rename_node(link, "a", "b")
    assert real.read_bytes() == BLOCK.replace("name: a ", "name: b ").replace("\n", "\r\n").encode()
    assert real.stat().st_mode & 0o7777 == 0o640
    assert link.is_symlink()


@given(st.lists(st.tuples(st.sampled_from("+-~"), st.integers(3, 60)), max_size=6), st.sampled_from((BLOCK, "example")))
@settings(max_examples=10)
def test_no_edit_loses_a_comment_or_touches_another_node(edits: list[tuple[str, int]], text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cluster.yaml"
        path.write_text(EXAMPLE.read_text().replace("192.168.2.", "10.0.0.") if text == "example" else text)
        comments = [line for line in path.read_text().splitlines() if line.lstrip().startswith("#")]
        expected = {node.name: node.serial for node in load_inventory(path).nodes}
        for kind, number in edits:
            name = f"n{number}"
            if kind == "+" and name not in expected and f"m{number}" not in expected:
                add_nodes(path, [_new(name, number + 100)])
                expected[name] = f"000000{number + 100:02x}"
            elif kind == "-" and name in expected:
                remove_node(path, name)
                del expected[name]
            elif kind == "~" and name in expected:
                rename_node(path, name, f"m{number}")
                expected = {f"m{number}" if old == name else old: serial for old, serial in expected.items()}
        assert {node.name: node.serial for node in load_inventory(path).nodes} == expected
        assert [line for line in path.read_text().splitlines() if line.lstrip().startswith("#")] == comments


def test_the_labs_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pi_info.txt"
    path.write_text(
        "# NAME MAC SERIAL IP\n\ngreen1 e4:5f:01:f6:07:87 85b6d0ea 192.168.2.20\n"
        "green_2\tE4-5F-01-F6-08-02   100000000783b082 192.168.2.21  # new\n"
    )
    first, second = import_pi_info(path)
    assert first.entry() == {
        "name": "green1",
        "serial": "85b6d0ea",
        "mac": "e4:5f:01:f6:07:87",
        "address": "192.168.2.20",
        "role": "worker",
    }
    assert (second.name, second.serial) == ("green_2", "100000000783b082")


def test_every_wrong_line_of_the_labs_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pi_info.txt"
    path.write_text(
        "green1 e4:5f:01:f6:07:87 85b6d0ea\n"
        "green3 e4:5f:01:f6:07:c6 c72aafcfc 192.168.2.22\n"
        "green4 7cb48d88 e4:5f:01:f6:07:8d 192.168.2.23\n"
        "green5 e4:5f:01:f5:f1:5d 43b5285d 192.168.2\n"
    )
    with pytest.raises(InputError) as caught:
        import_pi_info(path)
    assert [(problem.mark.line if problem.mark else 0, problem.message) for problem in caught.value.problems] == [
        (1, "3 columns; a line has 4: name, MAC address, serial number, IP address"),
        (2, "node green3: serial 'c72aafcfc': it has 9 hex digits; a Raspberry Pi's has 8"),
        (3, "node green4: mac '7cb48d88': it is not of the form aa:bb:cc:dd:ee:ff"),
        (3, "node green4: serial 'e4:5f:01:f6:07:8d': ':' is not a hex digit"),
        (4, "node green5: address '192.168.2': Expected 4 octets in '192.168.2'"),
    ]


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_pi_info(tmp_path / "pi_info.txt")


def test_an_imported_list_makes_a_cluster(block: Path, tmp_path: Path) -> None:
    path = tmp_path / "pi_info.txt"
    path.write_text("b 02:00:00:00:00:0b 0000000b 10.0.0.11\nc 02:00:00:00:00:0c 0000000c 10.0.0.12\n")
    add_nodes(block, import_pi_info(path))
    assert [node.name for node in load_inventory(block).nodes] == ["gate", "a", "b", "c"]


def test_a_list_from_windows_and_one_with_odd_characters_in_a_comment_are_read_by_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "pi_info.txt"
    row = "green9 e4:5f:01:f6:07:99 85b6d0e9 192.168.2.99"
    for text in (f"\ufeff{row}\r\n", f"# was\x0c{row}\u2028{row}\x85\n{row}\n"):
        path.write_bytes(text.encode())
        assert [node.name for node in import_pi_info(path)] == ["green9"]

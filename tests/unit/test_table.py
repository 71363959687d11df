"""Tables on a narrow terminal: every table that a command prints, with its longest values, at three widths."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import tables
from builder.printable import one_line
from builder.table import Row, Table, in_full, laid_out

CLI = Path(tables.__file__).parent
DIGEST = "0123456789abcdef" * 4
GENERATION = "b36aee55fdc0-0a1b2c3d4e5f"
SENTENCE = "192.168.2.1 offers mlops-master (d8:3a:dd:0b:01:2c) nothing, and 16 more nodes are answered wrongly"
ROWS: dict[str, Sequence[Row]] = {
    "PLAN": [
        ("store-victoria-metrics", DIGEST[:12], "to build", "packages: versions (golden.yaml:33), run (a.yaml:7)")
    ],
    "EMULATION": [("native", "/usr/lib/aarch64-linux-gnu/perl-base/perl-5.40.1", 10234, "1234.5")],
    "CACHE_GC": [(f"/var/cache/pibuild/layers/{DIGEST[:32]}", "1023.9 MiB", "2026-11-28 06:20")],
    "FINDINGS": [
        ("host key ecdsa-sha2-nistp256 unique", "broken", f"modules are of 6.12.47+rpt-rpi-v8: {SENTENCE}"),
    ],
    "BOOTLOADER": [(12, "0a1b2c3d/overlays/vc4-kms-v3d-pi5.dtbo", "missing", 123456789, SENTENCE)],
    "EXPLODED": [("mlops-master", "ingest and make", "reflink", GENERATION, GENERATION, "2490e89e")],
    "WOULD_EXPLODE": [("mlops-master", "ingest and make", "reflink", GENERATION, GENERATION, "2490e89e")],
    "ROLLED_BACK": [("mlops-master", GENERATION, GENERATION, "held")],
    "WOULD_ROLL_BACK": [("mlops-master", GENERATION, GENERATION, "held")],
    "NODES": [
        (
            "mlops-master",
            "2490e89e",
            "d8:3a:dd:0b:01:2c",
            "192.168.222.111",
            48,
            "master",
            "pi400",
            f"network, held at {GENERATION}",
        )
    ],
    "EXPLAINED": [
        ("metrics.url", "http://192.168.2.2:8428/api/v1/write", "group yellow", "/etc/pibuild/cluster.yaml:123:100")
    ],
    "NODE_GC": [
        (f"/srv/netboot/generations/{DIGEST[:12]}", "no root is made of it, and nothing has used it since 2026-11-01")
    ],
    "LAB": [("mlops-master", "192.168.222.111", "loading", 12, "/srv/netboot/lab/logs/mlops-master.12.log")],
    "LAB_SERVERS": [("nfs-ganesha", "ended: killed by SIGKILL", "/srv/netboot/lab/logs/nfs-ganesha.log")],
    "MODELS": [
        (
            "jen-assistant-large",
            "2026.11-q4",
            "1023.9 GiB",
            123456,
            "1023.9 MiB",
            "1023.9 GiB",
            "2026-11-28 06:20",
            "yes",
        )
    ],
    "CHUNKS": [(123456789012, 16777216, DIGEST)],
    "BAD_CHUNKS": [(DIGEST, "is not what its name says", "jen 3, jen-assistant-large 2026.11-q4")],
    "MODELS_GC": [(f"chunks/01/{DIGEST}", "1023.9 MiB", "no version needs it")],
    "NODE_MODELS": [("mlops-master", "jen-assistant-large", "2026.11-q4", "2026-11-28 06:20 Europe/Athens", "yes")],
    "FLEET": [
        (
            "mlops-master",
            "123 min ago",
            "degraded",
            GENERATION,
            "6.12.47+rpt-rpi-2712",
            "jen 3, tom 2026.11-q4",
            "2490e89e",
        )
    ],
    "SNAPSHOTS": [("5f2c81aa", "2026-11-28 06:20:00", "mlops-master", 123456, "1023.9 GiB")],
}
TABLES = {name: table for name, table in vars(tables).items() if isinstance(table, Table)}


def test_every_table_is_here_with_its_longest_values() -> None:
    assert set(ROWS) == set(TABLES)
    for name, table in TABLES.items():
        assert all(len(row) == len(table.columns) for row in ROWS[name]), name
        assert table.empty


def test_commands_print_no_other_tables() -> None:
    for module in CLI.glob("*.py"):
        for call in ast.walk(ast.parse(module.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "console.print_table":
                printed = {ast.unparse(node) for node in ast.walk(call.args[0]) if isinstance(node, ast.Attribute)}
                assert printed <= {f"tables.{name}" for name in TABLES}, ast.unparse(call)
                assert printed


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_no_value_is_broken(name: str, width: int) -> None:
    table, rows = TABLES[name], ROWS[name]
    lines, left_out = laid_out(table, rows, width)
    assert set(left_out) <= set(table.drop)
    words = [word for line in lines for word in line.split()]
    for column, value in zip(table.columns, rows[0], strict=True):
        if column in left_out:
            continue
        whole = [str(value)] if column not in table.prose else str(value).split()
        assert all(any(part in line for line in lines) for part in whole), column
        assert set(str(value).split()) <= set(words)
    assert {line for line in lines if len(line) > width} <= {str(value) for value in rows[0]}


@pytest.mark.parametrize("name", TABLES)
def test_in_full_a_row_is_a_line_with_every_value(name: str) -> None:
    heading, row = in_full(TABLES[name], ROWS[name])
    assert heading.split() == " ".join(TABLES[name].columns).split()
    assert all(str(value) in row for value in ROWS[name][0])


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (40, ["name   serial    told", "green  0a1b2c3d  it is well and runs"], ()),
        (32, ["name   told", "green  it is well and runs"], ("serial",)),
        (20, ["green", "  serial  0a1b2c3d", "  told", "it is well and runs"], ()),
    ],
)
def test_columns_go_before_a_table_turns_into_blocks(width: int, shown: list[str], left_out: tuple[str, ...]) -> None:
    table = Table(columns=("name", "serial", "told"), drop=("serial",), prose=("told",), empty="none")
    assert laid_out(table, [("green", "0a1b2c3d", "it is well and runs")], width) == (shown, left_out)


def as_told(value: str) -> str:
    return one_line(" ".join(value.splitlines()).replace("\t", " "))


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1), st.integers(10, 120))
def test_whatever_the_values_nothing_is_lost_and_no_line_too_long(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table(columns=("a", "b", "c"), drop=("b",), prose=("c",), empty="none")
    lines, left_out = laid_out(table, rows, width)
    shown = "".join("".join(lines).split())
    for one, two, three in rows:
        for value in (one, three) if left_out else (one, two, three):
            assert all(word in shown for word in as_told(value).split())
    values = {as_told(value).rstrip() for row in rows for value in row}
    assert {line for line in lines if len(line) > width} <= values


def test_a_table_names_its_own_columns() -> None:
    with pytest.raises(ValueError, match="no such columns"):
        Table(columns=("a", "b"), drop=("c",), empty="none")

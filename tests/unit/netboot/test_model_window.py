"""What nodes are told of models: which, from where, and when each begins."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from builder.cli import main as cli
from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.netboot.model_window import node_models
from tests.clusters import variant

MODELS = """\
  models:
    store: https://models.example.org/store
    window: {start: "23:00", length: 4h}
    limit: 500K
"""


def test_models_are_kept_where_they_do_not_lie_in_the_root(tmp_path: Path) -> None:
    inventory = load_inventory(lab(tmp_path))
    node = inventory.node("yellow3")
    for persist, boot, kept in (
        ((), "network", False),
        (("/var/lib/model",), "network", False),
        (("/var/lib/models",), "network", True),
        (("/var/lib",), "network", True),
        ((), "local", True),
    ):
        told = node_models(inventory, replace(node, persist=persist, boot=boot))
        assert told is not None
        assert told.kept is kept


def lab(directory: Path, *, models: str = MODELS, given: str = '{jen: "3"}') -> Path:
    """Write the lab's inventory with models for the workers."""
    path = variant(directory)
    text = path.read_text().replace("  nfs: {server", f"{models}  nfs: {{server")
    path.write_text(text.replace("  worker:\n", f"  worker:\n    models: {given}\n"))
    return path


def seconds(moment: str) -> int:
    hour, minute, second = map(int, moment.split(":"))
    return hour * 3600 + minute * 60 + second


def test_workers_fetch_and_nobody_else(tmp_path: Path) -> None:
    inventory = load_inventory(lab(tmp_path))
    told = node_models(inventory, inventory.node("yellow3"))
    assert told is not None
    assert (told.store, dict(told.wanted)) == ("https://models.example.org/store", {"jen": "3"})
    assert (told.length, told.limit, told.signed) == (4 * 3600, 500 << 10, True)
    assert node_models(inventory, inventory.node("mlops_master")) is None


def test_ten_nodes_do_not_begin_together(tmp_path: Path) -> None:
    inventory = load_inventory(lab(tmp_path))
    told = [
        node_models(inventory, inventory.node(f"{colour}{n}")) for colour in ("green", "yellow") for n in range(1, 6)
    ]
    moments = sorted((seconds(each.moment) - 23 * 3600) % 86400 for each in told if each)
    assert len(moments) == 10
    assert moments[0] >= 0
    assert moments[-1] < 4 * 3600
    gaps = [after - before for before, after in pairwise(moments)]
    assert min(gaps) >= 60
    assert moments[-1] - moments[0] > 2 * 3600
    starts = sorted(each.boot_delay for each in told if each)
    assert len(set(starts)) == 10
    assert (min(starts) >= 60, max(starts) < 660) == (True, True)


def test_many_nodes_fill_the_window(tmp_path: Path) -> None:
    inventory = load_inventory(lab(tmp_path))
    node = inventory.node("yellow1")
    told = [node_models(inventory, replace(node, name=f"pi-{number}")) for number in range(480)]
    quarters = [0] * 16
    for each in told:
        assert each is not None
        quarters[(seconds(each.moment) - 23 * 3600) % 86400 // 900] += 1
    assert sum(quarters) == 480
    assert max(quarters) < 60  # 30 on average


def test_a_nodes_moment_is_its_own_for_good(tmp_path: Path) -> None:
    inventory = load_inventory(lab(tmp_path))
    told = node_models(inventory, inventory.node("yellow3"))
    assert told is not None
    assert (told.moment, told.boot_delay) == ("01:31:38", 158)


@pytest.mark.parametrize(
    ("models", "given", "said"),
    [
        ("", '{jen: "3"}', "the cluster names no store of models"),
        (MODELS, '{jen: "../3"}', r"version '\.\./3'"),
        (MODELS, '{current: "3"}', "a name that nodes use themselves"),
        (MODELS, "{jen: 3}", "models.jen"),
        (MODELS.replace("https:", "ftp:"), '{jen: "3"}', "store"),
        (MODELS.replace("23:00", "25:00"), '{jen: "3"}', "start"),
        (MODELS + "    signers: [nobody]\n", '{jen: "3"}', "'nobody' is not a public key"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(models: str, given: str, said: str, tmp_path: Path) -> None:
    path = lab(tmp_path, models=models, given=given)
    with pytest.raises(InputError, match=said) as caught:
        load_inventory(path)
    assert all(problem.mark is not None for problem in caught.value.problems)


def test_the_command_lists_who_fetches_what_and_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["models", "nodes", "--cluster", str(lab(tmp_path)), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 16
    assert rows[0] == {"node": "green1", "model": "jen", "version": "3", "begins": "23:50:31", "kept": False}

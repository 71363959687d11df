"""What a shell completes, from the files at hand, and how soon."""

import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from builder.cli import complete
from builder.cli import main as cli
from builder.firmware.boards import BOARDS
from builder.inventory.load import DEFAULT_PATHS
from builder.run import run

PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text((PROJECT / "cluster.yaml").read_text())
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: [golden]\nvariables:\n  greeting: {type: string}\n")
    (tmp_path / "mine.lock.yaml").write_text("format: 2\n")
    return tmp_path


def completed(line: str) -> list[str]:
    """Return what a shell would offer for the last word of a command line."""
    *words, incomplete = line.split(" ")
    found = ShellComplete(cli.pibuild, {}, "pibuild", "_PIBUILD_COMPLETE").get_completions(words, incomplete)
    return [item.value for item in found if item.type == "plain"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("explode yellow1", ["yellow1"]),
        ("explode --node yel", [f"yellow{number}" for number in range(1, 9)]),
        ("explode yellow1 yellow2 yellow", [f"yellow{number}" for number in range(3, 9)]),
        ("rollback --group ", ["green", "yellow"]),
        ("node explain pi-l", ["pi-login"]),
        ("lab ssh mlops", ["mlops-master"]),
        ("explode --role w", ["worker"]),
        ("boot --board pi5", [name for name in BOARDS if name.startswith("pi5")]),
        ("build golden --set time", ["timezone="]),
        ("build mine.yaml --set greet", ["greeting="]),
        ("build mine.yaml --set timez", ["timezone="]),
        ("plan min", ["mine.yaml"]),
        ("plan gol", ["golden"]),
        ("explode --cluster missing.yaml yel", []),
    ],
)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


@pytest.mark.parametrize(
    "text", ["nodes: [", "nodes: 3\n", "- a\n", "nodes: [{name: [a]}, 7]\n", "a: &a [*a]\n", "\0", "groups: [yellow]\n"]
)
def test_an_inventory_that_is_being_written_completes_to_nothing(text: str, place: Path) -> None:
    (place / "cluster.yaml").write_text(text)
    for line in ("explode y", "explode --role w", "explode --group y"):
        assert completed(line) == []


def test_recipes_that_extend_each_other_come_to_an_end(place: Path) -> None:
    (place / "mine.yaml").write_text("name: mine\nextends: [mine.yaml]\nvariables: {greeting: {}}\n")
    assert completed("plan mine.yaml --set gr") == ["greeting="]


def test_the_inventory_is_looked_for_where_commands_look() -> None:
    assert complete._PLACES == DEFAULT_PATHS


@pytest.mark.tools
def test_it_needs_none_of_the_slow_modules(place: Path) -> None:
    env = {"_PIBUILD_COMPLETE": "bash_complete", "COMP_WORDS": "pibuild explode yellow", "COMP_CWORD": "2"}
    argv = [sys.executable, "-P", "-X", "importtime", "-c", "from builder.cli.main import main; main()"]
    ended = run(argv, env={**env, "PYTHONPATH": str(PROJECT)}, cwd=place)
    assert "yellow3" in ended.stdout
    modules = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert not modules & {"pydantic", "requests", "rich", "jinja2", "builder.inventory.load"}


def test_every_node_argument_completes() -> None:
    def walk(group: click.Group, *words: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                walk(command, *words, name)
            for param in command.params:
                if param.metavar in ("NODE", "[NODE]...") and (*words, name) not in (("node", "add"), ("init",)):
                    assert param._custom_shell_complete is complete.nodes, (*words, name, param.name)

    walk(cli.pibuild)

"""What all commands have in common, held over click's tree: options, --dry-run, --json, exit codes, wrong words."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from builder.cli import main as cli
from builder.cli.names import ELSEWHERE

PROJECT = Path(__file__).parents[3]


def _walk(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _walk(command, *words, name)
        else:
            yield " ".join([*words, name]), command


COMMANDS = dict(_walk(cli.pibuild))
READING = {
    "plan", "inspect", "diff", "boot", "node list", "node explain", "services render", "services diff",
    "services check", "monitoring render", "monitoring diff", "lab status", "models list", "models show",
    "models nodes", "fleet list", "backup list", "schema", "completion",
}  # fmt: skip
# what ends only when it is told to, or becomes another program
LASTING = {"fleet serve", "lab ssh"}
NO_JSON = {*LASTING, "schema", "completion"}  # the first prints JSON anyway, the other a script
ARGUMENTS = {
    "plan": "golden", "build": "golden", "lock": "golden", "inspect": "IMAGE", "diff": "IMAGE IMAGE", "boot": "IMAGE",
    "explode": "yellow3", "rollback": "yellow3", "node explain": "yellow3", "node remove": "yellow3",
    "node rename": "yellow3 blue1", "node import": "FILE", "lab up": "yellow3", "lab ssh": "yellow3",
    "node add": "yellow9 --serial 0a1b2c3d --mac e4:5f:01:f5:f1:99 --address 192.168.2.36",
    "models publish": "FILE --name jen --version 3", "models show": "jen", "fleet token": "yellow3",
    "backup list": "yellow3 --repository /srv", "backup rotate": "yellow3", "restore": "yellow3 --to NEW",
    "metrics token": "yellow3", "metrics vmauth": "--output NEW", "completion": "bash",
}  # fmt: skip
OF_NODES = {name for name, words in ARGUMENTS.items() if words.startswith("yellow3")} - {"lab ssh"}
NEED_ROOT = {
    "build", "explode", "rollback", "node gc", "services apply", "lab up", "lab down", "lab ssh", "fleet token",
    "backup list", "backup rotate", "restore", "metrics token", "metrics vmauth",
}  # fmt: skip


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option) and not param.hidden]


def _has(name: str, option: str) -> bool:
    return any(option in each.opts for each in _options(COMMANDS[name]))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Arguments that each command takes; the inventory is the lab's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text((PROJECT / "cluster.yaml").read_text())
    (tmp_path / "file").write_text("blue7 e4:5f:01:f5:f1:77 0a1b2c77 192.168.2.77\n")
    places = {"FILE": "file", "NEW": str(tmp_path / "new"), "IMAGE": str(tmp_path / "none.img")}
    return {
        name: [*name.split(), *(places.get(word, word) for word in ARGUMENTS.get(name, "").split())]
        for name in COMMANDS
    }


def test_every_command_is_known_here() -> None:
    assert READING | LASTING | NO_JSON | set(ARGUMENTS) | NEED_ROOT <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - READING - LASTING))
def test_what_changes_something_has_a_dry_run(name: str) -> None:
    assert _has(name, "--dry-run")
    assert _has(name, "-n")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - NO_JSON))
def test_what_prints_has_json(name: str) -> None:
    assert _has(name, "--json")


def test_an_option_means_the_same_wherever_it_is() -> None:
    meanings: dict[str, dict[str, set[str]]] = {}
    for name, command in COMMANDS.items():
        for option in _options(command):
            meanings.setdefault(option.opts[0], {}).setdefault(option.help or "", set()).add(name)
    one = ["--dry-run", "--json", "--wide", "--progress", "--cluster", "--dest", "--node", "--all", "--set"]
    assert {name: told for name, told in meanings.items() if name in one and len(told) > 1} == {}
    assert set(meanings["--group"]) == {"All nodes of a group.", "A group it is in; repeatable."}
    server = "The one node of this role is the server; default: cluster.monitoring.server, else the master."
    assert set(meanings["--role"]) == {"All nodes of a role.", "The role of what is added.", server}


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if name not in NO_JSON))
def test_wrong_usage_is_json_too(name: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command([*words[name], "--json", "--no-such-option"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    failed = json.loads(shown.err.splitlines()[-1])
    assert failed["event"] == "failed"
    assert failed["error"]["exit_code"] == 2
    assert "--no-such-option" in failed["error"]["message"]


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if _has(name, "--cluster")))
def test_an_inventory_that_is_not_there_is_wrong_input(
    name: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("boot", "models publish", "models gc", "backup list"):
        extra = {"boot": ["boot", "--node", "yellow3", "--netboot"], "models gc": [*words[name], "--keep", "1"]}
        line = extra.get(name, words[name])
    else:
        line = words[name]
    assert cli.run_command([*line, "--cluster", "missing.yaml"]) == 2
    shown = capsys.readouterr()
    assert "missing.yaml" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("name", sorted(OF_NODES))
def test_a_node_that_is_not_there_is_wrong_input_with_what_was_meant(
    name: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["yelow3" if word == "yellow3" else word for word in words[name]]
    assert cli.run_command(line) == 2
    assert "did you mean 'yellow3'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(NEED_ROOT))
def test_without_root_the_hint_is_the_command_again(
    name: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.run_command(words[name]) == 3
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint.strip() == f"hint: sudo pibuild {' '.join(words[name])}"


@pytest.mark.parametrize("name", ["inspect", "diff", "boot"])
def test_an_image_that_is_not_there_is_wrong_input(
    name: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(words[name]) == 2
    assert "none.img" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bild", "Did you mean 'pibuild build'?"),
        ("show", "That is: pibuild inspect IMAGE, pibuild node explain NODE"),
        ("status", "That is: pibuild fleet list, pibuild lab status, pibuild services check"),
        ("node lst", "Did you mean 'pibuild node list'?"),
        ("rotate", "Did you mean pibuild backup rotate?"),
        ("xyzzy", "'pibuild --help' lists them."),
        ("plan golden.yml", "pibuild plan golden"),
        ("plan goldn", "did you mean 'golden'"),
        ("explode --group yelow", "did you mean 'yellow'"),
        ("explode --role wrker", "did you mean 'worker'"),
    ],
)
def test_a_wrong_word_is_answered_with_what_was_meant(
    line: str, said: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words
    assert cli.run_command(line.split()) == 2
    assert said in capsys.readouterr().err


def test_every_word_of_other_programs_leads_to_a_command_that_is_there() -> None:
    commands = set(COMMANDS)
    for told in ELSEWHERE.values():
        for each in told.split(", "):
            named = re.sub(r" [A-Z]+| --[a-z-]+$", "", each)
            assert named in commands or named.startswith("--"), each


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("node add", ARGUMENTS["node add"]),
        ("node import", "file"),
        ("node remove", "yellow3 --dest none"),
        ("node rename", "yellow3 blue1 --dest none"),
    ],
)
def test_a_dry_run_of_an_edit_leaves_the_inventory_as_it_is(
    name: str, arguments: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words
    before = Path("cluster.yaml").read_bytes()
    line = [*name.split(), *arguments.split()]
    assert cli.run_command([*line, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert Path("cluster.yaml").read_bytes() == before
    assert cli.run_command(line) == 0
    assert Path("cluster.yaml").read_bytes() != before


def test_what_an_option_says_of_output_holds_for_its_command_alone(
    words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command([*words["inspect"], "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["event"] == "failed"
    assert cli.run_command(words["inspect"]) == 2
    assert capsys.readouterr().err.startswith("error: ")

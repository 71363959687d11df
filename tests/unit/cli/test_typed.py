"""Hints name commands that work as they stand."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from builder.cli import typed
from builder.cli.main import pibuild, run_command
from builder.cli.typed import works
from builder.errors import InputError, Problem


@pytest.fixture(autouse=True)
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pibuild"])
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/pibuild")


@pytest.mark.parametrize(
    ("hint", "line", "expected"),
    [
        # what needs root alone, as it was typed
        ("sudo pibuild explode", "explode --node y3 -n", "sudo pibuild explode --node y3 -n"),
        ("sudo pibuild build", "build golden --set a=b c", "sudo pibuild build golden --set a=b c"),
        # sudo where it is missing, and the inventory and directory that were given
        (
            "pibuild explode --unhold --node y3",
            "explode --all --cluster a/c.yaml --dest=/x",
            "sudo pibuild explode --unhold --node y3 --cluster a/c.yaml --dest /x",
        ),
        ("pibuild node list", "node remove y --cluster c.yaml --dest /x", "pibuild node list --cluster c.yaml"),
        ("pibuild gc --keep-days 7, or less", "build golden", "sudo pibuild gc --keep-days 7, or less"),
        # several, and prose
        (
            "sudo pibuild lab status; sudo pibuild lab down --dest /y",
            "lab up y3 --dest /x",
            "sudo pibuild lab status --dest /x; sudo pibuild lab down --dest /y",
        ),
        (
            "pibuild explode --fresh makes a node's root anew",
            "rollback y3 --dest /x",
            "sudo pibuild explode --fresh --dest /x makes a node's root anew",
        ),
        ("free some space (df -h /x; pibuild gc)", "build golden", "free some space (df -h /x; sudo pibuild gc)"),
        (
            "a: sudo pibuild services apply --for login\n   b: sudo systemctl restart x",
            "services check --cluster c.yaml",
            "a: sudo pibuild services apply --for login --cluster c.yaml\n   b: sudo systemctl restart x",
        ),
        ("pibuild never changes it", "build golden", "pibuild never changes it"),
        ("the directory /x/pibuild node", "build golden", "the directory /x/pibuild node"),
    ],
)
def test_a_hint_works_as_it_stands(hint: str, line: str, expected: str) -> None:
    assert works(hint, pibuild, line.split()) == expected


def test_root_types_no_sudo_of_its_own_accord(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert works("pibuild gc", pibuild, ["build", "golden"]) == "pibuild gc"


def test_a_program_that_the_path_of_root_lacks_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["my checkout/.venv/bin/pibuild", "explode", "--all"])
    hint = works("sudo pibuild explode", pibuild, ["explode", "--all"])
    assert hint == "sudo 'my checkout/.venv/bin/pibuild' explode --all"


def test_every_command_that_asks_for_root_is_known_to() -> None:
    known = {" ".join(typed._command_of(pibuild, words.split())[0]) for words in typed._AS_ROOT}
    assert known == typed._AS_ROOT


def test_a_failure_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = tmp_path / "lab.yaml"
    cluster.write_bytes((Path(__file__).parents[3] / "cluster.yaml").read_bytes())
    assert run_command(["node", "explain", "nobody", "--cluster", str(cluster)]) == 2
    assert f"hint: pibuild node list --cluster {cluster}\n" in capsys.readouterr().err


def test_problems_of_a_file_keep_their_places() -> None:
    error = InputError(Problem(message="a", hint="pibuild gc"), Problem(message="b"))
    typed.mend_hints(error, pibuild, ["build", "x"])
    assert str(error) == "a\n    hint: sudo pibuild gc\nb"

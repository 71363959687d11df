"""What is printed is what was meant: paths stay whole, results and diagnostics stay apart."""

import json
import re
import sys
from pathlib import Path

import pytest

from builder import console
from builder.errors import HostError
from builder.run import run

BRACKETS = "/etc/[nodes]/:smile:/[red]x[/red] https://example.com 10.0.0.1 'quoted' " + "long/" * 60


def test_nothing_is_markup_and_no_line_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(BRACKETS)
    console.note(BRACKETS)
    console.warn(BRACKETS)
    console.fail(HostError(BRACKETS, hint="see [this]"))
    shown = capsys.readouterr()
    assert shown.out == f"{BRACKETS}\n"
    assert shown.err == f"{BRACKETS}\nwarning: {BRACKETS}\nerror: {BRACKETS}\nhint: see [this]\n"


def test_json_keeps_order_and_letters(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"z": Path("/a/[b]"), "a": [1, None, True]})
    shown = capsys.readouterr()
    assert list(json.loads(shown.out)) == ["z", "a"]
    assert json.loads(shown.out) == {"z": "/a/[b]", "a": [1, None, True]}
    assert shown.err == ""


def test_a_table_in_a_pipe_has_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(
        ("layer [1]", "", "path"), [("base", "ok", BRACKETS), (3, "", "x"), ("", "", "")], title="[layers]"
    )
    assert capsys.readouterr().out == (
        f"[layers]\nlayer [1]      path\nbase       ok  {BRACKETS}".rstrip() + "\n3              x\n\n"
    )


def test_a_table_without_rows_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("layer", "state"), [])
    assert capsys.readouterr().out == "layer  state\n"


@pytest.mark.tools
def test_a_table_on_a_terminal_folds_and_loses_no_letter() -> None:
    digest = "0123456789abcdef" * 4
    script = f"from builder import console; console.print_table(('a', 'b'), [('[x]', '{digest}')], title='[t]')"
    shown = run(["script", "-qec", f'stty cols 40; {sys.executable} -c "{script}"', "/dev/null"], env={"TERM": "xterm"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line.replace("[x]", "").strip() for line in lines[2:]) == digest


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("layer [base]"):
        console.note("between")
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "layer [base] …"
    assert second == "between"
    assert third.startswith("layer [base]: 0.")
    assert third.endswith(" s")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert console.size(count) == text

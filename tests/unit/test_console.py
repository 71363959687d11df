"""What is printed is what was meant: paths stay whole, results and diagnostics stay apart."""

import json
import re
import sys
from pathlib import Path

import pytest

from builder import console
from builder.errors import HostError
from builder.run import run
from builder.table import Table

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
    table = Table(columns=("layer [1]", "", "path"), empty="none")
    console.print_table(table, [("base", "ok", BRACKETS), (3, "", "x"), ("", "", "")], title="[layers]")
    assert capsys.readouterr().out == (
        f"[layers]\nlayer [1]      path\nbase       ok  {BRACKETS}".rstrip() + "\n3              x\n\n"
    )


def test_a_table_without_rows_says_so_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(Table(columns=("layer", "state"), empty="no layers"), [])
    assert capsys.readouterr().out == "no layers\n"


def test_nothing_printed_gives_the_terminal_an_order(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;mine\x07 \x1b[2J\x9b2J\ttab\nnext\r\u202egpj.exe\udc80\ud800\u2028ü"
    escaped = r"\x1b]0;mine\x07 \x1b[2J\x9b2J" + "\ttab\nnext" + r"\r\u202egpj.exe\x80\ud800\u2028ü"
    console.say(hostile)
    console.note(hostile)
    console.warn(hostile)
    console.fail(HostError(hostile))
    shown = capsys.readouterr()
    assert shown.out == f"{escaped}\n"
    assert shown.err == f"{escaped}\nwarning: {escaped}\nerror: {escaped}\n"
    console.print_table(Table(columns=("path", "why"), empty="none"), [(Path(hostile), "x"), ("a\nb", "\x1b[1m")])
    path = escaped.replace("\t", r"\t").replace("\n", r"\n")
    assert capsys.readouterr().out == f"{'path':{len(path)}}  why\n{path}  x\n{'a b':{len(path)}}  \\x1b[1m\n"


@pytest.mark.tools
@pytest.mark.parametrize("wide", [False, True])
def test_a_table_on_a_terminal_has_whole_values(*, wide: bool) -> None:
    digest = "0123456789abcdef" * 4
    script = (
        "from builder import console; from builder.table import Table; "
        f"{'console.everything_shown(); ' if wide else ''}"
        f"console.print_table(Table(columns=('a', 'b', 'c'), drop=('b',), empty=''), [('[x]', '{digest}', 'z')])"
    )
    shown = run(["script", "-qec", f'stty cols 40; {sys.executable} -c "{script}"', "/dev/null"], env={"TERM": "xterm"})
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout).splitlines()]
    if wide:
        assert lines == [f"a    {'b':64}  c", f"[x]  {digest}  z"]
    else:
        assert lines == ["a    c", "[x]  z", "not shown: b (--wide)"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert console.size(count) == text

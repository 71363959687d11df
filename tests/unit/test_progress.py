"""What a command says of work that goes on: a line on a terminal, lines with times in a log, events for programs."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import console
from builder.errors import InputError, Mark, PibuildError, Problem
from builder.progress import Figures, Piece, Transfer, Work, duration
from builder.run import run

DOCS = Path(__file__).parents[2] / "docs" / "terminal.md"
SCHEMA = {
    event: set(re.findall(r"`(\w+)`", keys))
    for event, keys in re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
}
PROBLEM = Problem(message="unknown key", mark=Mark(file=Path("a.yaml"), line=1, column=2), hint="did you mean 'name'?")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    console.begin()
    yield
    console.begin()


def _everything() -> None:
    """Do what a build does, in short: every kind of event, but for `still` and `transfer`, which time brings."""
    console.note("begun")
    with console.working():
        console.passed("layer base", "cached", number=1, of=2)
        with console.progress("layer kernel", number=2, of=2):
            console.step("packages (golden.yaml:33)")
        console.warn("careful")
        with console.progress("publish"):
            pass
    console.fail(PibuildError("it failed", hint="do this"))


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_terminal_lines_have_times(capsys: pytest.CaptureFixture[str]) -> None:
    _everything()
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [re.sub(r"^\[ +[0-9]+\.[0-9] s\] ", "@ ", line) for line in shown.err.splitlines()]
    assert [re.sub(r"[0-9]+\.[0-9] s$", "# s", line) for line in lines] == [
        "begun",
        "@ layer 1 of 2, base: cached",
        "@ layer 2 of 2, kernel …",
        "@ layer 2 of 2, kernel: packages (golden.yaml:33)",
        "@ layer 2 of 2, kernel: # s",
        "warning: careful",
        "@ publish …",
        "@ publish: # s",
        "error: it failed",
        "hint: do this",
    ]


def test_for_programs_every_line_is_an_event_of_the_schema(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(console._EVERY, "json", 0.01)
    console.show_progress("json")
    _everything()
    received = [0, 10]
    with console.transfer("12 packages", lambda: received[-1], total=40):
        time.sleep(0.1)
    shown = capsys.readouterr()
    assert shown.out == ""
    events = _events(shown.err)
    assert {event["event"] for event in events} == set(SCHEMA)
    for event in events:
        keys = set(event) - {"event", "elapsed"}
        assert keys == SCHEMA[event["event"]] or keys == SCHEMA[event["event"]] - {"number", "of"}, event
        assert event["elapsed"] >= 0
    assert events[1] | {"elapsed": 0} == {
        "event": "passed", "elapsed": 0, "what": "layer base", "number": 1, "of": 2, "why": "cached",
    }  # fmt: skip
    assert events[-1]["received"] == 10
    assert events[-1]["total"] == 40


def test_a_failure_is_an_event_where_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_failures_as_json()
    console.note("as ever")
    console.fail(InputError(PROBLEM))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "as ever"
    error = json.loads(last)["error"]
    assert (error["kind"], error["exit_code"]) == ("InputError", 2)
    place = {"file": "a.yaml", "line": 1, "column": 2}
    assert error["problems"] == [{"message": "unknown key", "hint": "did you mean 'name'?", **place}]


def test_a_long_piece_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(console._EVERY, "auto", 0.02)
    with console.progress("layer kernel", number=2, of=3):
        console.step("waits for its packages")
        with console.transfer("12 packages", lambda: 3 << 20, total=4 << 20):
            time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    expected = "layer 2 of 3, kernel · waits for its packages · 0 s · 12 packages 3.0 MiB of 4.0 MiB"
    assert any(line.endswith(expected) for line in lines), lines


@pytest.mark.tools
def test_on_a_terminal_one_line_changes_and_what_is_done_stays() -> None:
    script = (
        "import time; from builder import console\n"
        "with console.progress('layer kernel', number=2, of=3):\n"
        "    console.step('packages [golden.yaml:33]')\n"
        "    time.sleep(0.4)\n"
    )
    argv = ["script", "-qec", f'stty cols 72; {sys.executable} -c "{script}"', "/dev/null"]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", run(argv, env={"TERM": "xterm"}).stdout)
    assert "layer 2 of 3, kernel · packages [golden.yaml:33] · 0 s" in shown
    assert re.fullmatch(r"layer 2 of 3, kernel: 0\.[0-9] s", shown.splitlines()[-1].rpartition("\r")[2].strip())


def test_a_transfer_has_a_rate_and_an_end() -> None:
    on_its_way = Transfer(what="x", measure=lambda: 300, total=1300, begun=time.monotonic() - 2, before=100)
    figures = on_its_way.figures()
    assert figures.rate == pytest.approx(100, rel=0.05)
    assert figures.remaining == pytest.approx(10, rel=0.05)
    assert Figures(received=1 << 20, total=None, rate=None, remaining=None).words() == "1.0 MiB"
    words = Figures(received=1 << 20, total=3 << 20, rate=1 << 19, remaining=185).words()
    assert words == "1.0 MiB of 3.0 MiB, 512.0 KiB/s, 3 min 5 s left"


def test_a_transfer_whose_file_has_got_its_name_counts_as_whole() -> None:
    def gone() -> int:
        raise FileNotFoundError

    assert Transfer(what="x", measure=gone, total=5).figures().received == 5


def test_the_innermost_piece_is_what_is_shown() -> None:
    work = Work()
    with work.piece(Piece(what="publish")), work.piece(Piece(what="layer base", number=1, of=2)):
        assert work.line() == "layer 1 of 2, base · 0 s"
    assert work.line() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words

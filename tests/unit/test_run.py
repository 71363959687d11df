"""The one spawn path."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.run import ENVIRONMENT, CommandError, find_tool, require_root, run, spawn
from tests import machine

pytestmark = pytest.mark.tools


def test_it_returns_what_was_printed() -> None:
    ended = run(["sh", "-c", "echo out; echo err >&2"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "out\n", "err\n")
    assert ended.argv == ("sh", "-c", "echo out; echo err >&2")
    assert 0 < ended.seconds < 10


def test_merged_output_keeps_its_order() -> None:
    ended = run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], merge=True)
    assert (ended.stdout, ended.stderr) == ("1\n2\n3\n", "")


def test_the_environment_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIBUILD_TEST_SECRET", "leaks")
    seen = dict(line.split("=", 1) for line in run(["env"], env={"ADDED": "1"}).stdout.splitlines())
    assert seen == {**ENVIRONMENT, "ADDED": "1"}


def test_input_is_given_and_nothing_is_read_from_the_terminal_otherwise(tmp_path: Path) -> None:
    assert run(["cat"], input=b"given").stdout == "given"
    assert run(["cat"]).stdout == ""
    assert run(["pwd"], cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    assert run(["printf", r"\377"]).stdout == "\ufffd"


def test_a_failure_says_the_command_the_code_and_its_last_lines() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "seq 1 60 >&2; exit 7"], what="layer base", hint="read it")
    message = str(caught.value)
    assert message.startswith("layer base: sh -c 'seq 1 60 >&2; exit 7': exit code 7\n21\n")
    assert message.endswith("60\nhint: read it")
    assert caught.value.completed.returncode == 7
    assert caught.value.exit_code == 3


def test_a_failure_without_stderr_shows_stdout() -> None:
    with pytest.raises(CommandError, match="on stdout"):
        run(["sh", "-c", "echo on stdout; false"])


def test_a_signal_is_named() -> None:
    with pytest.raises(CommandError, match="killed by SIGKILL"):
        run(["sh", "-c", "kill -9 $$"])


def test_check_false_leaves_the_judgement_to_the_caller() -> None:
    ended = run(["false"], check=False)
    assert ended.returncode == 1
    with pytest.raises(CommandError, match="later: false: exit code 1"):
        ended.raise_for_status(what="later")


def test_what_is_shown_can_differ_from_what_is_run() -> None:
    with pytest.raises(CommandError, match=r"^apt-get update: exit code 1$"):
        run(["false"], shown=["apt-get", "update"])


def test_a_program_that_is_not_there_is_the_hosts_fault() -> None:
    with pytest.raises(HostError, match="no-such-program: no such program"):
        run(["no-such-program"])
    with pytest.raises(HostError, match="no-such-tool is not installed\nhint: sudo apt-get install e2fsprogs"):
        find_tool("no-such-tool", package="e2fsprogs")


def test_tools_are_found_where_the_child_will_find_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_tool("sh", package="dash").name == "sh"


def test_a_command_without_end_is_ended() -> None:
    before = machine.traces()
    begun = time.monotonic()
    with pytest.raises(HostError, match=r"sleep 60: no end after 0\.2 s"):
        run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - begun < 10
    assert not machine.wait_until_gone(before, seconds=2)


def test_an_open_file_can_be_passed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("through a descriptor")
    with file.open() as opened:
        assert (
            run(["cat", f"/proc/self/fd/{opened.fileno()}"], pass_fds=[opened.fileno()]).stdout
            == "through a descriptor"
        )
        assert run(["sh", "-c", f"test -e /proc/self/fd/{opened.fileno()}"], check=False).returncode == 1


def test_a_spawned_server_is_ended_however_the_block_is_left() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), spawn(["sleep", "60"]) as process:
        interrupt()
    assert process.returncode == -signal.SIGTERM


def test_a_spawned_process_writes_where_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output, spawn(["sh", "-c", "echo out; echo err >&2"], stdout=output) as process:
        process.wait(timeout=10)
    assert log.read_text() == "out\nerr\n"


def test_nothing_outlives_a_killed_pibuild(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = (
        "from builder.run import run\n"
        f"run(['sh', '-c', 'echo $$ > {child}.tmp; mv {child}.tmp {child}; exec sleep 60'])\n"
    )
    with spawn([sys.executable, "-c", script]) as parent:
        _wait_for(child)
        parent.kill()
        parent.wait()
    status = Path("/proc") / child.read_text().strip() / "cmdline"
    until = time.monotonic() + 5
    while status.exists() and b"sleep" in status.read_bytes() and time.monotonic() < until:
        time.sleep(0.01)
    assert not status.exists() or b"sleep" not in status.read_bytes()


def _wait_for(file: Path) -> None:
    until = time.monotonic() + 10
    while not file.exists():
        assert time.monotonic() < until, f"{file} never came"
        time.sleep(0.01)


def test_root_is_asked_for_with_the_command_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match=r"build x\.yaml needs root.*\nhint: sudo pibuild build x\.yaml"):
        require_root("build x.yaml")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    require_root("build x.yaml")

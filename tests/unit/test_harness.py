"""The guards around unit tests hold."""

import os
import socket
import subprocess  # noqa: TID251 - to see it forbidden
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.run import run
from tests import machine, privileges


def test_a_unit_test_cannot_start_a_process() -> None:
    with pytest.raises(pytest.fail.Exception, match="must not start a process"):
        subprocess.run(["true"], check=True)
    with pytest.raises(pytest.fail.Exception, match="must not start a process"):
        run(["true"])


@pytest.mark.tools
def test_a_unit_test_marked_tools_can() -> None:
    assert run(["echo", "here"]).stdout == "here\n"


def test_a_unit_test_cannot_use_the_network() -> None:
    with socket.socket() as connection, pytest.raises(pytest.fail.Exception, match="must not use the network"):
        connection.connect(("192.0.2.1", 80))


def test_a_unit_test_can_talk_to_its_own_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername() == server.getsockname()


def test_a_unit_test_has_not_got_roots_powers(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        os.chroot(tmp_path)
    with pytest.raises(PermissionError):
        os.chown(tmp_path, os.getuid() + 1, -1)


def test_dropping_privileges_twice_is_harmless(tmp_path: Path) -> None:
    with privileges.dropped(), pytest.raises(PermissionError):
        os.chroot(tmp_path)


def test_golden_writes_only_when_told(
    golden: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "text"
    monkeypatch.delenv("PIBUILD_REGENERATE", raising=False)
    with pytest.raises(AssertionError, match="pytest --regenerate"):
        golden(file, "one")
    monkeypatch.setenv("PIBUILD_REGENERATE", "1")
    golden(file, "one")
    monkeypatch.delenv("PIBUILD_REGENERATE")
    golden(file, "one")
    with pytest.raises(AssertionError, match="differs"):
        golden(file, "two")


@pytest.mark.tools
def test_a_process_that_stays_is_a_trace() -> None:
    before = machine.traces()
    run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & :"])  # outlives its parent, and is adopted
    left = machine.wait_until_gone(before, seconds=0)
    machine.end_children(before)
    assert [trace.split()[2] for trace in left] == ["(sleep)"]
    assert not machine.wait_until_gone(before, seconds=5)


def test_what_a_test_may_need_has_a_reason_and_an_answer() -> None:
    assert all(need.reason for need in machine.NEEDS.values())
    assert machine.has("kvm") == Path("/dev/kvm").exists()

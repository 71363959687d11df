"""SIGTERM and SIGINT end every command within ten seconds, wherever it stands, and its locks are free then."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.netboot.layout import Netboot
from builder.run import run, spawn
from tests.clusters import variant
from tests.system.engine import processes_of

pytestmark = pytest.mark.root
PROJECT = Path(__file__).parents[2]
LIMIT = 10.0  # seconds
ENV = {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}

# A command that stands where no Python code runs, or that waits for what does not end.
STUCK = """
import os, signal, sys, threading, time
from builder.cli import main as cli
from builder.host import locks
from builder.host.mounts import enter_namespaces
from builder.run import run, spawn

STUBBORN = ["sh", "-c", "trap '' TERM INT HUP; echo > ../standing; while :; do sleep 1; done"]

@cli.pibuild.command("stuck")
def stuck():
    with locks.locked(os.path.abspath("."), busy="busy"):
        WHERE

sys.argv[1:] = ["stuck"]
cli.main()
"""
PLACES = {
    "child": "run(STUBBORN)",
    "server": """
        with spawn(STUBBORN):
            time.sleep(600)""",
    "unwinding": """
        try:
            open('../standing', 'w').close(); time.sleep(600)
        finally:
            run(STUBBORN)""",
    "thread": "thread = threading.Thread(target=run, args=(STUBBORN,)); thread.start(); thread.join()",
    "deaf-thread": """
        thread = threading.Thread(target=time.sleep, args=(600,)); thread.start()
        open('../standing', 'w').close()
        thread.join()""",
    "namespace": "enter_namespaces(); run(STUBBORN)",
    "namespace-deaf": """
        enter_namespaces()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        open('../standing', 'w').close()
        time.sleep(600)""",
}


def wait_for(path: Path, process: int) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        assert Path(f"/proc/{process}").exists()
        time.sleep(0.02)


def is_free(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_wherever_it_stands(number: signal.Signals, tmp_path: Path) -> None:
    """All places at once: most of it is waiting."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name, where in PLACES.items():
            place = tmp_path / name / "locked"
            place.mkdir(parents=True)
            argv = [sys.executable, "-c", STUCK.replace("WHERE", where)]
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            running[name] = stack.enter_context(spawn(argv, cwd=place, env=ENV, stdout=log))
        for name, process in running.items():
            wait_for(tmp_path / name / "standing", process.pid)
            assert not is_free(tmp_path / name / "locked"), name
        begun = time.monotonic()
        for process in running.values():
            process.send_signal(number)
        for name, process in running.items():
            code = process.wait(timeout=max(0.1, begun + LIMIT - time.monotonic()))
            said = (tmp_path / f"{name}.log").read_text()
            assert code == 128 + number, f"{name}: {said}"
            assert "Traceback" not in said
            assert is_free(tmp_path / name / "locked"), name
        assert time.monotonic() - begun < LIMIT
        assert not processes_of(tmp_path)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_who_waits_for_the_lock_says_for_whom_and_ends_at_a_signal_or_at_the_limit(tmp_path: Path) -> None:
    cluster, netboot = variant(tmp_path), Netboot(tmp_path / "netboot")
    with netboot.locked(begin=True):
        pass
    options: list[str | Path] = ["--dest", netboot.dest, "--cluster", cluster]
    (tmp_path / "image").write_bytes(b"no image")
    commands: list[list[str | Path]] = [
        ["explode", "--all", "--image", tmp_path / "image", *options],
        ["rollback", "yellow3", *options],
        ["node", "gc", *options],
    ]
    me = f"another pibuild is at work in {netboot.dest}: process {os.getpid()} ("
    with held(netboot.dest / ".lock"), contextlib.ExitStack() as stack:
        running = {}
        for words in commands:
            log = tmp_path / f"{words[0]}.log"
            file = stack.enter_context(log.open("wb"))
            running[log] = stack.enter_context(
                spawn([sys.executable, "-m", "builder", *words], cwd=tmp_path, env=ENV, stdout=file)
            )
        for log, process in running.items():
            end = time.monotonic() + 30
            while me not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=LIMIT) == 128 + signal.SIGTERM, log.read_text()
            assert time.monotonic() - begun < LIMIT
        for words in commands[:2]:  # with and without namespaces of its own
            ended = run(
                [sys.executable, "-m", "builder", *words],
                cwd=tmp_path,
                env={**ENV, "PIBUILD_LOCK_WAIT": "0.2"},
                check=False,
            )
            assert ended.returncode == 3, ended.stderr
            assert (
                f"another pibuild is at work in {netboot.dest} after 0 s still: process {os.getpid()} (" in ended.stderr
            )
    assert run([sys.executable, "-m", "builder", "node", "gc", *options], cwd=tmp_path, env=ENV).returncode == 0


def test_servers_in_the_foreground_end_at_a_signal(tmp_path: Path) -> None:
    cluster = variant(tmp_path)
    words: list[str | Path] = ["fleet", "serve", "--listen", "127.0.0.1:0", "--database", tmp_path / "fleet.db"]
    dest = tmp_path / "netboot"
    with Netboot(dest).locked(begin=True):
        pass
    log = tmp_path / "log"
    argv = [sys.executable, "-m", "builder", *words, "--cluster", cluster, "--dest", dest]
    with log.open("wb") as file, spawn(argv, cwd=tmp_path, env=ENV, stdout=file) as process:
        end = time.monotonic() + 30
        while not log.read_text().strip() and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=LIMIT) == 128 + signal.SIGTERM

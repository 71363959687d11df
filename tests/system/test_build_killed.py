"""Builds killed or interrupted at any moment: nothing stays behind, and the next build is as if nothing had happened.

`PIBUILD_KILLS` says how many builds are killed (default 5).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from builder.console import note
from builder.host.hashing import file_digest
from builder.run import spawn
from tests import machine
from tests.system.conftest import Small
from tests.system.engine import Engine, processes_of

pytestmark = [pytest.mark.root, pytest.mark.network]

KILLS = int(os.environ.get("PIBUILD_KILLS", "5"))


def _check_that_nothing_stays(engine: Engine, before: frozenset[str]) -> None:
    """Give the kernel two seconds; what has a final name must be whole."""
    assert machine.wait_until_gone(before, seconds=2) == frozenset()
    end = time.monotonic() + 2
    while processes := processes_of(engine.cache.parent):
        assert time.monotonic() < end, processes
        time.sleep(0.05)
    assert all(name for name in engine.layers.values())
    for sums in engine.output.glob("small/[0-9a-f]*/SHA256SUMS"):
        for line in sums.read_text().splitlines():
            digest, name = line.split("  ")
            assert file_digest(sums.with_name(name)) == digest, name


def _forget(engine: Engine) -> None:
    shutil.rmtree(engine.output, ignore_errors=True)
    for layer in engine.cache.glob("layers/*"):
        shutil.rmtree(layer)


def test_killed_builds_leave_nothing(small: Small, tmp_path: Path) -> None:
    """A build from nothing, killed after 0 to as many seconds as it takes; then another, to its end."""
    engine = small.engine.cold(tmp_path)
    before = machine.traces()
    begun = time.monotonic()
    assert engine.build("--offline")["published"]["digest"] == small.digest
    whole = time.monotonic() - begun
    chance = random.Random(seed := os.environ.get("PIBUILD_SEED", str(time.time_ns())))  # noqa: S311 - moments, not secrets
    note(f"\nPIBUILD_SEED={seed}, a whole build takes {whole:.1f} s")
    for _ in range(KILLS):
        _forget(engine)
        delay = chance.uniform(0, whole)
        with spawn(engine.argv("--offline"), env=engine.env) as process:
            time.sleep(delay)
            process.kill()
        _check_that_nothing_stays(engine, before)
        had = sorted(engine.layers.values())
        report = engine.build("--offline")
        assert report["published"]["digest"] == small.digest
        assert not engine.scraps
        kept = sorted(layer["name"] for layer in report["layers"] if not layer["made"])
        assert kept == had
        note(f"killed after {delay:.1f} s: layers {', '.join(kept) or 'none'} were there")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "one"])
def test_an_interrupted_build_ends_cleanly(
    small: Small, tmp_path: Path, *, number: signal.Signals, to_all: bool
) -> None:
    """A terminal sends Ctrl-C to all processes of the command, `kill` to one."""
    engine = small.engine.cold(tmp_path)
    before = machine.traces()
    said = tmp_path / "said"
    with said.open("wb") as file, spawn(["setsid", *engine.argv("--offline")], env=engine.env, stdout=file) as process:
        end = time.monotonic() + 60
        while ", base …" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(random.uniform(0, 3))  # noqa: S311 - a moment, not a secret
        os.killpg(process.pid, number) if to_all else process.send_signal(number)
        code = process.wait(timeout=20)
    assert code == 128 + number, said.read_text()
    _check_that_nothing_stays(engine, before)
    assert engine.scraps == []
    lines = [line for line in said.read_text().splitlines() if not line.startswith(("[", "building "))]
    assert lines == (["interrupted"] if number == signal.SIGINT else [])


def test_a_closed_terminal_ends_the_build(small: Small, tmp_path: Path) -> None:
    engine = small.engine.cold(tmp_path)
    before = machine.traces()
    said = tmp_path / "said"
    with said.open("wb") as file, spawn(["setsid", *engine.argv("--offline")], env=engine.env, stdout=file) as process:
        end = time.monotonic() + 60
        while ", base …" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGHUP)
        process.wait(timeout=20)
    _check_that_nothing_stays(engine, before)
    assert json.loads(engine.run("--offline", "--json").stdout)["published"]["digest"] == small.digest

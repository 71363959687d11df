"""What every test gets: guards around unit tests, a leak guard around the rest, golden files, what a machine lacks.

- Tests in `tests/unit` run without processes, network or privilege, even as root. `tools` lets them run host tools.
- Every other test fails when it leaves a mount, loop device, binfmt_misc handler, network namespace or process behind.
- `needs("vfat")`: the test cannot run on a machine without it; the summary names what did not run, and why. A
  prerequisite that a machine could have, such as root, fails instead.
"""

from __future__ import annotations

import os
import socket
import subprocess  # noqa: TID251 - to forbid it
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from tests import machine, privileges

UNIT = Path(__file__).parent / "unit"
_REGENERATE = "PIBUILD_REGENERATE"

# A deadline would measure the machine, not the code. CI tries the same examples every time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew (same as PIBUILD_REGENERATE=1)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--regenerate"):
        os.environ[_REGENERATE] = "1"
    os.environ.pop("PIBUILD_DEBUG", None)
    machine.adopt_orphans()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is quick first, and last what shares a lab: its machines run from the first of them to the last."""
    items.sort(key=lambda item: (UNIT not in item.path.parents, "netlab" in getattr(item, "fixturenames", ())))


# ---------------------------------------------------------------------------------------------- what the machine lacks

_not_run: list[tuple[str, str]] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail(f"needs root: make test ARGS={item.nodeid}", pytrace=False)
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if name not in machine.NEEDS:
                pytest.fail(f"needs({name!r}): known are {', '.join(machine.NEEDS)}", pytrace=False)
            if not machine.has(name):
                reason = f"{name}: {machine.NEEDS[name].reason}"
                _not_run.append((item.nodeid, reason))
                pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _not_run:
        terminalreporter.section("not run: this machine cannot have what they need")
        for test, reason in _not_run:
            terminalreporter.line(f"{test}: {reason}")


# ------------------------------------------------------------------------------------------------------ unit tests


def _forbid_process(*_: object, **__: object) -> NoReturn:
    pytest.fail("a unit test must not start a process (marker `tools` for fast host tools; else tests/system)")


def _connect_here(connection: socket.socket, address: tuple[str, int] | str | bytes) -> None:
    """Connect within this machine: a server of the test's own is not the network."""
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        pytest.fail(f"a unit test must not use the network: {address} (marker `network`, tests/system)")
    _connect(connection, address)


_connect = socket.socket.connect


@pytest.fixture(scope="session")
def unit_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache for unit tests, so that none reads or writes the machine's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def unit_test_guard(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, unit_cache: Path
) -> Iterator[None]:
    """Take processes, network and root's powers from tests in tests/unit."""
    marked = {marker.name for marker in request.node.iter_markers()}
    if UNIT not in request.path.parents or marked & {"root", "network", "boot"}:
        yield
        return
    if "tools" not in marked:
        for module, name in ((subprocess, "Popen"), (os, "fork"), (os, "posix_spawn"), (os, "system")):
            monkeypatch.setattr(module, name, _forbid_process)
    monkeypatch.setattr(socket.socket, "connect", _connect_here)
    monkeypatch.setenv("PIBUILD_CACHE", str(unit_cache))
    with privileges.dropped():
        yield


# ------------------------------------------------------------------------------------------------------------- leaks


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test outside tests/unit that leaves something of the machine's changed."""
    if UNIT in request.path.parents:
        yield
        return
    before = machine.traces()
    yield
    left = machine.wait_until_gone(before, seconds=5)
    if left:
        machine.end_children(before)
        pytest.fail("left behind: " + "; ".join(sorted(left)), pytrace=False)


# ------------------------------------------------------------------------------------------------------ golden files


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """Compare a text with a golden file: `golden(path, text)`; `pytest --regenerate` writes it instead."""

    def compare(path: Path, text: str) -> None:
        if os.environ.get(_REGENERATE):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} does not exist: pytest --regenerate"
        assert text == path.read_text(), f"{path} differs; if that is meant: pytest --regenerate, then read the diff"

    return compare

"""Waiting for what another process holds."""

import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import HostError, InputError
from builder.host import locks
from builder.run import spawn

pytestmark = pytest.mark.tools

_HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(file, fcntl.LOCK_EX)
open(sys.argv[2], "w").close()
time.sleep(60)
"""


@pytest.fixture(params=["file", "directory"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give something that another process has locked, and that process."""
    place, there = tmp_path / "place", tmp_path / "there"
    place.mkdir() if request.param == "directory" else place.touch()
    with spawn([sys.executable, "-c", _HOLD, place, there, "a\x1b[31mname"]) as process:
        while not there.exists() and process.poll() is None:
            time.sleep(0.01)
        yield place, process.pid


def test_who_does_not_wait_hears_who_has_it(held: tuple[Path, int]) -> None:
    place, process = held
    with pytest.raises(HostError) as caught, locks.locked(place, busy="somebody is here", wait=False, hint="go"):
        pass
    assert caught.value.message.startswith(f"somebody is here: process {process} (python")
    assert "a?[31mname) since " in caught.value.message  # what a process calls itself says nothing to a terminal
    assert caught.value.hint == "go"


def test_a_wait_says_for_whom_and_ends(
    held: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, process = held
    monkeypatch.setenv("PIBUILD_LOCK_WAIT", "0.3")
    begun = time.monotonic()
    with pytest.raises(HostError, match=f"after 0 s still: process {process} ") as caught:
        locks.locked(place, busy="busy").__enter__()
    assert 0.3 <= time.monotonic() - begun < 5
    assert str(place) in caught.value.hint
    assert capsys.readouterr().err.startswith(f"busy: process {process} (")


def test_shared_locks_go_together_and_end_with_the_block(tmp_path: Path) -> None:
    with (
        locks.locked(tmp_path, busy="x", shared=True),
        locks.locked(tmp_path, busy="x", shared=True),
        pytest.raises(HostError),
        locks.locked(tmp_path, busy="x", wait=False),
    ):
        pass
    with locks.locked(tmp_path, busy="x", wait=False):
        pass


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_is_refused(
    text: str, held: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIBUILD_LOCK_WAIT", text)
    with pytest.raises(InputError, match="PIBUILD_LOCK_WAIT"), locks.locked(held[0], busy="x"):
        pass


def test_every_lock_goes_through_the_one_place_that_names_its_holder() -> None:
    """Those that are left ask without waiting, for what only the process itself can have."""
    callers = {
        path.name
        for path in Path(locks.__file__).parent.rglob("*.py")
        if "LOCK_EX" in path.read_text() and "LOCK_NB" not in path.read_text()
    }
    assert fcntl.LOCK_NB
    assert not callers

"""The leak guard sees what builds can leave behind."""

import contextlib
import os
from pathlib import Path

import pytest

from builder.run import run
from tests import machine


@pytest.mark.root
def test_a_mount_and_a_loop_device_are_traces(tmp_path: Path) -> None:
    before = machine.traces()
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 1 << 20)
    with contextlib.ExitStack() as undo:
        run(["mount", "-t", "tmpfs", "tmpfs", tmp_path, "-o", "size=1M"])
        undo.callback(run, ["umount", tmp_path])
        assert "mount" in {trace.split()[0] for trace in machine.traces() - before}
    with contextlib.ExitStack() as undo:
        loop = run(["losetup", "--find", "--show", image]).stdout.strip()
        undo.callback(run, ["losetup", "--detach", loop])
        assert f"loop device {Path(loop).name} of {image}" in machine.traces() - before
    assert not machine.wait_until_gone(before, seconds=5)


@pytest.mark.root
def test_a_network_namespace_is_a_trace() -> None:
    before = machine.traces()
    run(["ip", "netns", "add", "pibuild-harness"])
    try:
        assert "network namespace pibuild-harness" in machine.traces() - before
    finally:
        run(["ip", "netns", "delete", "pibuild-harness"])


@pytest.mark.parametrize("name", sorted(machine.NEEDS))
def test_every_need_can_be_asked_for(name: str) -> None:
    assert machine.has(name) in (True, False)


@pytest.mark.needs("device-mapper")
def test_device_mapper_answers() -> None:
    assert " device-mapper" in Path("/proc/misc").read_text()

"""Attaching by kpartx as on a machine with udev, which the machine of the tests may not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import HostError
from builder.image import attach
from builder.image.partitions import Partition

pytestmark = pytest.mark.tools

# libdevmapper's wait for udev: without limit in an IPC namespace that udevd does not see
WAITS = """#!/bin/sh
[ "$DM_DISABLE_UDEV" = 1 ] || exec sleep 20
echo "$(basename $0) $*" >>"$(dirname $0)/called"
[ "$(basename $0)" = dmsetup ] || printf 'add map loop9p1 (254:0)\\nadd map loop9p2 (254:1): 0 8 linear 7:9 8\\n'
"""
ROOT = Partition(number=2, start=512, size=512, type="0x83", active=False, partuuid="")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("kpartx", "dmsetup"):
        (tmp_path / name).write_text(WAITS)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(attach, "find_tool", lambda name, package: tmp_path / (name or package))
    monkeypatch.setattr(attach, "_LIMIT", 2.0)
    monkeypatch.setattr(attach, "_TIDY", 2.0)
    return tmp_path


def test_no_command_of_device_mapper_waits_for_udev(tools: Path) -> None:
    assert attach._map(Path("/dev/loop9"), ROOT) == Path("/dev/mapper/loop9p2")
    attach._dmsetup("remove", "--deferred", "loop9p2")
    assert (tools / "called").read_text().splitlines() == [
        "kpartx -a -r -s -v /dev/loop9",
        "dmsetup mknodes loop9p2",
        "dmsetup remove --deferred loop9p2",
    ]


def test_a_command_that_does_not_end_is_given_up(tools: Path) -> None:
    (tools / "kpartx").write_text("#!/bin/sh\nexec sleep 20\n")
    with pytest.raises(HostError, match=r"mapping partitions: .*kpartx -a .*: no end after 2 s"):
        attach._map(Path("/dev/loop9"), ROOT)

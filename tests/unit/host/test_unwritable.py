"""Disks that are full and directories that cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.host.unwritable import DiskFullError, is_full, unwritable, why_not


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_noticed_whoever_says_it(number: int) -> None:
    assert is_full(OSError(number, os.strerror(number)))
    assert is_full(HostError(f"cp: error writing: {os.strerror(number)}"))
    assert not is_full(OSError(errno.EIO, "x"))
    assert not is_full(ValueError(os.strerror(number)))
    assert isinstance(unwritable(Path("/x"), OSError(number, os.strerror(number)), other="y"), DiskFullError)


def test_root_is_not_told_to_run_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not(denied, other="name another") == "run as root (sudo), or name another"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert why_not(denied, other="name another") == "name another"


def test_a_read_only_place_says_so() -> None:
    told = unwritable(Path("/out"), OSError(errno.EROFS, os.strerror(errno.EROFS)), other="name another")
    assert told.message == "/out cannot be written: Read-only file system"
    assert told.hint.startswith("its file system is read-only")

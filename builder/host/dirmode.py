"""Modes of directories that several accounts enter, whatever the umask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OPEN = 0o755


def is_open(directory: Path) -> bool:
    """Return whether a directory is there with the mode that all are made with."""
    return directory.is_dir() and stat.S_IMODE(directory.stat().st_mode) == _OPEN


def let_in(directory: Path) -> None:
    """Let all enter a directory of this process's user, where it is there, and only its owner write."""
    if directory.is_symlink() or not directory.is_dir():
        return
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    wanted = (mode | 0o055) & ~0o022
    if mode != wanted and status.st_uid == os.geteuid():
        directory.chmod(wanted)

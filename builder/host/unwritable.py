"""Disks that are full and directories that cannot be written: one way to notice, and to say what mends it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from builder.errors import HostError, PibuildError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)  # as tools say it


class DiskFullError(HostError):
    """A disk is full, or a quota used up; said once, by whoever knows what to remove."""


def is_full(error: BaseException) -> bool:
    """Return whether a call or a tool failed for want of room."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, PibuildError) and any(words in str(error) for words in _FULL_WORDS)


def why_not(error: OSError, *, other: str) -> str:
    """Return a hint for what cannot be written; `other` says how to name another place."""
    if error.errno == errno.EROFS:
        return f"its file system is read-only (findmnt, mount -o remount,rw), or {other}"
    if error.errno in _FULL:
        return f"free some space (df -h), or {other}"
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return f"run as root (sudo), or {other}"
    return other


def unwritable(path: Path | str, error: OSError, *, other: str) -> HostError:
    """Return the failure for a directory that cannot be made or written."""
    kind = DiskFullError if error.errno in _FULL else HostError
    return kind(f"{path} cannot be written: {error.strerror or error}", hint=why_not(error, other=other))

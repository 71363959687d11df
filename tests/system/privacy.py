"""A mount namespace of a test's own, as a build has it: a neighbour's new namespace would copy our mounts."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from builder.host import mounts


@contextlib.contextmanager
def private_mounts() -> Iterator[None]:
    """Be in a new mount namespace for the time of the block; what is mounted inside must be gone at its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory = Path.cwd()
    outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        assert libc.unshare(mounts.CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        mounts.mount("none", Path("/"), flags=mounts.MS_REC | mounts.MS_PRIVATE)
        before = Path("/proc/thread-self/mountinfo").read_text()
        yield
        left = Path("/proc/thread-self/mountinfo").read_text()
        assert left == before
    finally:
        assert libc.setns(outside, mounts.CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        os.close(outside)
        os.chdir(directory)

"""A mount namespace of a test's own, as a build has it: a neighbour's new namespace would copy our mounts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from builder import syscalls
from builder.host import mounts


@contextlib.contextmanager
def private_mounts() -> Iterator[None]:
    """Be in a new mount namespace for the time of the block; what is mounted inside must be gone at its end."""
    directory = Path.cwd()
    outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        mounts.mount("none", Path("/"), flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        before = Path("/proc/thread-self/mountinfo").read_text()
        yield
        left = Path("/proc/thread-self/mountinfo").read_text()
        assert left == before
    finally:
        syscalls.unshare(syscalls.CLONE_FS)  # a server's thread that has not ended yet would forbid to go back
        syscalls.enter(outside)
        os.close(outside)
        os.chdir(directory)

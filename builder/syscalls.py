"""System calls that Python's `os` lacks, by way of libc: the one place for ctypes. What fails is an OSError."""

from __future__ import annotations

import ctypes
import os
import signal

# linux/sched.h, linux/mount.h, linux/prctl.h
CLONE_FS, CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00000200, 0x00020000, 0x08000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Attach a file system or directory (mount(2)); an empty text is a null pointer."""
    encoded = [os.fsencode(text) or None for text in (source, target, kind, data)]
    doing = f"mount {source} on {target} ({kind or 'bind'} {data})"
    _checked(_LIBC.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), doing)


def unmount(target: str) -> None:
    """Detach a mount, never lazily (umount2(2))."""
    _checked(_LIBC.umount2(os.fsencode(target), 0), f"umount {target}")


def unshare(flags: int) -> None:
    """Go on in new namespaces (unshare(2))."""
    _checked(_LIBC.unshare(flags), "unshare")


def enter(namespace: int) -> None:
    """Enter the namespace that a descriptor stands for (setns(2))."""
    _checked(_LIBC.setns(namespace, 0), "setns")


def sync_file_system(descriptor: int) -> None:
    """Bring a file system to its disk (syncfs(2))."""
    _checked(_LIBC.syncfs(descriptor), "syncfs")


def die_with_parent() -> None:
    """Ask for SIGKILL at the parent's death (prctl(2), PR_SET_PDEATHSIG); for a child between fork and exec too."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

"""Root without root's powers: what a test is allowed when it must not need root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

_VERSION_3 = 0x20080522  # linux/capability.h: _LINUX_CAPABILITY_VERSION_3, two 32-bit words a set
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _call(function: str, sets: ctypes.Array[_Sets]) -> None:
    if getattr(_LIBC, function)(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """Take every effective capability from this thread (capset(2)) and give them back. No change for an ordinary user.

    The user id stays, so a child that is executed as root has them all again.
    """
    held = (_Sets * 2)()
    _call("capget", held)
    without = (_Sets * 2)(*(_Sets(0, word.permitted, word.inheritable) for word in held))
    _call("capset", without)
    try:
        yield
    finally:
        _call("capset", held)

"""Namespaces and mounts, straight on mount(2): context managers that undo themselves, in a namespace that dies with us.

Every build runs in mount, PID and IPC namespaces of its own. Whatever happens to it (SIGKILL included), the kernel ends
its processes and drops its mounts with the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from builder import syscalls
from builder.errors import HostError
from builder.host.ending import relay_to, unwind_on_signals, wait_for
from builder.host.locks import keep_outer_proc
from builder.syscalls import MS_BIND, MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT


def mount(source: str | Path, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system or directory. Raises OSError that names source, target and options."""
    syscalls.mount(str(source), str(target), kind, flags, data)


def unmount(target: Path) -> None:
    """Call umount(2), never lazily. Raises OSError when the mount is busy."""
    syscalls.unmount(str(target))


@contextlib.contextmanager
def mounted(source: str | Path, target: Path, kind: str = "", flags: int = 0, data: str = "") -> Iterator[Path]:
    """Mount for the time of the block."""
    mount(source, target, kind, flags, data)
    try:
        yield target
    finally:
        unmount(target)


@contextlib.contextmanager
def overlay(
    lowers: Sequence[Path], target: Path, *, upper: Path | None = None, work: Path | None = None
) -> Iterator[Path]:
    """Mount an overlay of `lowers` (topmost first) on `target`, read-only without `upper`.

    The options keep a layer valid under any stack: no index, no redirected directories, no metadata-only copies; and
    `volatile`, because a layer that was not finished is thrown away whole.
    """
    common = "index=off,redirect_dir=off,metacopy=off,xino=off"
    stack = ":".join(_escaped(path) for path in lowers)
    if upper is None or work is None:
        if len(lowers) == 1:
            with mounted(lowers[0], target, flags=MS_BIND):
                mount(lowers[0], target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
                yield target
            return
        options = f"lowerdir={stack},{common}"
    else:
        options = f"lowerdir={stack},upperdir={_escaped(upper)},workdir={_escaped(work)},{common},volatile"
    with mounted("overlay", target, "overlay", data=options):
        yield target


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def enter_namespaces() -> None:
    """Go on in a child with mount, PID and IPC namespaces of its own; the parent waits and ends as the child ends.

    Call it early, with one thread. SIGINT, SIGTERM and SIGHUP to the parent reach the child, which unwinds at the first
    of them and is killed where that hangs; the parent's death, however it comes, is SIGKILL to the child and to all
    below it. Raises HostError without root.
    """
    keep_outer_proc()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC)
    except OSError as error:
        raise HostError(f"namespaces cannot be made here: {error}", hint="run as root (sudo)") from error
    sys.stdout.flush()
    sys.stderr.flush()
    alive_read, alive_write = os.pipe()
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child:
        os.close(alive_read)
        os.close(ready_write)
        _wait_for(child, ready_read, alive_write)
    syscalls.die_with_parent()
    unwind_on_signals()
    os.close(ready_read)
    os.close(ready_write)  # tells the parent that its death is a signal from now on
    os.close(alive_write)
    os.set_inheritable(alive_read, False)  # noqa: FBT003 - positional only
    if os.read(alive_read, 1) != b"1":
        os._exit(1)  # the parent was gone before its death could be signalled
    os.close(alive_read)
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    mount("proc", Path("/proc"), "proc", MS_NOSUID | MS_NODEV)


def _wait_for(child: int, ready_read: int, alive_write: int) -> NoReturn:
    os.read(ready_read, 1)  # the end of the pipe: the child has let go of it
    relay_to(child)
    with contextlib.suppress(BrokenPipeError):  # the child has ended: its status says how
        os.write(alive_write, b"1")
    os._exit(wait_for(child))

"""The machine the tests run on: what it cannot have, and what a test left behind on it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.emulation.mode import can_use_native_tools
from builder.run import run

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_BINFMT_OWN = ("register", "status")
BESIDE = "PIBUILD_TESTS_BESIDE"  # set to 1 for a run of tests beside another
_NEIGHBOUR = 240.0  # seconds that a loop device of a neighbour's may stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something a kernel or a release may not have, and no `apt-get install` brings."""

    reason: str
    there: Callable[[], bool]


def _module(name: str) -> bool:
    """Return whether the running kernel has a module, built in or to load; loads it as root."""
    words = ("-q", name) if os.geteuid() == 0 else ("-q", "-n", name)
    script = 'command -v modprobe >/dev/null && exec modprobe "$@"'
    return run(["sh", "-c", script, "sh", *words], check=False).returncode == 0


def _filesystem(name: str) -> bool:
    return name in Path("/proc/filesystems").read_text().split() or (
        _module(name) and (os.geteuid() != 0 or name in Path("/proc/filesystems").read_text().split())
    )


def _device_mapper() -> bool:
    return " device-mapper" in Path("/proc/misc").read_text() or (
        _module("dm_mod") and (os.geteuid() != 0 or " device-mapper" in Path("/proc/misc").read_text())
    )


def _raspi4b() -> bool:
    return "raspi4b" in run(["qemu-system-aarch64", "-machine", "help"]).stdout


NEEDS: dict[str, Need] = {
    "device-mapper": Need(reason="this kernel has no device-mapper (kpartx needs it)", there=_device_mapper),
    "vfat": Need(reason="this kernel cannot mount FAT", there=functools.partial(_filesystem, "vfat")),
    "nfsd": Need(reason="this kernel has no NFS server", there=functools.partial(_filesystem, "nfsd")),
    "raspi4b": Need(reason="QEMU before 9.0 has no Raspberry Pi 4 machine", there=_raspi4b),
    "private-binfmt": Need(reason="native tools need an x86-64 host with Linux 6.7", there=can_use_native_tools),
    "kvm": Need(reason="no /dev/kvm here", there=Path("/dev/kvm").exists),
}


@functools.cache
def has(name: str) -> bool:
    """Return whether this machine has what `NEEDS` calls `name`."""
    return NEEDS[name].there()


def adopt_orphans() -> None:
    """Become the parent of every process a test's processes leave behind, so that none hides under init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


_known: set[str] = set()  # process namespaces


@contextlib.contextmanager
def known(process: int) -> Iterator[None]:
    """Let a process, the first of a process namespace, and what runs in it outlive single tests."""
    namespace = str(Path(f"/proc/{process}/ns/pid").readlink())
    _known.add(namespace)
    try:
        yield
    finally:
        _known.discard(namespace)


def children() -> dict[int, str]:
    """Return the running processes whose parent is this one: process id to command; ended ones are reaped.

    Those in namespaces that are `known` are left out.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended in between
        name, rest = stat.rpartition(")")[0].partition("(")[2], stat.rpartition(")")[2].split()
        state, parent = rest[0], int(rest[1])
        if parent != os.getpid():
            continue
        if state == "Z":
            with contextlib.suppress(ChildProcessError):  # reaped in between
                os.waitpid(int(entry.name), os.WNOHANG)
        elif not _is_known(entry):
            found[int(entry.name)] = name
    return found


def _is_known(process: Path) -> bool:
    """Return whether a process is in a namespace that outlives single tests, or started its first process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended; or we dropped powers
        return bool(_known & {str((process / "ns" / name).readlink()) for name in ("pid", "pid_for_children")})
    return False


def traces() -> frozenset[str]:
    """Return everything a build could leave behind, each as a line for people."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == "/run/netns":
            continue  # ip-netns makes it a mount once and for all
        mounts.append(f"mount {fields[4]} ({fields[fields.index('-') + 1]}, id {fields[0]})")
    loops = [
        f"loop device {path.parent.parent.name} of {path.read_text().strip()}"
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
    ]
    handlers = [f"binfmt_misc handler {path.name}" for path in _BINFMT.glob("*") if path.name not in _BINFMT_OWN]
    namespaces = [f"network namespace {path.name}" for path in Path("/run/netns").glob("*")]
    processes = [f"process {pid} ({name})" for pid, name in children().items()]
    return frozenset([*mounts, *loops, *handlers, *namespaces, *processes])


def wait_until_gone(before: frozenset[str], *, seconds: float) -> frozenset[str]:
    """Return what is there now and was not before, or was and is no more; processes have `seconds` to end.

    Loop devices are the whole machine's: beside another run of tests, those that go in the end are not ours.
    """
    beside = os.environ.get(BESIDE) == "1"
    begun = time.monotonic()
    while True:
        now = traces()
        gone = {f"{trace} is gone" for trace in before - now if not trace.startswith("process ")}
        left = (now - before) | gone
        if beside:
            left -= {trace for trace in gone if trace.startswith("loop device ")}
        only_loops = all(trace.startswith("loop device ") for trace in left)
        patience = _NEIGHBOUR if beside and only_loops else seconds
        if not left or time.monotonic() - begun > patience:
            return frozenset(left)
        time.sleep(0.1)


def end_children(before: frozenset[str]) -> None:
    """Kill the children that a test left, so that one leak is one failure."""
    for pid, name in children().items():
        if f"process {pid} ({name})" not in before:
            os.kill(pid, signal.SIGKILL)

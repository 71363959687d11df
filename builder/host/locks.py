"""Wait for a lock of another process: name its holder at once, and give up after a limit.

Locks are flock(2) on files and directories; they end with the process. The kernel says who has one (/proc/locks), so
that nothing has to be written that a killed process would leave.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from builder.console import note
from builder.errors import HostError, InputError, Problem

PATIENCE = 900.0  # seconds; PIBUILD_LOCK_WAIT says otherwise
_PAUSE = 0.05
_SHOWN = 200  # characters of a command line

_outer: list[int] = []  # /proc as it was before this process got a process namespace of its own


def keep_outer_proc() -> None:
    """Call before entering a process namespace: who holds a lock is seen from outside alone."""
    _outer.append(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def take(file: int, path: Path, *, busy: str, shared: bool = False, wait: bool = True, hint: str = "") -> None:
    """Lock an open file or directory, waiting while another process has it.

    `busy` is what to say then: "another pibuild is at work in …". Raises HostError that names the holder, when patience
    ends or at once when not to `wait`.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    begun, told, patience = time.monotonic(), False, _patience() if wait else 0.0
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, operation)
            return
        waited = time.monotonic() - begun
        if waited >= patience:
            after = f" after {waited:.0f} s still" if wait else ""
            raise HostError(f"{busy}{after}: {holders(file)}", hint=hint or f"wait for it to end, or end it; {path}")
        if not told:
            note(f"{busy}: {holders(file)}; waiting for at most {patience:.0f} s")
            told = True
        time.sleep(_PAUSE)


@contextlib.contextmanager
def locked(path: Path, *, busy: str, shared: bool = False, wait: bool = True, hint: str = "") -> Iterator[None]:
    """Hold a lock on an existing file or directory while the block runs; see `take`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        take(descriptor, path, busy=busy, shared=shared, wait=wait, hint=hint)
        yield
    finally:
        os.close(descriptor)


def _patience() -> float:
    text = os.environ.get("PIBUILD_LOCK_WAIT", "")
    try:
        seconds = float(text or PATIENCE)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:  # noqa: PLR2004 - a bit more than eleven days; "inf" and "nan" are none
        raise InputError(Problem(message=f"PIBUILD_LOCK_WAIT={text!r} is not a number of seconds", hint="such as 60"))
    return seconds


def holders(file: int) -> str:
    """Return who holds a lock on what an open file is: `process 4711 (pibuild gc) since 14:03:12`."""
    proc = f"/proc/self/fd/{_outer[0]}" if _outer else "/proc"
    found = [_described(proc, process) for process in _processes(proc, file)]
    return ", ".join(found) or "a process that cannot be seen from here"


def _processes(proc: str, file: int) -> list[int]:
    """Return the processes on record for the file's inode that do have it open."""
    here = os.fstat(file)
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for line in Path(f"{proc}/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 fe:01:1234 0 EOF, see proc_locks(5)
            if "FLOCK" in fields[1:3] and "->" not in fields and fields[-3].rpartition(":")[2] == str(here.st_ino):
                found.add(int(fields[-4]))
    return sorted(process for process in found if process > 0 and _has_open(f"{proc}/{process}/fd", here))


def _has_open(descriptors: str, wanted: os.stat_result) -> bool:
    try:
        for name in os.listdir(descriptors):  # noqa: PTH208 - numbers, not files
            with contextlib.suppress(FileNotFoundError):  # closed in between
                if os.path.samestat(os.stat(f"{descriptors}/{name}"), wanted):  # noqa: PTH116
                    return True
    except PermissionError:
        return True  # somebody else's process: the inode's number has to do
    except OSError:
        return False  # ended in between
    return False


def _described(proc: str, process: int) -> str:
    try:
        words = Path(f"{proc}/{process}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        ticks = Path(f"{proc}/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        age = float(Path(f"{proc}/uptime").read_text().split()[0]) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return f"process {process}"
    line = " ".join(_shown(word) for word in words)
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - age))
    return f"process {process} ({line[:_SHOWN]}{'…' if len(line) > _SHOWN else ''}) since {since}"


def _shown(word: bytes) -> str:
    """Return a word of a command line for people: another process may call itself what it likes."""
    return "".join(each if each.isprintable() else "?" for each in os.path.basename(word).decode(errors="replace"))  # noqa: PTH119

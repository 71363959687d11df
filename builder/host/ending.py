"""How a command ends at SIGINT, SIGTERM and SIGHUP: it unwinds, and is killed if that hangs.

The first signal unwinds, as Ctrl-C does. TIDY seconds later whatever the command still waits for is killed, LIMIT
seconds later the command itself. What was not tidied up then is swept by the next run, as after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIDY, LIMIT = 4.0, 8.0  # seconds after the first signal; together with a parent's they stay below ten

_received: list[int] = []


def unwind_on_signals() -> None:
    """Let the first of SIGNALS leave all blocks of this process, once."""
    _handle(_unwind)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)  # a child between fork and exec has nothing to tidy up
        os.kill(os.getpid(), number)

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup(1) means it
            signal.signal(number, handle)


def received() -> int:
    """Return the signal at which the process ends, 0 while there was none."""
    return _received[0] if _received else 0


def _unwind(number: int, _frame: object) -> NoReturn:
    """Leave all blocks. A second signal (a terminal's and a parent's come both) must not break off tidying."""
    _received.append(number)
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _end_children)
    signal.setitimer(signal.ITIMER_REAL, TIDY)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end_children(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT - TIDY)
    _kill_descendants()


def _end(_number: int, _frame: object) -> NoReturn:
    _kill_descendants()
    with contextlib.suppress(OSError):  # nobody need listen any more
        os.write(2, b"tidying up did not end and was broken off; the next run sweeps what is left\n")
    os._exit(128 + received())


def _kill_descendants() -> None:
    """SIGKILL all processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended in between
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    doomed = [os.getpid()]
    for process in doomed:  # it grows while it is walked
        doomed += children.get(process, [])
    for process in doomed[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def relay_to(child: int) -> None:
    """Hand SIGNALS on to the one child that does this process's work, and kill it where it does not end at them."""

    def relay(number: int, _frame: object) -> None:
        if not _received:
            signal.setitimer(signal.ITIMER_REAL, LIMIT + 1)  # a bit longer than its own
        _received.append(number)
        os.kill(child, number)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    _handle(relay)


def wait_for(child: int) -> int:
    """Wait for a child that signals are handed to; return the exit code to end with."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 + (received() or -code)

"""Feed damaged inputs to a target, watch what it does with them, and keep the smallest one that it does not survive.

Hypothesis draws the inputs (a seed, and what is done to it) and makes failing ones small. A target runs in a process of
its own: the memory it may add is limited, a watch ends it when one input takes too long, and every file that it opens
for writing, makes, renames or removes outside its scratch directory is a fault (sys.addaudithook, PEP 578).
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import mmap
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from builder.errors import PibuildError

SECONDS = 10.0  # one input may take
MEMORY = 1 << 30  # bytes that a target may add to what the process has at its start
LONGEST = 1 << 20  # bytes of an input that are kept
# Audit events of the os module that change something: where the path stands in their arguments, and where the
# descriptor of the directory that it counts from, None where there is none.
_WATCHED: dict[str, tuple[int, int | None]] = {
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.chmod": (0, 2),
    "os.chown": (0, 3),
    "os.truncate": (0, None),
    "os.utime": (0, 3),
    "os.setxattr": (0, None),
}
_TALK = {"socket.connect": 1, "socket.getaddrinfo": 0}  # events of the socket module: where the peer stands


def _check_here(peer: object) -> None:
    """Let nothing out of this machine: a damaged address is a network that cannot be reached."""
    host = peer[0] if isinstance(peer, tuple) else peer
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


# What damages inputs in ways that a random byte seldom does.
_TOKENS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\t",
    b" ",
    b":",
    b"/",
    b"../",
    b"..",
    b"%",
    b"{{",
    b"}}",
    b"{",
    b"[",
    b"- ",
    b"&a",
    b"*a",
    b"'",
    b'"',
    b"#",
    b"=",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"9" * 5000,
    b"1e999",
    b".nan",
    b"null",
    b"!!python/object:os.system",
    b"<<: ",
    b"\xed\xa0\x80",
    "\u2028".encode(),
    "\u00e9".encode(),
    b"\x0c",
    b"\x1b[2J",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"[" * 3000,
    b"{a: " * 500,
    b"a" * 300,
    b"::1",
    b"http://[::1/",
    b"\\ud800",
    b"true",
    b"+::::::",
)

Kind = Literal["traceback", "hang", "memory", "write outside", "died"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser. `feed` gives it an input, in an empty scratch directory; `seeds` are inputs that it likes.

    `refuses` are the exceptions that are answers, beside pibuild's own errors. `weight` is its share of the inputs.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    feed: Callable[[bytes, Path], object]
    refuses: tuple[type[BaseException], ...] = ()
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """An input that a target did not survive. `where` is the last place in pibuild's own code."""

    target: str
    kind: Kind
    data: bytes
    told: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a target's inputs. `seconds` is the longest that one input took, `memory` in bytes."""

    target: str
    inputs: int
    seconds: float
    memory: int
    crash: Crash | None = None


class HangError(BaseException):
    """One input took too long."""


class _OutsideError(BaseException):
    """A target wrote outside its scratch directory."""


class Input(bytes):
    """An input; Hypothesis would write all of it out."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> Input:
    """Draw a seed and damage it a few times."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 6))):
        data = _DAMAGES[draw(st.integers(0, len(_DAMAGES) - 1))](draw, data, seeds)[:LONGEST]
    return Input(data)


def _place(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def _insert_token(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    at, token = _place(draw, data), draw(st.sampled_from(_TOKENS))
    return data[:at] + token + data[at:]


def _overwrite(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    at, new = _place(draw, data), draw(st.binary(min_size=1, max_size=8))
    return data[:at] + new + data[at + len(new) :]


def _replace_token(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    at, length, token = _place(draw, data), draw(st.integers(0, 24)), draw(st.sampled_from(_TOKENS))
    return data[:at] + token + data[at + length :]


def _cut(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    at, length = _place(draw, data), draw(st.integers(1, 64))
    return data[:at] + data[at + length :]


def _end_early(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: _place(draw, data)]


def _repeat(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    at, length, times = _place(draw, data), draw(st.integers(1, 64)), draw(st.sampled_from([1, 2, 50]))
    return data[:at] + data[at : at + length] * times + data[at:]


def _splice(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw(st.sampled_from(seeds))
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _flip(draw: st.DrawFn, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at, bit = draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 7))
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


_DAMAGES: tuple[Callable[[st.DrawFn, bytes, Sequence[bytes]], bytes], ...] = (
    _insert_token,
    _replace_token,
    _overwrite,
    _cut,
    _end_early,
    _repeat,
    _splice,
    _flip,
)


class _Guard:
    """What watches one process while it feeds a target: time, memory, and where it writes."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = f"{scratch}{os.sep}"
        self.armed = False
        self.longest = 0.0
        self.inputs = 0
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGALRM, self._late)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def _late(self, _number: int, _frame: FrameType | None) -> NoReturn:
        raise HangError(f"no end after {SECONDS:g} s")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _TALK:
            _check_here(arguments[_TALK[event]])
            return
        below = -1
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event in _WATCHED:
            at, descriptor = _WATCHED[event]
            path = arguments[at]
            below = -1 if descriptor is None else arguments[descriptor]
        else:
            return
        if isinstance(path, int):
            return
        base = "" if below < 0 else os.readlink(f"/proc/self/fd/{below}")  # noqa: PTH115 - no object is made here
        full = os.path.abspath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH100, PTH118 - path may be bytes
        if not f"{full}{os.sep}".startswith(self.scratch) and full != os.devnull:
            self.armed = False
            raise _OutsideError(f"{event}: {full}")

    def feed(self, target: Target, data: bytes, scratch: Path) -> None:
        """Give one input. Raises what the target must not do."""
        begun = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self.armed = True
        try:
            target.feed(data, scratch)
        except PibuildError:
            pass
        except target.refuses:
            pass
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.longest = max(self.longest, time.monotonic() - begun)
            self.inputs += 1


def _kind_of(error: BaseException) -> Kind:
    kinds: dict[type[BaseException], Kind] = {HangError: "hang", MemoryError: "memory", _OutsideError: "write outside"}
    return kinds.get(type(error), "traceback")


def _work(target: Target, number: int, seed: int, kept: mmap.mmap, answers: int) -> None:
    """Feed a target in this process and write what became of it; the input at work stands in `kept` all the time."""
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="pibuild-fuzz-")
    scratch = Path(tempfile.tempdir)
    seeds = target.seeds()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # what is said of ten thousand damaged inputs
    os.dup2(silent, 2)
    os.chdir(scratch)  # relative names count from here: opening below a descriptor looks like that to an audit hook
    guard = _Guard(scratch)
    failed: list[tuple[bytes, BaseException]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @given(damaged(seeds))
    def one(data: Input) -> None:
        kept.seek(0)
        kept.write(len(data).to_bytes(8) + data)
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            try:
                guard.feed(target, data, Path(directory))
            except BaseException as error:
                failed.append((bytes(data), error))
                raise AssertionError(type(error).__name__) from error

    try:
        one()
    except AssertionError:
        kept.seek(0)
        kept.write(len(failed[-1][0]).to_bytes(8) + failed[-1][0])
    error = failed[-1][1] if failed else None
    answer = {
        "inputs": guard.inputs,
        "seconds": guard.longest,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "kind": _kind_of(error) if error else "",
        "told": "".join(traceback.format_exception(error)[-6:]) if error else "",
    }
    os.write(answers, json.dumps(answer).encode())


def fuzz(target: Target, number: int, seed: int) -> Result:
    """Feed `number` inputs to a target in a process of its own, and say what became of them."""
    kept = mmap.mmap(-1, LONGEST + 8)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, linux/prctl.h
            os.setpgid(0, 0)
            _work(target, number, seed, kept, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    answer = _answer_of(child, reading, kept)
    os.close(reading)
    data = kept[8 : 8 + int.from_bytes(kept[:8])]
    crash = None
    if answer["kind"]:
        crash = Crash(target=target.name, kind=answer["kind"], data=data, told=answer["told"])
    return Result(
        target=target.name, inputs=answer["inputs"], seconds=answer["seconds"], memory=answer["memory"], crash=crash
    )


def _answer_of(child: int, reading: int, kept: mmap.mmap) -> dict[str, Any]:
    """Wait for a process as long as it goes from input to input; one that stands in a single one is ended."""
    before, since = b"", time.monotonic()
    while not select.select([reading], [], [], 1.0)[0]:
        now = kept[:4096]
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > 2 * SECONDS:  # in a call that no signal handler of Python's interrupts
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"inputs": 0, "seconds": 2 * SECONDS, "memory": 0, "kind": "hang", "told": "ended from outside"}
    text = os.read(reading, 1 << 20)
    _, status = os.waitpid(child, 0)
    if text:
        return dict(json.loads(text))
    told = f"the process ended with {os.waitstatus_to_exitcode(status)}"
    return {"inputs": 0, "seconds": 0.0, "memory": 0, "kind": "died", "told": told}

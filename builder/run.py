"""The one module that spawns processes.

Every child gets a scrubbed environment and the parent's death signal, so that nothing outlives a killed pibuild.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess  # noqa: TID251 - the one place
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.errors import HostError, PibuildError
from builder.syscalls import die_with_parent

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": "/root", "TZ": "UTC"}

Argv = Sequence[str | Path]


class CommandError(PibuildError):
    """A command ended with a non-zero exit code; stations turn it into their own error where they know more."""

    exit_code = 3

    def __init__(self, completed: Completed, *, what: str, hint: str = "") -> None:
        self.completed = completed
        said = "\n".join((completed.stderr or completed.stdout).strip().splitlines()[-40:])
        failure = (
            f"exit code {completed.returncode}" if completed.returncode >= 0 else _signal_name(completed.returncode)
        )
        message = f"{what + ': ' if what else ''}{shlex.join(completed.argv)}: {failure}"
        super().__init__(f"{message}\n{said}" if said else message, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that has ended. A negative `returncode` is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def raise_for_status(self, *, what: str = "", hint: str = "") -> None:
        """Raise CommandError unless the exit code is 0."""
        if self.returncode != 0:
            raise CommandError(self, what=what, hint=hint)


def _signal_name(returncode: int) -> str:
    return f"killed by {signal.Signals(-returncode).name}"


def find_tool(name: str, *, package: str) -> Path:
    """Return the path of a host tool; a missing one is a HostError that names its Debian package."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise HostError(f"{name} is not installed", hint=f"sudo apt-get install {package}")
    return Path(found)


def run(  # noqa: PLR0913 - the one spawn path carries every knob
    argv: Argv,
    *,
    what: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,  # noqa: A002 - subprocess's own word
    check: bool = True,
    merge: bool = False,
    timeout: float | None = None,
    pass_fds: Sequence[int] = (),
    shown: Argv = (),
    hint: str = "",
) -> Completed:
    """Run a command to its end and return what it printed.

    `env` is added to the scrubbed ENVIRONMENT; `merge` sends stderr into stdout in order; `shown` is the command a
    person should read in its place. Raises CommandError on a
    non-zero exit when `check`, HostError when the program does not exist or runs past `timeout` seconds.
    """
    words = tuple(str(word) for word in argv)
    begun = time.monotonic()
    try:
        ended = subprocess.run(
            words,
            cwd=cwd,
            env={**ENVIRONMENT, **(env or {})},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            timeout=timeout,
            pass_fds=pass_fds,
            preexec_fn=die_with_parent,  # prctl only, and no Python thread state is touched
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError(f"{words[0]}: no such program or directory ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{what + ': ' if what else ''}{shlex.join(words)}: no end after {timeout:g} s") from error
    completed = Completed(
        argv=tuple(str(word) for word in shown) or words,
        returncode=ended.returncode,
        stdout=ended.stdout.decode(errors="replace"),
        stderr=(ended.stderr or b"").decode(errors="replace"),
        seconds=time.monotonic() - begun,
    )
    if check:
        completed.raise_for_status(what=what, hint=hint)
    return completed


@contextlib.contextmanager
def spawn(
    argv: Argv,
    *,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server or a machine; it is ended (SIGTERM, after 5 s SIGKILL) however the block is left."""
    process = subprocess.Popen(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env={**ENVIRONMENT, **(env or {})},
        cwd=cwd,
        pass_fds=pass_fds,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - prctl only
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def require_root(doing: str) -> None:
    """Raise HostError unless this process is root. `doing` names the command for the hint."""
    if os.geteuid() != 0:
        raise HostError(f"{doing} needs root (mounts, owners, device nodes)", hint=f"sudo pibuild {doing}")

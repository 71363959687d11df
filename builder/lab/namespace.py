"""A namespace with a network of its own: programs in it see a login node's address, files and servers.

One process, the first of its process namespace, holds it. When that one ends, the kernel kills all the others and takes
down network and mounts with them; and it ends with whoever made it, by signal (PR_SET_PDEATHSIG). So nothing is left,
`kill -9` included, and nothing has to be tidied up.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import IO, Any, Protocol

from builder import syscalls
from builder.errors import HostError
from builder.run import Argv, Completed, find_tool, run, spawn
from builder.services.servers import every

# Says its process id as the caller sees it: /proc is still the caller's. SIGCHLD is ignored, also by what is executed:
# the kernel reaps what ends, since the first process is everybody's parent.
_HOLD = """
read -r id rest </proc/self/stat
etc=$1 bridge=$2 address=$3
shift 3
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs /sys
for place; do
    mkdir -p "$place" # of Kea's package its unit makes it, at its first start
    mount -t tmpfs -o mode=0755,nosuid,nodev lab "$place"
done
mount -t overlay -o "lowerdir=$etc:/etc" overlay /etc
ip link set lo up
ip link add "$bridge" type bridge stp_state 0 forward_delay 0
ip address add "$address" dev "$bridge"
ip link set "$bridge" up
echo "$id"
trap '' CHLD
exec sleep infinity
"""


class Process(Protocol):
    """A running program."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A running namespace. `holder` is the process id of its first process, `bridge` the port of the login node."""

    holder: int
    bridge: str

    @contextlib.contextmanager
    def entered(self, *, processes: bool = True) -> Iterator[None]:
        """Give this thread the namespace's network for the block, and the processes it starts a place in it.

        Sockets opened in the block stay there. Files are the caller's own: `run` and `spawn` see the namespace's.
        Without `processes`, those it starts do not end with the namespace, but the block can start threads: a thread
        whose children belong elsewhere cannot (clone(2), EINVAL). Raises HostError when the namespace is gone.
        """
        own_kinds, its_kinds = (("net", "pid_for_children"), ("net", "pid")) if processes else (("net",), ("net",))
        with contextlib.ExitStack() as stack:
            own, its = (
                [stack.enter_context(_opened(place / kind)) for kind in kinds]
                for place, kinds in (
                    (Path("/proc/thread-self/ns"), own_kinds),
                    (Path(f"/proc/{self.holder}/ns"), its_kinds),
                )
            )
            for descriptor in own:
                stack.callback(_set_namespace, descriptor)
            for descriptor in its:
                _set_namespace(descriptor)
            yield

    def run(self, argv: Argv, **options: Any) -> Completed:
        """Run a command in it, with its files, as `builder.run.run` does."""
        with self.entered():
            return run(self._with_files(argv), shown=argv, **options)

    @contextlib.contextmanager
    def spawn(self, argv: Argv, *, stdout: IO[bytes], env: Mapping[str, str] | None = None) -> Iterator[Process]:
        """Start a server in it, with its files, as `builder.run.spawn` does: ended however the block is left."""
        with contextlib.ExitStack() as stack:
            with self.entered():
                process = stack.enter_context(spawn(self._with_files(argv), stdout=stdout, env=env))
            yield process

    def _with_files(self, argv: Argv) -> list[str | Path]:
        """Return a command line that enters the mounts; nsenter then becomes the program, no process in between."""
        return [find_tool("nsenter", package="util-linux"), f"--mount=/proc/{self.holder}/ns/mnt", "--", *argv]

    def end(self) -> None:
        """End every process in it, and it with them."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.holder, signal.SIGKILL)

    def listening(self) -> set[tuple[str, int]]:
        """Return the ports that are served in it: ("udp", 69), ("tcp", 2049)."""
        found = set()
        for table in ("tcp", "tcp6", "udp", "udp6"):
            path = Path("/proc") / str(self.holder) / "net" / table
            rows = [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []
            serving = {"tcp": "0A", "udp": "07"}[table[:3]]  # include/net/tcp_states.h: TCP_LISTEN, TCP_CLOSE
            found |= {(table[:3], int(row[1].rpartition(":")[2], 16)) for row in rows if row[3] == serving}
        return found


@contextlib.contextmanager
def namespace(*, etc: Path, bridge: str, address: IPv4Interface) -> Iterator[Namespace]:
    """Make a namespace for the block. `etc` lies over /etc; `bridge` is the login node's port, with its address.

    Call it in the thread that stays: with that thread the namespace ends. Raises HostError where it cannot be.
    """
    argv: list[str | Path] = [find_tool("unshare", package="util-linux")]
    argv += ["--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child=KILL"]
    written = dict.fromkeys(place for row in every() for place in row.writes)
    argv += ["sh", "-ec", _HOLD, "holder", etc, bridge, str(address), "/run", *written]
    find_tool("ip", package="iproute2")
    reading, writing = os.pipe()
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(os.fdopen(reading, "rb"))
        with os.fdopen(writing, "wb") as pipe:
            process = stack.enter_context(spawn(argv, stdout=pipe))
        words: list[str] = []
        while not (words and words[-1].isdigit()):
            line = said.readline()
            if not line:
                why = "\n".join(words) or f"unshare: exit code {process.wait()}"
                raise HostError(f"a network of its own cannot be made here\n{why}", hint="run as root (sudo)")
            words.append(line.decode(errors="replace").strip())
        made = Namespace(holder=int(words[-1]), bridge=bridge)
        try:
            yield made
        finally:
            made.end()
            process.wait()  # unshare ends when the holder, and with it everything else, has


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostError("the lab's namespace is gone", hint="was its first process killed?") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    try:
        syscalls.enter(descriptor)
    except OSError as error:
        raise HostError(f"a namespace cannot be entered: {error.strerror}", hint="run as root (sudo)") from error

"""The one way to run a command on another machine: ssh, by key, asking nobody anything."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError
from builder.run import Argv, Completed, find_tool, run

PORT = 22
_NO_CONNECTION = 255  # ssh(1)'s exit code when it could not run the command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A way in by ssh: an address, a private key, a user; by default a forwarded port of this machine.

    `entered` gives the thread the network that the address is in. With `known_hosts` only a host key in that file will
    do, with `learns` also that of a machine that is not in it yet, which is then written there; without, any. No
    configuration of ssh's counts. `connecting` are the seconds for a connection.

    Where there is a directory `sockets`, what is `run` shares one connection, whose socket is there: the keys of
    another cost a processor that is emulated two seconds, its session as much. The connection ends with the machine,
    or when nothing has used it for a while (ssh_config(5), ControlPersist).
    """

    user: str
    key: Path
    host: str = "127.0.0.1"
    port: int = PORT
    known_hosts: Path | None = None
    learns: bool = False
    connecting: int = 30
    entered: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    sockets: Path | None = None

    def run(self, command: str, *, timeout: float) -> Completed:
        """Run a command as the user. `returncode` is 255 when it could not be, or did not end in `timeout` seconds."""
        done = self._patient([*self._ssh(), *self._sharing(), *self._as_user(), command], timeout)
        if done.returncode == _NO_CONNECTION:
            self.forget()
        return done

    def call(self, argv: Argv, *, stdin: bytes = b"", timeout: float, what: str, hint: str) -> Completed:
        """Run a command as the user, its words as they are. Raises CommandError when it fails, HostError."""
        require_ssh()
        command = [*self.argv(), "--", shlex.join(map(str, argv))]
        with self.entered():
            return run(command, input=stdin, timeout=timeout, what=what, hint=hint)

    def forget(self) -> None:
        """Let the next command make a connection of its own: the machine that has the other end is another by then."""
        if self.sockets is not None:
            (self.sockets / self._socket).unlink(missing_ok=True)

    @property
    def _socket(self) -> str:
        return f"{self.host}-{self.port}.ssh"

    def _sharing(self) -> list[str]:
        """Return the options for a shared connection; the socket is named from its directory: 107 bytes are few."""
        if self.sockets is None:
            return []
        return _options("ControlMaster=auto", "ControlPersist=60", f"ControlPath={self._socket}")

    def methods(self, *, timeout: float) -> tuple[str, ...]:
        """Return the ways of authentication that the server offers to somebody without a key."""
        keyless = [*self._ssh(), "-o", "PreferredAuthentications=none", f"{self.user}@{self.host}", "true"]
        return offered(self._patient(keyless, timeout).stderr)

    def host_keys(self, *, timeout: float) -> Mapping[str, str]:
        """Return the fingerprints of the server's host keys by kind."""
        scan = ["ssh-keyscan", "-T", f"{timeout:.0f}", "-p", str(self.port), self.host]
        return fingerprints(self._patient(scan, 4 * timeout).stdout)

    def argv(self) -> list[str | Path]:
        """Return ssh's command line up to the command to run."""
        return [*self._ssh(), *self._as_user()]

    def _as_user(self) -> list[str | Path]:
        return ["-i", self.key, "-o", "IdentitiesOnly=yes", f"{self.user}@{self.host}"]

    def _ssh(self) -> list[str]:
        strict, known = "no", Path("/dev/null")
        if self.known_hosts is not None:
            strict, known = ("accept-new" if self.learns else "yes"), self.known_hosts
        return [
            *("ssh", "-F", "/dev/null", "-p", str(self.port)),
            *_options(f"StrictHostKeyChecking={strict}", f"UserKnownHostsFile={known}"),
            *_options("BatchMode=yes", f"ConnectTimeout={self.connecting}", "ServerAliveInterval=15", "LogLevel=ERROR"),
        ]

    def _patient(self, argv: Argv, timeout: float) -> Completed:
        try:
            with self.entered():
                return run(argv, cwd=self.sockets, check=False, timeout=timeout)
        except HostError as error:
            return Completed(
                argv=tuple(map(str, argv)), returncode=_NO_CONNECTION, stdout="", stderr=error.message, seconds=timeout
            )


def require_ssh() -> None:
    """Raise HostError unless ssh is installed, with what brings it."""
    find_tool("ssh", package="openssh-client")
    find_tool("ssh-keyscan", package="openssh-client")


def sftp(destination: Sequence[str], key: Path) -> list[str]:
    """Return the command line for a program that speaks SFTP itself, as restic does. ~/.ssh/config counts here.

    A store may be behind another host, as only its user's configuration says.
    """
    options = _options("BatchMode=yes", "ConnectTimeout=30", "StrictHostKeyChecking=accept-new")
    return ["ssh", "-i", str(key), *options, *destination, "-s", "sftp"]


def _options(*options: str) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def known_host(names: str, public_key: Path) -> str:
    """Return the line of a known_hosts file that says which key a machine has (sshd(8), SSH_KNOWN_HOSTS)."""
    kind, key = public_key.read_text().split()[:2]
    return f"{names} {kind} {key}\n"


def offered(stderr: str) -> tuple[str, ...]:
    """Return the methods in ssh's `Permission denied (publickey,password).`; empty when it says something else."""
    found = re.search(r"Permission denied \(([a-z,-]+)\)", stderr)
    return tuple(found.group(1).split(",")) if found else ()


def fingerprints(keyscan: str) -> Mapping[str, str]:
    """Return the fingerprints in ssh-keyscan's output by kind of key, in the form of `ssh-keygen -l`: `SHA256:…`."""
    keys = re.findall(r"^[^#\s]\S* (\S+) ([A-Za-z0-9+/=]+)", keyscan, re.MULTILINE)
    digests = {}
    for kind, key in keys:
        with contextlib.suppress(binascii.Error):  # what answers at the port may be no sshd
            digests[kind] = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    return {kind: f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}" for kind, digest in digests.items()}

"""What is known of a server: its files, unit, package, checker, leases, and how it runs in the foreground.

A server is one module with one such row, `SERVER`. Whoever lists servers (the inventory's choices, rendering, checkers,
units, packages, leases, the lab) derives from these rows: `servers.py` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

from builder.inventory.names import AddressRange
from builder.services.files import ConfigFile, Serving

Command = tuple[str, ...]
Port = tuple[str, int]
Staged = Mapping[PurePosixPath, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A server's unit, and which of its files it reads again without a restart, by which command.

    `configured` is set where others use the same program: without that file it is somebody else's, and left alone.
    """

    name: str
    restart_on: tuple[PurePosixPath, ...] = ()
    reload_on: tuple[PurePosixPath, ...] = ()
    reload: Command = ()
    configured: PurePosixPath | None = None


def hang_up(unit: str) -> Command:
    """Return what has a server read its file again on SIGHUP, for units that have no reload in every release."""
    return ("systemctl", "kill", "--signal=HUP", unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """How a file is checked before it is in place: `argv` and `stdin` are made of where the files are now."""

    path: PurePosixPath
    program: str
    package: str
    argv: Callable[[Path], tuple[str, ...]]
    stdin: Callable[[Staged], str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    needs_root: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """Which leases may stay: those of reservations, MAC to address, and of strangers in the pool."""

    reserved: Mapping[str, IPv4Address]
    pool: AddressRange | None

    def keeps(self, mac: str, address: str) -> bool:
        """Return whether a lease may stay. A line that is none is the server's to judge."""
        try:
            given = IPv4Address(address)
        except ValueError:
            return True
        if not mac:
            return True
        if mac.lower() in self.reserved:
            return self.reserved[mac.lower()] == given
        return self.pool is not None and given in self.pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """Where a server writes its leases; `kept` takes those out of a file's text that do not fit.

    With `cleaned`, the server leaves further files beside it, of the same name and more.
    """

    path: PurePosixPath
    kept: Callable[[str, Fits], str]
    cleaned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreground:
    """How a server runs without systemd, and what it then serves. One without ports ends at once."""

    name: str
    program: str
    package: str
    argv: tuple[str, ...]
    ports: frozenset[Port]
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server. `units` are in the order in which they are told, the last one its own.

    `name` is that of its log. A program that serves in several ways has a row for each; what they share is done once.
    `package` brings the unit and `program`, and is "" for what pibuild brings itself; `libraries` are packages that are
    known by a file below /usr/lib, `tools` programs that its files need, each with its package. `writes` is where it
    keeps what it writes, `given` how its log says that a MAC address ({mac}) got an address.
    """

    name: str
    units: tuple[Unit, ...]
    files: tuple[Callable[[Serving], list[ConfigFile]], ...] = ()
    package: str = ""
    program: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    checkers: tuple[Checker, ...] = ()
    foreground: Callable[[Serving], Foreground] | None = None
    writes: tuple[str, ...] = ()
    leases: Leases | None = None
    given: str = ""
    lists_exports: bool = False  # `showmount -e` names every export, whoever asks

    @property
    def unit(self) -> Unit:
        """The unit that runs it."""
        return self.units[-1]

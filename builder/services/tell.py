"""Reload this machine's servers after their files changed; put the old files back when one refuses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.errors import VerdictError
from builder.run import run
from builder.services.exports import exports
from builder.services.files import Serving, netboot
from builder.services.leases import contradicting, replace
from builder.services.packages import require_installed
from builder.services.server import Command, Unit
from builder.services.servers import chosen
from builder.services.units import States, all_units, commands, retiring, wanted_units

_TIMEOUT = 120  # seconds; the kernel's NFS server stops slowly
_AGAIN = {"reload", "restart", "daemon-reload", "kill", "exportfs", "sysctl"}  # what reads the old files just as well


@dataclass(slots=True, kw_only=True)
class Servers:
    """Knows what it ran, to undo that and nothing else."""

    here: Serving
    said: list[Command] = field(default_factory=list)
    before: States | None = None

    def require(self) -> None:
        """Look for all that is needed, before anything is changed. Raises HostError."""
        require_installed(self.here)

    def retire(self, changed: Collection[PurePosixPath]) -> None:
        """Stop the servers that are not wanted any more; their units may go with the files. Raises CommandError."""
        self.before = _states(all_units())
        for command in retiring(self.here, changed, self.before):
            self._tell(command)

    def update(self, changed: Collection[PurePosixPath]) -> None:
        """Let the servers know of new files. Raises CommandError or VerdictError when one does not take them."""
        states = _states(all_units())
        (netboot(self.here.inventory).tftp / "boot").mkdir(parents=True, exist_ok=True)
        for export in exports(self.here):
            export.path.mkdir(parents=True, exist_ok=True)  # exportfs refuses the whole list over a missing one
        self._take_leases(states)
        for command in commands(self.here, changed, states):
            self._tell(command)
        running = _states(all_units()).active
        dead = [unit.name for unit in wanted_units(self.here) if unit.name not in running]
        if dead:
            raise VerdictError(f"not running with the new files: {', '.join(dead)}", hint=_journal(dead[0]))

    def _take_leases(self, states: States) -> None:
        """Take leases that contradict the inventory from a server that runs: it would give nobody else the address."""
        unit = chosen(self.here, "dhcp").unit
        books = contradicting(self.here.inventory)
        if unit.name not in states.active or not books:
            return
        self._tell(("systemctl", "stop", unit.name))
        for path, text in books.items():
            replace(path, text)
        self._tell(("systemctl", "start", unit.name))

    def _tell(self, command: Command) -> None:
        self.said.append(command)
        run(command, timeout=_TIMEOUT, hint=_journal(command[-1]) if command[0] == "systemctl" else "")

    @property
    def _ran(self) -> frozenset[str]:
        return self.before.active if self.before else frozenset()

    def halt(self) -> list[str]:
        """Stop what was started, while its unit is still there; return what failed even so."""
        return _failed(halting(self.said, self._ran))

    def undo(self) -> list[str]:
        """Let the servers that were told know that the old files are back; return what failed even so."""
        return _failed(undoing(self.said, self._ran))


def _failed(told: Collection[Command]) -> list[str]:
    ended = [run(command, check=False, timeout=_TIMEOUT) for command in told]
    return [" ".join(one.argv) for one in ended if one.returncode != 0]


def halting(said: Collection[Command], ran: Collection[str]) -> list[Command]:
    """Return what stops the servers that were started and did not run before; `ran` are those that did."""
    enabled = [command[-1] for command in said if command[:2] == ("systemctl", "enable")]
    started = [command[-1] for command in said if command[:2] == ("systemctl", "start")]
    new = [unit for unit in dict.fromkeys([*enabled, *started]) if unit not in ran]
    return [("systemctl", "disable", *(["--now"] if unit in started else []), unit) for unit in new]


def undoing(said: Collection[Command], ran: Collection[str]) -> list[Command]:
    """Return what undoes commands that were run, of which the last may have failed: nobody else hears of it.

    One that was stopped for a while, or with what it needs, starts anew: it may have read the new files.
    """
    started = [command[-1] for command in said if command[:2] == ("systemctl", "start")]
    again = [command for command in said if _verb(command) in _AGAIN and command[-1] not in started]
    there = [command for command in again if command[0] != "sysctl" or Path(command[-1]).is_file()]
    back: list[Command] = [("systemctl", "enable", "--now", one[-1]) for one in said if _verb(one) == "disable"]
    paused = [command[-1] for command in said if command[:2] == ("systemctl", "stop")]
    anew = [unit for unit in dict.fromkeys([*paused, *started]) if unit in ran]
    return [*there, *back, *(("systemctl", "restart", unit) for unit in anew)]


def _verb(command: Command) -> str:
    return command[1] if command[0] == "systemctl" else command[0]


def _states(units: Collection[Unit]) -> States:
    """Return how units are; one that is not installed is none of it."""
    names = [unit.name for unit in units]
    shown = run(["systemctl", "show", "--property=Id,ActiveState,UnitFileState,LoadState", *names], check=False).stdout
    found = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    active = {one["Id"] for one in found if one.get("ActiveState") in {"active", "reloading"}}
    failed = {one["Id"] for one in found if one.get("ActiveState") in {"failed", "activating"}}
    disabled = {one["Id"] for one in found if one.get("UnitFileState") == "disabled"}
    fileless = {one["Id"] for one in found if one.get("LoadState") == "not-found"}
    return States(
        active=frozenset(active), failed=frozenset(failed), disabled=frozenset(disabled), fileless=frozenset(fileless)
    )


def _journal(unit: str) -> str:
    return f"journalctl -u {unit} -n 50"

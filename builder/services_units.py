"""What has to be told to the servers when their files change: reload where they can, restart where they must.

What to run is data (`commands`), so that tests compare lists; `Servers` runs it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.errors import HostError, VerdictError
from builder.node_metrics import CONFIG, FILES
from builder.run import PATH, run
from builder.services import FLEET_UNIT, HOSTS, NAT, NAT_UNIT, SYSCTL, serves_fleet
from builder.services_dhcp import DHCPD, DHCPD_DEFAULTS, DNSMASQ, KEA, RESERVATIONS, TFTPD
from builder.services_files import Serving
from builder.services_leases import contradicting, replace
from builder.services_nfs import EXPORTS, GANESHA, NFS_CONF, exports

Command = tuple[str, ...]
_TIMEOUT = 120  # seconds; the kernel's NFS server stops slowly


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A server's unit, and which of its files it reads again without a restart, by which command."""

    name: str
    restart_on: tuple[PurePosixPath, ...] = ()
    reload_on: tuple[PurePosixPath, ...] = ()
    reload: Command = ()


def _hang_up(unit: str) -> Command:
    """Neither Kea's nor ganesha's unit has a reload in every release; both read their file again on SIGHUP."""
    return ("systemctl", "kill", "--signal=HUP", unit)


ISC = Unit(name="isc-dhcp-server.service", restart_on=(DHCPD, DHCPD_DEFAULTS))  # dhcpd reads its file once
KEA_UNIT = Unit(name="kea-dhcp4-server.service", reload_on=(KEA,), reload=_hang_up("kea-dhcp4-server.service"))
DNSMASQ_UNIT = Unit(
    name="dnsmasq.service",
    restart_on=(DNSMASQ,),
    reload_on=(RESERVATIONS, HOSTS),
    reload=("systemctl", "reload", "dnsmasq.service"),
)
TFTPD_UNIT = Unit(name="tftpd-hpa.service", restart_on=(TFTPD,))
NFS = Unit(name="nfs-server.service", restart_on=(NFS_CONF,), reload_on=(EXPORTS,), reload=("exportfs", "-ra"))
GANESHA_UNIT = Unit(name="nfs-ganesha.service", reload_on=(GANESHA,), reload=_hang_up("nfs-ganesha.service"))
NAT_SERVICE = Unit(
    name="pibuild-nat.service",
    reload_on=(NAT, NAT_UNIT),
    reload=("systemctl", "reload", "pibuild-nat.service"),
)
FLEET = Unit(name="pibuild-fleet.service", restart_on=(FLEET_UNIT,))
ALL = (ISC, KEA_UNIT, DNSMASQ_UNIT, TFTPD_UNIT, NFS, GANESHA_UNIT, NAT_SERVICE, FLEET)
_OURS = {NAT_SERVICE: NAT_UNIT, FLEET: FLEET_UNIT}
# Patterns, which match nothing on a server that has no forwarder installed
FORWARDER = ("vmagent.servic[e]", "prometheus-node-exporter.servic[e]")
PACKAGES = {
    ISC.name: "isc-dhcp-server",
    KEA_UNIT.name: "kea-dhcp4-server",
    DNSMASQ_UNIT.name: "dnsmasq",
    TFTPD_UNIT.name: "tftpd-hpa",
    NFS.name: "nfs-kernel-server",
    GANESHA_UNIT.name: "nfs-ganesha nfs-ganesha-vfs",
}


def wanted_units(here: Serving) -> tuple[Unit, ...]:
    """Return the units that serve, in the order in which they are told."""
    cluster = here.inventory.cluster
    wanted = {
        ISC: cluster.dhcp.server == "isc-dhcp",
        KEA_UNIT: cluster.dhcp.server == "kea",
        DNSMASQ_UNIT: here.runs_dnsmasq,
        TFTPD_UNIT: cluster.tftp.server == "tftpd-hpa",
        NFS: cluster.nfs.server == "kernel",
        GANESHA_UNIT: cluster.nfs.server == "ganesha",
        NAT_SERVICE: here.entry.uplink is not None,
        FLEET: serves_fleet(here),
    }
    return tuple(unit for unit in ALL if wanted[unit])


def commands(here: Serving, changed: Collection[PurePosixPath], active: Collection[str]) -> list[Command]:
    """Return what to run after `changed` files were replaced, while the `active` units run.

    A server that is not wanted any more is stopped before another takes its port; one that does not run is started.
    """
    wanted = wanted_units(here)
    told: list[Command] = [("systemctl", "daemon-reload")] if set(_OURS.values()) & set(changed) else []
    told += [("systemctl", "disable", "--now", unit.name) for unit in ALL if unit not in wanted and unit.name in active]
    if SYSCTL in changed and here.entry.uplink is not None:
        told.append(("sysctl", "-q", "-p", str(SYSCTL)))
    for unit in wanted:
        if unit.name not in active:
            told += [("systemctl", "enable", unit.name), ("systemctl", "start", unit.name)]
        elif set(unit.restart_on) & set(changed):
            told.append(("systemctl", "restart", unit.name))
        elif set(unit.reload_on) & set(changed):
            told.append(unit.reload)
    if {PurePosixPath(CONFIG, name) for name in FILES} & set(changed):
        told.append(("systemctl", "restart", *FORWARDER))
    return told


@dataclass(slots=True, kw_only=True)
class Servers:
    """The servers of this machine, under systemd. Knows what it stopped and started, to undo it.

    `paused` are those stopped to take leases from them that contradict the inventory; they run again afterwards.
    """

    here: Serving
    stopped: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    said: list[Command] = field(default_factory=list)

    def update(self, changed: Collection[PurePosixPath]) -> None:
        """Let the servers know of new files. Raises CommandError or VerdictError when one does not take them."""
        active = _active(ALL)
        for unit in wanted_units(self.here):
            _require(unit)
        for export in exports(self.here):
            export.path.mkdir(parents=True, exist_ok=True)  # exportfs refuses the whole list over a missing one
        self._take_leases(active)
        for command in commands(self.here, changed, active):
            if command[:3] == ("systemctl", "disable", "--now"):
                self.stopped.append(command[3])
            if command[:2] == ("systemctl", "start"):
                self.started.append(command[2])
            self._tell(command)
        dead = [unit.name for unit in wanted_units(self.here) if unit.name not in _active(ALL)]
        if dead:
            raise VerdictError(f"not running with the new files: {', '.join(dead)}", hint=_journal(dead[0]))

    def _take_leases(self, active: Collection[str]) -> None:
        """Take leases that contradict the inventory from a server that runs: it would give nobody else the address."""
        unit = {"dnsmasq": DNSMASQ_UNIT, "kea": KEA_UNIT}.get(self.here.inventory.cluster.dhcp.server)
        books = contradicting(self.here.inventory)
        if unit is None or unit.name not in active or not books:
            return
        self.paused.append(unit.name)
        self._tell(("systemctl", "stop", unit.name))
        for path, text in books.items():
            replace(path, text)
        self._tell(("systemctl", "start", unit.name))

    def _tell(self, command: Command) -> None:
        self.said.append(command)
        run(command, timeout=_TIMEOUT, hint=_journal(command[-1]) if command[0] == "systemctl" else "")

    def undo(self, changed: Collection[PurePosixPath]) -> list[str]:
        """Let the servers know that the old files are back; return what failed even so."""
        running = [unit.name for unit in ALL if unit.name not in self.started]
        told = [command for command in commands(self.here, changed, running) if "disable" not in command]
        told = [command for command in told if command[-1] not in self.started]
        told += [("systemctl", "disable", "--now", unit) for unit in self.started]
        told += [("systemctl", "enable", "--now", unit) for unit in self.stopped]
        told += [("systemctl", "start", unit) for unit in self.paused]
        ended = [run(command, check=False, timeout=_TIMEOUT) for command in told]
        return [" ".join(one.argv) for one in ended if one.returncode != 0]


def _active(units: Collection[Unit]) -> set[str]:
    """Return the units that run."""
    shown = run(["systemctl", "is-active", *(unit.name for unit in units)], check=False).stdout.split()
    return {unit.name for unit, state in zip(units, shown, strict=False) if state in {"active", "reloading"}}


def _require(unit: Unit) -> None:
    """Raise HostError when a server is not installed."""
    if unit is FLEET:  # it names no path: the same unit wherever pibuild was installed
        if shutil.which("pibuild", path=PATH) is None:
            hint = f"sudo ln -s {Path(sys.executable).with_name('pibuild')} /usr/local/bin/"
            raise HostError("the fleet manager's unit runs pibuild, which is not in systemd's path", hint=hint)
    elif unit is not NAT_SERVICE and run(["systemctl", "cat", unit.name], check=False).returncode != 0:
        raise HostError(f"{unit.name} is not installed", hint=f"sudo apt-get install {PACKAGES[unit.name]}")


def _journal(unit: str) -> str:
    return f"journalctl -u {unit} -n 50"

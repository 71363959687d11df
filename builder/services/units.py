"""What has to be told to the servers when their files change: reload where they can, restart where they must.

What to run is data (`retiring`, `commands`), so that tests compare lists; `services_tell.Servers` runs it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.monitoring.forwarder import CONFIG, FILES
from builder.services.dhcp import DHCPD, DHCPD_DEFAULTS, DNSMASQ, KEA, RESERVATIONS, TFTPD
from builder.services.files import Serving
from builder.services.nfs import EXPORTS, GANESHA, NFS_CONF
from builder.services.render import FLEET_UNIT, HOSTS, NAT, NAT_UNIT, SYSCTL, serves_fleet
from builder.services.tftp import BOOT_MOUNT, DROP_IN, MOUNT

Command = tuple[str, ...]


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
TFTP_MOUNT = Unit(name=MOUNT.name, restart_on=(MOUNT,))  # a restart takes the mount on it along, and dnsmasq
TFTP_BOOT_MOUNT = Unit(name=BOOT_MOUNT.name, restart_on=(BOOT_MOUNT,))
DNSMASQ_UNIT = Unit(
    name="dnsmasq.service",
    restart_on=(DNSMASQ, DROP_IN, MOUNT, BOOT_MOUNT),
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
ALL = (ISC, KEA_UNIT, TFTP_MOUNT, TFTP_BOOT_MOUNT, DNSMASQ_UNIT, TFTPD_UNIT, NFS, GANESHA_UNIT, NAT_SERVICE, FLEET)
_OURS = (NAT_UNIT, FLEET_UNIT, MOUNT, BOOT_MOUNT, DROP_IN)  # files of systemd's
# Patterns, which match nothing on a server that has no forwarder installed
FORWARDER = ("vmagent.servic[e]", "prometheus-node-exporter.servic[e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """How units are. `failed` is also one that systemd keeps trying to start; `disabled` is not started at boot.

    `fileless` run though their files have gone: an apply was killed after it had taken them away.
    """

    active: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    disabled: frozenset[str] = frozenset()
    fileless: frozenset[str] = frozenset()


def wanted_units(here: Serving) -> tuple[Unit, ...]:
    """Return the units that serve, in the order in which they are told."""
    cluster = here.inventory.cluster
    wanted = {
        ISC: cluster.dhcp.server == "isc-dhcp",
        KEA_UNIT: cluster.dhcp.server == "kea",
        TFTP_MOUNT: cluster.tftp.server == "dnsmasq",
        TFTP_BOOT_MOUNT: cluster.tftp.server == "dnsmasq",
        DNSMASQ_UNIT: here.runs_dnsmasq,
        TFTPD_UNIT: cluster.tftp.server == "tftpd-hpa",
        NFS: cluster.nfs.server == "kernel",
        GANESHA_UNIT: cluster.nfs.server == "ganesha",
        NAT_SERVICE: here.entry.uplink is not None,
        FLEET: serves_fleet(here),
    }
    return tuple(unit for unit in ALL if wanted[unit])


def retiring(here: Serving, changed: Collection[PurePosixPath], states: States) -> list[Command]:
    """Return what stops servers that are not wanted any more, before their files go and another takes their port.

    One that failed is stopped as well: at the next boot it may be the first to the port. A dnsmasq that pibuild never
    configured is somebody else's, and stays.
    """
    wanted, there = wanted_units(here), states.active | states.failed
    gone = [unit for unit in ALL if unit not in wanted and unit.name in there]
    theirs = [unit for unit in gone if unit is DNSMASQ_UNIT and DNSMASQ not in changed]
    return [
        ("systemctl", *(["stop"] if unit.name in states.fileless else ["disable", "--now"]), unit.name)
        for unit in gone
        if unit not in theirs
    ]


def commands(here: Serving, changed: Collection[PurePosixPath], states: States) -> list[Command]:
    """Return what to run after `changed` files were replaced. A server that does not run is started.

    One that was installed and not configured has failed to start, at installation and at every boot: its failures are
    forgotten first, for systemd gives up on a unit that fails too often.
    """
    told: list[Command] = [("systemctl", "daemon-reload")] if set(_OURS) & set(changed) else []
    if SYSCTL in changed and here.entry.uplink is not None:
        told.append(("sysctl", "-q", "-p", str(SYSCTL)))
    for unit in wanted_units(here):
        running = unit.name in states.active
        if unit.name in states.failed:
            told.append(("systemctl", "reset-failed", unit.name))
        if unit.name in states.disabled or not running:
            told.append(("systemctl", "enable", unit.name))
        if not running:
            told.append(("systemctl", "start", unit.name))
        elif set(unit.restart_on) & set(changed):
            told.append(("systemctl", "restart", unit.name))
        elif set(unit.reload_on) & set(changed):
            told.append(unit.reload)
    if {PurePosixPath(CONFIG, name) for name in FILES} & set(changed):
        told.append(("systemctl", "restart", *FORWARDER))
    return told

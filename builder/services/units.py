"""Which units to reload or restart when a server's files change.

What to run is data (`retiring`, `commands`), so that tests compare lists; `tell.Servers` runs it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.monitoring.forwarder import CONFIG, FILES
from builder.services.files import Serving
from builder.services.nat import SYSCTL
from builder.services.server import Command, Unit
from builder.services.servers import every, units, wanted

_SYSTEMD = PurePosixPath("/etc/systemd/system")
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


@functools.cache
def all_units() -> tuple[Unit, ...]:
    """Return the units of all servers, in the order in which they are told."""
    return units(every())


def wanted_units(here: Serving) -> tuple[Unit, ...]:
    """Return the units that serve, in the order in which they are told."""
    return units(wanted(here))


def retiring(here: Serving, changed: Collection[PurePosixPath], states: States) -> list[Command]:
    """Return what stops servers that are not wanted any more, before their files go and another takes their port.

    One that failed is stopped as well: at the next boot it may be the first to the port. A dnsmasq that pibuild never
    configured is somebody else's, and stays.
    """
    stay, there = wanted_units(here), states.active | states.failed
    gone = [unit for unit in all_units() if unit not in stay and unit.name in there]
    theirs = [unit for unit in gone if unit.configured is not None and unit.configured not in changed]
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
    told: list[Command] = []
    if any(path.is_relative_to(_SYSTEMD) for path in changed):
        told.append(("systemctl", "daemon-reload"))
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

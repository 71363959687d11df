"""What the health checks are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.services.files import Serving
from builder.services.server import Unit

PATIENCE = 3.0  # seconds for an answer
NAMED = 5  # nodes in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom to ask, with the directory that stands for its /. `here`: it is this machine; `nodes`: the nodes too.

    `strangers`: time is given to DHCP servers that are not ours to be heard.
    """

    serving: Serving
    root: Path
    here: bool
    nodes: bool
    strangers: bool = True

    @property
    def address(self) -> str:
        """The server's address."""
        return str(self.serving.node.address)

    @property
    def apply(self) -> str:
        """The command that puts the servers' files in order."""
        return f"sudo pibuild services apply --for {self.serving.role}"


def restart(asked: Asked, unit: Unit, *before: str) -> str:
    """Return what to type when a server does not answer."""
    command = f"sudo systemctl restart {' '.join([*before, unit.name])}; journalctl -u {unit.name} -n 50"
    return command if asked.here else f"on {asked.serving.node.name}: {command}"


def named(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

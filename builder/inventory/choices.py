"""Which servers an inventory can ask for: each is a module of `builder/services/KIND`, named as the setting says.

The schema stands below the servers: it reads the names of their files, and imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Kind = Literal["dhcp", "tftp", "nfs"]
DEFAULTS: Mapping[Kind, str] = MappingProxyType({"dhcp": "isc-dhcp", "tftp": "tftpd-hpa", "nfs": "kernel"})
_SERVICES = Path(__file__).parents[1] / "services"
FOLDERS: Mapping[Kind, Path] = MappingProxyType({kind: _SERVICES / kind for kind in DEFAULTS})


def servers(kind: Kind) -> tuple[str, ...]:
    """Return the names of a kind's servers: the one that is there by default, then the others, sorted."""
    names = [path.stem.replace("_", "-") for path in FOLDERS[kind].glob("[a-z]*.py")]
    return (DEFAULTS[kind], *sorted(name for name in names if name != DEFAULTS[kind]))

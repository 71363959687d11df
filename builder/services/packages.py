"""What a server has to have installed: one list, for docs, recipes, and the check before anything changes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from builder.errors import HostError
from builder.run import PATH
from builder.services.files import Serving
from builder.services.units import DNSMASQ_UNIT, FLEET, GANESHA_UNIT, ISC, KEA_UNIT, NFS, TFTPD_UNIT, wanted_units

PACKAGES = {  # of a unit; dnsmasq-base has the program and no unit
    ISC.name: ("isc-dhcp-server",),
    KEA_UNIT.name: ("kea-dhcp4-server",),
    DNSMASQ_UNIT.name: ("dnsmasq",),
    TFTPD_UNIT.name: ("tftpd-hpa",),
    NFS.name: ("nfs-kernel-server",),
    GANESHA_UNIT.name: ("nfs-ganesha", "nfs-ganesha-vfs"),
}
PROGRAMS = {  # of a unit: a package that was removed and not purged leaves its init script
    ISC.name: "dhcpd",
    KEA_UNIT.name: "kea-dhcp4",
    DNSMASQ_UNIT.name: "dnsmasq",
    TFTPD_UNIT.name: "in.tftpd",
    NFS.name: "exportfs",
    GANESHA_UNIT.name: "ganesha.nfsd",
}
TOOLS = {"ssh": "openssh-client", "rpcinfo": "rpcbind", "showmount": "nfs-common"}  # to apply and to check
UPLINK_TOOLS = {"nft": "nftables", "sysctl": "procps"}
_UNITS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")


def packages(here: Serving) -> tuple[str, ...]:
    """Return every package that a server needs, sorted."""
    return tuple(sorted({*_of_units(here), *_tools(here).values()}))


def missing(here: Serving, root: Path = Path("/")) -> tuple[str, ...]:
    """Return the packages that are not installed, sorted. Looks for what they bring, not at dpkg: any build will do."""
    lacking = {package for unit, package in _unit_packages(here) if not _has_server(root, unit)}
    lacking |= {package for tool, package in _tools(here).items() if not _has_tool(root, tool)}
    if "nfs-ganesha-vfs" in packages(here) and not any((root / "usr/lib").glob("**/ganesha/libfsalvfs.so")):
        lacking.add("nfs-ganesha-vfs")
    return tuple(sorted(lacking))


def require_installed(here: Serving, root: Path = Path("/")) -> None:
    """Raise HostError that names all that is missing, with one command that installs it."""
    lacking = missing(here, root)
    if lacking:
        message = f"a {here.role} server needs what is not installed: {', '.join(lacking)}"
        raise HostError(message, hint=f"sudo apt-get install {' '.join(lacking)}")
    if FLEET in wanted_units(here) and not _has_tool(root, "pibuild"):  # its unit names no path of an installation
        hint = f"sudo ln -s {Path(sys.executable).with_name('pibuild')} /usr/local/bin/"
        raise HostError("the fleet manager's unit runs pibuild, which is not in systemd's path", hint=hint)


def _tools(here: Serving) -> dict[str, str]:
    return {**TOOLS, **(UPLINK_TOOLS if here.entry.uplink is not None else {})}


def _of_units(here: Serving) -> list[str]:
    return [package for unit in wanted_units(here) for package in PACKAGES.get(unit.name, ())]


def _unit_packages(here: Serving) -> list[tuple[str, str]]:
    """Return each wanted unit that a package brings, with the one that brings it."""
    return [(unit.name, PACKAGES[unit.name][0]) for unit in wanted_units(here) if unit.name in PACKAGES]


def _has_unit(root: Path, unit: str) -> bool:
    """Return whether systemd has a unit, its own or made of an init script, as those of dhcpd and tftpd are."""
    own = any((root / directory / unit).is_file() for directory in _UNITS)
    return own or (root / "etc/init.d" / unit.removesuffix(".service")).is_file()


def _has_server(root: Path, unit: str) -> bool:
    return _has_unit(root, unit) and _has_tool(root, PROGRAMS[unit])


def _has_tool(root: Path, tool: str) -> bool:
    within = ":".join(str(root / directory.lstrip("/")) for directory in PATH.split(":"))
    return shutil.which(tool, path=within) is not None

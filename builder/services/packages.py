"""The packages that a server needs: one list for docs, recipes, and the check before an apply."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from builder.errors import HostError
from builder.run import PATH
from builder.services import fleet
from builder.services.files import Serving
from builder.services.server import Server
from builder.services.servers import wanted

TOOLS = {"ssh": "openssh-client", "rpcinfo": "rpcbind", "showmount": "nfs-common"}  # to apply and to check
_UNITS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")


def packages(here: Serving) -> tuple[str, ...]:
    """Return every package that a server needs, sorted."""
    rows = wanted(here)
    brought = {row.package for row in rows if row.package} | {name for row in rows for name in row.libraries}
    return tuple(sorted(brought | set(_tools(here).values())))


def missing(here: Serving, root: Path = Path("/")) -> tuple[str, ...]:
    """Return the packages that are not installed, sorted. Looks for what they bring, not at dpkg: any build will do."""
    rows = wanted(here)
    lacking = {row.package for row in rows if row.package and not _has_server(root, row)}
    lacking |= {package for tool, package in _tools(here).items() if not _has_tool(root, tool)}
    libraries = {package: file for row in rows for package, file in row.libraries.items()}
    lacking |= {package for package, file in libraries.items() if not any((root / "usr/lib").glob(f"**/{file}"))}
    return tuple(sorted(lacking))


def require_installed(here: Serving, root: Path = Path("/")) -> None:
    """Raise HostError that names all that is missing, with one command that installs it."""
    lacking = missing(here, root)
    if lacking:
        message = f"a {here.role} server needs what is not installed: {', '.join(lacking)}"
        raise HostError(message, hint=f"sudo apt-get install {' '.join(lacking)}")
    if fleet.serves_fleet(here) and not _has_tool(root, "pibuild"):  # its unit names no path of an installation
        hint = f"sudo ln -s {Path(sys.executable).with_name('pibuild')} /usr/local/bin/"
        raise HostError("the fleet manager's unit runs pibuild, which is not in systemd's path", hint=hint)


def _tools(here: Serving) -> dict[str, str]:
    return {**TOOLS, **{tool: package for row in wanted(here) for tool, package in row.tools.items()}}


def _has_unit(root: Path, unit: str) -> bool:
    """Return whether systemd has a unit, its own or made of an init script, as those of dhcpd and tftpd are."""
    own = any((root / directory / unit).is_file() for directory in _UNITS)
    return own or (root / "etc/init.d" / unit.removesuffix(".service")).is_file()


def _has_server(root: Path, row: Server) -> bool:
    """Return whether unit and program are there: a package that was removed and not purged leaves its init script."""
    return _has_unit(root, row.unit.name) and _has_tool(root, row.program)


def _has_tool(root: Path, tool: str) -> bool:
    within = ":".join(str(root / directory.lstrip("/")) for directory in PATH.split(":"))
    return shutil.which(tool, path=within) is not None

"""The servers' own checkers, run on files that are not in place yet.

The files lie beside those they will replace, not in /tmp: AppArmor lets dhcpd and Kea read their own directories alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder import console
from builder.errors import HostError, VerdictError
from builder.run import CommandError, find_tool, run
from builder.services.dhcp import DHCPD, DNSMASQ, KEA, RESERVATIONS, dnsmasq_checked
from builder.services.render import NAT, SSH

_KEA_ENVIRONMENT = {
    "KEA_LOCKFILE_DIR": "none",
    "KEA_LOGGER_DESTINATION": "stderr",
}  # -t would lock beside the running one
_TIMEOUT = 60  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A checker that was run, or why it was not."""

    tool: str
    path: PurePosixPath
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    tool: Path
    argv: tuple[str, ...]
    stdin: bytes | None = None


def check_files(staged: Mapping[PurePosixPath, Path], *, everything: bool) -> tuple[Checked, ...]:
    """Run the checker of every file that has one. `staged` maps the path it will have to where it is now.

    With `everything` a checker that is not installed is an error, since then its server is not either; without it the
    result says so. Raises HostError for that, VerdictError with the checker's words when a file is refused.
    """
    return tuple(_check(path, staged, everything=everything) for path in staged if path in _CHECKED)


_CHECKED = {DHCPD: "dhcpd", KEA: "kea-dhcp4", DNSMASQ: "dnsmasq", NAT: "nft", SSH: "ssh"}


def _check(path: PurePosixPath, staged: Mapping[PurePosixPath, Path], *, everything: bool) -> Checked:
    name = _CHECKED[path]
    try:
        check = _command(path, staged)
    except HostError as error:
        if everything:
            raise
        return Checked(tool=name, path=path, result=f"not checked: {error.message}")
    if path == NAT and os.geteuid() != 0:
        return Checked(tool=name, path=path, result="not checked: nft needs root")
    try:
        run((str(check.tool), *check.argv), env=_KEA_ENVIRONMENT, input=check.stdin, merge=True, timeout=_TIMEOUT)
    except CommandError as error:
        hint = "nothing was changed; pibuild services render writes the files to look at"
        raise VerdictError(f"{path} is refused by {name}\n{error.message}", hint=hint) from error
    return Checked(tool=name, path=path, result="ok")


def _command(path: PurePosixPath, staged: Mapping[PurePosixPath, Path]) -> _Check:
    """Return how a file is checked. Raises HostError when the checker is not installed."""
    file = staged[path]
    if path == DHCPD:
        return _Check(tool=find_tool("dhcpd", package="isc-dhcp-server"), argv=("-4", "-t", "-cf", str(file)))
    if path == KEA:
        return _Check(tool=find_tool("kea-dhcp4", package="kea-dhcp4-server"), argv=("-t", str(file)))
    if path == NAT:
        return _Check(tool=find_tool("nft", package="nftables"), argv=("-c", "-f", str(file)))
    if path == SSH:
        tool = find_tool("ssh", package="openssh-client")
        return _Check(tool=tool, argv=("-G", "-F", str(file), "localhost"))
    reservations = staged[RESERVATIONS].read_text() if RESERVATIONS in staged else ""
    text = dnsmasq_checked(file.read_text(), reservations)
    tool = find_tool("dnsmasq", package="dnsmasq-base")
    return _Check(tool=tool, argv=("--test", "--conf-file=-"), stdin=text.encode())


def say_checked(checked: tuple[Checked, ...]) -> None:
    """Tell what was checked, on stderr."""
    for one in checked:
        console.note(f"{one.tool}: {one.path}: {one.result}")

"""dnsmasq as a DHCP server: reservations in a file of their own, and leases that it keeps for ever if told so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from builder.services.dnsmasq import NAMES, RESERVATIONS
from builder.services.files import ConfigFile, Serving, fill
from builder.services.server import Fits, Leases

_LEASES = PurePosixPath("/var/lib/misc/dnsmasq.leases")


def _reservations(here: Serving) -> list[ConfigFile]:
    text = fill("dnsmasq-reservations.j2", here, lease=here.inventory.cluster.dhcp.lease)
    return [ConfigFile(path=RESERVATIONS, text=text)]


def kept(text: str, fits: Fits) -> str:
    """Return leases (`expiry MAC address name client-id` a line) without those that do not fit."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not _is_ipv4_lease(line.split()) or fits.keeps(*line.split()[1:3]))


def _is_ipv4_lease(words: list[str]) -> bool:
    """Return whether a line is one; those of IPv6 have `duid` first, or an address with colons in the third place."""
    return len(words) > 2 and words[0].isdigit() and ":" not in words[2]  # noqa: PLR2004 - expiry, MAC, address


SERVER = replace(
    NAMES,
    files=(*NAMES.files, _reservations),
    leases=Leases(path=_LEASES, kept=kept),
    given=r"DHCPACK\(\S+\) (?P<address>[\d.]+) {mac}",
)

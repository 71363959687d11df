"""What identifies a board: host name, serial number, MAC address, and ranges of addresses, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, 2.1
_PLACE = re.compile(r"(/[A-Za-z0-9._@+-]+)+/?")  # means itself in exports(5), fstab(5), systemd.mount(5) and nfsroot=
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9a-f]{2}(-[0-9a-f]{2}){5}")
_SHORT, _LONG = 8, 16  # hex digits of a serial number: what the bootloader asks with, what /proc/cpuinfo shows
READ_SERIAL = "read it off the board: cat /proc/cpuinfo | grep Serial (the last 8 digits count), and quote it"
READ_MAC = "read it off the board: ip link show eth0"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class AddressRange:
    """Addresses from `first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def hostname(name: str) -> str:
    """Return the host name made of a written name: lower case, underscores become hyphens. Raises ValueError."""
    made = name.lower().replace("_", "-")
    if not _LABEL.fullmatch(made):
        raise ValueError(name)
    return made


def serial_of(written: str) -> str:
    """Return the 8 hex digits that the bootloader asks with: of 16 the low half. Raises ValueError with the reason."""
    digits = written.strip().lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]*", digits):
        odd = next(character for character in digits if character not in "0123456789abcdef")
        raise ValueError(f"'{odd}' is not a hex digit")
    if len(digits) not in {_SHORT, _LONG}:
        raise ValueError(f"it has {len(digits)} hex digits; a Raspberry Pi's has {_SHORT}")
    return digits[-_SHORT:]


def mac_of(written: str) -> str:
    """Return a MAC address in lower case with colons. Raises ValueError with the reason."""
    mac = written.strip().lower()
    if not _MAC.fullmatch(mac):
        raise ValueError("it is not of the form aa:bb:cc:dd:ee:ff")
    if int(mac[:2], 16) & 1:
        raise ValueError("it is a group address; no network card has one")
    return mac.replace("-", ":")


def range_of(written: str) -> AddressRange:
    """Return the range written as `first-last`, `address/length` or one address. Raises ValueError with the reason."""
    if "/" in written:
        network = IPv4Network(written)
        return AddressRange(first=network[0], last=network[-1])
    first, _, last = (part.strip() for part in written.partition("-"))
    begin, end = IPv4Address(first), IPv4Address(last or first)
    if end < begin:
        raise ValueError(f"{end} comes before {begin}")
    return AddressRange(first=begin, last=end)


def place_problem(written: str) -> str:
    """Return why a directory cannot be the one that nodes boot from, "" when it can: many files name it."""
    if not written.startswith("/"):
        return "is not an absolute path"
    if ".." in written.split("/") or not written.strip("/"):
        return "is not a directory of its own"
    if _PLACE.fullmatch(written):
        return ""
    odd = next((character for character in written if not re.fullmatch(r"[A-Za-z0-9._@+/-]", character)), "//")
    return f"has {odd!r}, which exports, fstab or the kernel's nfsroot= would take for something else"

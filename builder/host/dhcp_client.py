"""A DHCP client that sends a board's DISCOVER and collects every OFFER, without taking one.

The question is a UDP broadcast, the answers are read off the interface: so it works beside the server on one machine as
well, whether that listens with a UDP socket (dnsmasq) or reads the interface itself (dhcpd, Kea). Nothing is leased.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.errors import HostError

TFTP_SERVER, VENDOR = 66, 43  # option codes, RFC 2132
_HEADER = struct.Struct("!4BIHH4s4s4s4s16s192s")  # RFC 2131, 2
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY, _ETHERNET, _BROADCAST = 1, 2, 1, 0x8000
_SERVER_PORT, _CLIENT_PORT, _UDP, _ETH_P_ALL = 67, 68, 17, 3
_MESSAGE, _SERVER_ID, _DISCOVER, _OFFER = 53, 54, 1, 2
_OPTIONS = (
    (_MESSAGE, bytes([_DISCOVER])),
    (55, bytes([1, 3, 6, 12, VENDOR, 51, _SERVER_ID, TFTP_SERVER])),
    (60, b"PXEClient:Arch:00000:UNDI:002001"),  # what the EEPROM says it is
    (93, b"\0\0"),
)
_AGAIN = 1.0  # seconds between two questions
_AT_ONCE = 32  # boards


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server would give. `server` is how it calls itself (option 54); options by code."""

    server: str
    address: str
    options: Mapping[int, bytes]


def discover(interface: str, mac: str, *, seconds: float) -> tuple[Offer, ...]:
    """Return the offers to a MAC address that come within so many seconds, one of each server: see `discover_all`."""
    return discover_all(interface, [mac], seconds=seconds, patient=True)[mac]


def discover_all(
    interface: str, macs: Sequence[str], *, seconds: float, patient: bool = False
) -> dict[str, tuple[Offer, ...]]:
    """Return the offers to MAC addresses that come within so many seconds, one of each server. Needs root.

    Some are asked for at a time. All is said when each has an offer and a second has passed, unless `patient`: a
    server of somebody else's is heard then as well. Raises HostError where the interface is not there.
    """
    found: dict[str, dict[str, Offer]] = {mac: {} for mac in macs}
    try:
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) as answers,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question,
        ):
            answers.bind((interface, _ETH_P_ALL))
            for option in (socket.SO_REUSEADDR, socket.SO_BROADCAST):
                question.setsockopt(socket.SOL_SOCKET, option, 1)
            question.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            question.bind(("", _CLIENT_PORT))
            for some in (macs[at : at + _AT_ONCE] for at in range(0, len(macs), _AT_ONCE)):
                asked = {secrets.randbits(32): mac for mac in some}
                end = time.monotonic() + seconds
                while (now := time.monotonic()) < end:
                    for transaction, mac in asked.items():
                        packet = _packet(bytes.fromhex(mac.replace(":", "")), transaction)
                        question.sendto(packet, ("255.255.255.255", _SERVER_PORT))
                    for mac, offer in _offers(answers, asked, min(now + _AGAIN, end)):
                        found[mac].setdefault(offer.server, offer)
                    if not patient and all(found[mac] for mac in some):
                        break
    except OSError as error:
        raise HostError(f"{interface}: {error.strerror}", hint="ip link; ip address") from error
    return {mac: tuple(offers.values()) for mac, offers in found.items()}


def _packet(hardware: bytes, transaction: int) -> bytes:
    none = bytes(4)
    header = _HEADER.pack(
        _REQUEST, _ETHERNET, len(hardware), 0, transaction, 0, _BROADCAST, none, none, none, none, hardware, b""
    )
    return header + _COOKIE + b"".join(bytes([code, len(value)]) + value for code, value in _OPTIONS) + b"\xff"


def _offers(answers: socket.socket, asked: Mapping[int, str], until: float) -> Iterator[tuple[str, Offer]]:
    while (left := until - time.monotonic()) > 0:
        answers.settimeout(left)
        try:
            packet = answers.recv(4096)
        except TimeoutError:
            return
        for transaction, mac in asked.items():
            offer = read_offer(packet, transaction)
            if offer is not None:
                yield mac, offer


def read_offer(packet: bytes, transaction: int) -> Offer | None:
    """Return the offer in an IPv4 packet, None for anything else."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:  # noqa: PLR2004 - RFC 791
        return None
    datagram = packet[(packet[0] & 0xF) * 4 :]
    body = datagram[8:]
    if int.from_bytes(datagram[:2]) != _SERVER_PORT or len(body) < _HEADER.size + len(_COOKIE):
        return None
    fields = _HEADER.unpack_from(body)
    if (fields[0], fields[4]) != (_REPLY, transaction):
        return None
    options = _read_options(body[_HEADER.size + len(_COOKIE) :])
    if options.get(_MESSAGE) != bytes([_OFFER]) or len(options.get(_SERVER_ID, b"")) != 4:  # noqa: PLR2004 - an address
        return None
    return Offer(server=socket.inet_ntoa(options[_SERVER_ID]), address=socket.inet_ntoa(fields[8]), options=options)


def _read_options(data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 0xFF:  # noqa: PLR2004 - RFC 2132, 3.2
        if data[at] == 0:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        options[data[at]] = data[at + 2 : at + 2 + length]
        at += 2 + length
    return options

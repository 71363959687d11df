"""A DHCP client as a board has three of: `python -m tests.dhcp_client INTERFACE MAC CLIENT-ID|- [boot]` prints its
lease. RFC 2131: DISCOVER, OFFER, REQUEST, ACK by broadcast, from an interface that has no address yet. With
`boot` it says what the Raspberry Pi's EEPROM says: vendor class, architecture.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import sys
import time

_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST = 0x8000
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6
_WANTED = bytes([1, 3, 6, 12, 15, 28, 43, 51, 54, 60, 66, 67])
_HEADER = struct.Struct("!4BIHH4s4s4s4s16s192s")
_PATIENCE = 20  # seconds; servers take some to start


def _packet(mac: bytes, transaction: int, options: list[tuple[int, bytes]]) -> bytes:
    none = bytes(4)
    header = _HEADER.pack(1, 1, 6, 0, transaction, 0, _BROADCAST, none, none, none, none, mac, b"")
    return header + _COOKIE + b"".join(bytes([code, len(value)]) + value for code, value in options) + b"\xff"


def _read(packet: bytes, transaction: int) -> dict[str, object] | None:
    if len(packet) < _HEADER.size + 4 or packet[0] != 2:
        return None
    fields = _HEADER.unpack_from(packet)
    if fields[4] != transaction:
        return None
    options: dict[int, str] = {}
    rest = packet[_HEADER.size + 4 :]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]].hex()
        rest = rest[2 + rest[1] :]
    return {"address": socket.inet_ntoa(fields[8]), "next": socket.inet_ntoa(fields[9]), "options": options}


def _ask(talk: socket.socket, packet: bytes, transaction: int, kinds: set[int], until: float) -> dict[str, object]:
    while time.monotonic() < until:
        talk.sendto(packet, ("255.255.255.255", 67))
        listen = time.monotonic() + 1.5
        while time.monotonic() < listen:
            try:
                answer = _read(talk.recv(4096), transaction)
            except TimeoutError:
                break
            if answer is None:
                continue
            options = answer["options"]
            assert isinstance(options, dict)
            if int(options.get(53, "0"), 16) in kinds:
                return answer
    raise SystemExit("no answer")


def lease(interface: str, mac: str, client_id: str, *, boot: bool) -> dict[str, object]:
    """Return the ACK: `address`, `next` (siaddr) and `options` by code, in hex."""
    hardware, transaction = bytes.fromhex(mac.replace(":", "")), secrets.randbits(32)
    common = [(55, _WANTED)]
    if client_id != "-":
        common.append((61, bytes.fromhex(client_id)))
    if boot:
        common += [(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, b"\0\0"), (94, b"\1\2\1"), (97, bytes(17))]
    until = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talk:
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        talk.bind(("", 68))
        talk.settimeout(1)
        discover = _packet(hardware, transaction, [(53, bytes([_DISCOVER])), *common])
        offer = _ask(talk, discover, transaction, {_OFFER}, until)
        options = offer["options"]
        assert isinstance(options, dict)
        chosen = [
            (53, bytes([_REQUEST])),
            (50, socket.inet_aton(str(offer["address"]))),
            (54, bytes.fromhex(options[54])),
        ]
        return _ask(talk, _packet(hardware, transaction, [*chosen, *common]), transaction, {_ACK, _NAK}, until)


if __name__ == "__main__":
    print(json.dumps(lease(sys.argv[1], sys.argv[2], sys.argv[3], boot=sys.argv[4:] == ["boot"])))  # noqa: T201

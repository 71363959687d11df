"""What is read off the network and out of lease files when servers are looked at."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import HostError
from builder.host.dhcp_client import read_offer
from builder.inventory.load import load_inventory
from builder.services.dhcp import dnsmasq, kea
from builder.services.exports import exports
from builder.services.files import serving
from builder.services.leases import contradicting, fits, replace
from builder.services.live_nfs import not_exported
from builder.services.probe import at_the_switch
from tests.clusters import DYNAMIC, LAB, variant

YELLOW3 = "e4:5f:01:f5:f1:ae"


def offer(transaction: int = 7, *, kind: int = 2, options: bytes = b"") -> bytes:
    """Return an IPv4 packet with an OFFER of 192.168.2.30 from 192.168.2.1."""
    body = struct.pack(
        "!4BIHH4s4s4s4s16s192s", 2, 1, 6, 0, transaction, 0, 0, b"", bytes([192, 168, 2, 30]), *[b""] * 4
    )
    body += b"\x63\x82\x53\x63" + bytes([53, 1, kind, 54, 4, 192, 168, 2, 1]) + options + b"\xff"
    datagram = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    return bytes([0x45]) + bytes(8) + bytes([17]) + bytes(10) + datagram


def test_an_offer_is_read() -> None:
    read = read_offer(offer(options=bytes([0, 66, 2]) + b"ab"), 7)
    assert read is not None
    assert (read.server, read.address, read.options[66]) == ("192.168.2.1", "192.168.2.30", b"ab")
    assert read_offer(offer(transaction=8), 7) is None
    assert read_offer(offer(kind=5), 7) is None


@given(st.binary(max_size=400), st.integers(0, 260))
def test_whatever_comes_off_the_network_is_an_offer_or_none(noise: bytes, at: int) -> None:
    packet = offer()
    for broken in (noise, packet[:at], packet[:at] + noise, packet[:248] + noise):
        read = read_offer(broken, 7)
        assert read is None or read.server.count(".") == 3


def test_an_export_counts_when_its_client_is_listed() -> None:
    here = exports(serving(load_inventory(LAB), "login"))
    listed = "".join(f"{one.path} {one.client}\n" for one in here)
    assert not_exported(listed, here) == []
    assert not_exported("", here) == here
    assert not_exported(listed.replace("192.168.2.30", "192.168.2.3"), here) == [
        one for one in here if str(one.client) == "192.168.2.30"
    ]


def test_leases_that_contradict_the_inventory_go_and_no_others(tmp_path: Path) -> None:
    wanted = fits(load_inventory(variant(tmp_path, dhcp="dnsmasq", changes=[DYNAMIC])))
    stays = f"0 {YELLOW3} 192.168.2.30 yellow3 *\n1766400000 aa:00:00:00:00:01 192.168.2.105 guest 01:aa\n"
    stays += "duid 00:01:00:01\n1766400000 12345 fd00::5 host 00:01\n"
    goes = "0 aa:00:00:00:00:02 192.168.2.31 old *\n0 aa:00:00:00:00:03 192.168.2.99 * *\n"
    moved = f"0 {YELLOW3.upper()} 192.168.2.31 yellow3 *\n"
    assert dnsmasq.kept(stays + goes + moved, wanted) == stays
    heading = "address,hwaddr,client_id,valid_lifetime\n"
    rows = f"192.168.2.30,{YELLOW3},,4294967295\n"
    assert (
        kea.kept(f"{heading}{rows}192.168.2.31,{YELLOW3},,1\n192.168.2.30,aa:00:00:00:00:02,,1\n", wanted)
        == heading + rows
    )
    assert kea.kept("", wanted) == ""


@pytest.mark.parametrize(("server", "name"), [("dnsmasq", "misc/dnsmasq.leases"), ("kea", "kea/kea-leases4.csv.2")])
def test_only_files_that_change_are_written(server: str, name: str, tmp_path: Path) -> None:
    inventory = load_inventory(variant(tmp_path, dhcp=server))
    book = tmp_path / "var/lib" / name
    book.parent.mkdir(parents=True)
    stale = (
        "0 aa:00:00:00:00:02 192.168.2.31 old *\n" if server == "dnsmasq" else "a,b\n192.168.2.31,aa:00:00:00:00:02,\n"
    )
    book.write_text(stale)
    book.chmod(0o640)
    books = contradicting(inventory, tmp_path)
    assert [tmp_path / path.relative_to("/") for path in books] == [book]
    for path, text in books.items():
        replace(path, text, tmp_path)
    assert book.stat().st_mode & 0o777 == 0o640
    assert contradicting(inventory, tmp_path) == {}
    assert list(book.parent.iterdir()) == [book]


@pytest.mark.parametrize(
    ("server", "name", "damaged", "goes"),
    [
        (
            "dnsmasq",
            "misc/dnsmasq.leases",
            b"0 aa\n\xff\xfe 1 2\n0 mac 192.168.2 x\n0 a\xe2\x80\xa8b 999.1.1.1\n\0\0\n17",
            b"0 x 192.168.2.99 y\n",
        ),
        (
            "kea",
            "kea/kea-leases4.csv",
            b"heading\n\n192.168.2.30\n,,,,\nnonsense,\xff\n192.168.2.300,aa\n\0",
            b"192.168.2.99,aa:00:00:00:00:03,\n",
        ),
    ],
)
def test_damaged_lease_lines_stay_as_they_are_and_end_nothing(
    server: str, name: str, damaged: bytes, goes: bytes, tmp_path: Path
) -> None:
    inventory = load_inventory(variant(tmp_path, dhcp=server))
    book = tmp_path / "var/lib" / name
    book.parent.mkdir(parents=True)
    first, _, rest = damaged.partition(b"\n")
    book.write_bytes(first + b"\n" + goes + rest)
    ((path, text),) = contradicting(inventory, tmp_path).items()
    replace(path, text, tmp_path)
    assert book.read_bytes() == damaged
    book.unlink()
    book.mkdir()
    with pytest.raises(HostError, match="is no regular file"):
        contradicting(inventory, tmp_path)


def test_ports_of_the_switch_are_named_where_they_are_known(tmp_path: Path) -> None:
    path = variant(tmp_path)
    path.write_text(path.read_text().replace("port: 37, ", ""))
    inventory = load_inventory(path)
    assert at_the_switch([inventory.node("yellow3")]) == "at the switch"
    known = [inventory.node(name) for name in ("yellow2", "yellow3", "yellow4")]
    assert at_the_switch(known) == "at the switch (ports: yellow2 35, yellow4 39)"

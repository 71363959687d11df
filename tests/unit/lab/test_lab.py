"""The lab's pure parts: which servers, what a machine is started with, and what is judged of a node."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from builder.errors import HostError, VerdictError
from builder.firmware.simulate import BootReport, Request, Stop, StopKind
from builder.inventory.load import load_inventory
from builder.lab.daemon import switch_on
from builder.lab.lab import Lab, LabOptions
from builder.lab.machine import Machine, chain_json, machine_argv, read_chain, was_switched_off
from builder.lab.namespace import Namespace
from builder.lab.netboot_test import Netbooted
from builder.lab.servers import addresses_given, for_lab
from builder.lab.verdict import NodeExpected, judged, unique
from builder.netboot.layout import Netboot
from builder.services.dhcp.isc_dhcp import DHCPD
from builder.services.dnsmasq import DNSMASQ
from builder.services.files import serving
from builder.services.nfs.ganesha import GANESHA
from builder.services.render import render
from builder.services.tftp.tftpd_hpa import TFTPD
from builder.verify.finding import Finding, holds
from builder.verify.verdict import Verdict

LAB = load_inventory(Path(__file__).parents[3] / "cluster.yaml")
MAC = "e4:5f:01:f5:f1:ae"
MACHINE = Machine(
    node="yellow3",
    serial="c0a3cab4",
    board="pi4",
    mac=MAC,
    server="192.168.2.1",
    tap="tap0",
    directory=Path("/d"),
    logs=Path("/l"),
)
EXPECTED = NodeExpected(
    node=LAB.node("yellow3"),
    server=LAB.login.address,
    root=Path("/srv/netboot/roots/yellow3/a-b"),
    boot=Path("/srv/netboot/tftp/boot/yellow3/a-b"),
    persist=Path("/srv/netboot/roots/yellow3/persist"),
    boot_mount="/boot/firmware",
    shared=False,
    machine_id="0123",
    timezone="Europe/Athens",
)
FACTS = {
    "hostname": "yellow3",
    "machine-id": "0123",
    "address": "192.168.2.30/24",
    "root": "192.168.2.1:/srv/netboot/roots/yellow3/a-b nfs",
    "layers": "",
    "boot": "192.168.2.1:/srv/netboot/tftp/boot/yellow3/a-b",
    "sudo": "",
    "zone": "/usr/share/zoneinfo/Europe/Athens",
    "clock": "EET",
}


def test_the_lab_changes_the_inventory_and_no_rendered_text() -> None:
    inside = for_lab(LAB, Path("/tmp/netboot"))
    paths = [file.path for file in render(inside, "login")]
    assert GANESHA in paths
    assert DHCPD in paths
    assert TFTPD in paths
    same = [file.path for file in render(LAB, "login") if file in render(inside, "login")]
    assert DHCPD in same
    assert DNSMASQ in same
    assert serving(inside, "login").entry == serving(LAB, "login").entry


def test_other_servers_by_setting() -> None:
    inside = for_lab(LAB, Path("/tmp/netboot"), dhcp="dnsmasq", tftp="dnsmasq")
    files = {file.path: file.text for file in render(inside, "login")}
    assert DHCPD not in files
    assert TFTPD not in files
    assert "tftp-root=/run/pibuild/tftp\n" in files[DNSMASQ]
    assert inside.cluster.dhcp.lease == LAB.cluster.dhcp.lease


@pytest.mark.parametrize(
    "line",
    [
        f"DHCPACK on 192.168.2.30 to {MAC} via eth0",
        f"DHCPACK on 192.168.2.30 to {MAC} (yellow3) via eth0",
        f"dnsmasq-dhcp[14]: 1234 DHCPACK(eth0) 192.168.2.30 {MAC} yellow3",
        (
            f"INFO  [kea-dhcp4.leases/14.1] DHCP4_LEASE_ALLOC [hwtype=1 {MAC}], cid=[01:e4:5f:01:f5:f1:ae], "
            "tid=0x1: lease 192.168.2.30 has been allocated for 4294967295 seconds"
        ),
    ],
)
def test_a_given_address_is_read_from_each_servers_log(line: str) -> None:
    other = line.replace(MAC, "e4:5f:01:f5:f0:dc").replace("192.168.2.30", "192.168.2.31")
    offer = f"DHCPOFFER on 192.168.2.99 to {MAC} via eth0"
    log = f"{other}\n{offer}\n{line}\n{line}\n"
    assert addresses_given(log, MAC) == [IPv4Address("192.168.2.30")] * 2


def test_a_machine_is_given_what_was_loaded_and_its_own_mac() -> None:
    argv = machine_argv(MACHINE, {"kernel": Path("/d/kernel"), "initrd": Path("/d/initrd")}, "a b", Path("/l/y.log"))
    assert argv[argv.index("-kernel") + 1 : argv.index("-kernel") + 5] == (
        "/d/kernel",
        "-initrd",
        "/d/initrd",
        "-append",
    )
    assert argv[argv.index("-append") + 1] == "a b"
    assert f"virtio-net-pci,netdev=net,mac={MAC},romfile=" in argv
    assert "-no-reboot" in argv
    assert "-initrd" not in machine_argv(MACHINE, {"kernel": Path("/d/kernel")}, "a", Path("/l"))


def test_power_down_is_no_reset() -> None:
    assert was_switched_off(b"x" * 5000 + b"[  99.1] reboot: Power down\r\n")
    assert not was_switched_off(b"[ 1.0] reboot: Power down\r\n" + b"x" * 5000 + b"reboot: Restarting system\r\n")


@pytest.mark.parametrize("stop", [None, Stop.of(StopKind.DTB, "a/x.dtb is not on the server.", file="a/x.dtb")])
def test_a_chain_survives_its_file(tmp_path: Path, stop: Stop | None) -> None:
    report = BootReport(
        board="pi4",
        serial="c0a3cab4",
        requests=(Request(name="a/b", outcome="sent", size=3), Request(name="c", outcome="missing", note="n")),
        kernel="a/b",
        initramfs=("a/i",),
        stop=stop,
        settings={"kernel": "b"},
        contents={"a/b": b"abc"},
    )
    (tmp_path / "chain").write_text(json.dumps(chain_json(report)))
    assert read_chain(tmp_path / "chain") == report  # contents do not count


def failed(**changed: str) -> list[str]:
    given = [LAB.node("yellow3").address] * 2
    return [check.check for check in judged({**FACTS, **changed}, EXPECTED, given) if check.broken]


def test_a_node_as_it_should_be() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("fact", "value", "check"),
    [
        ("hostname", "golden", "hostname"),
        ("machine-id", "4567", "machine-id"),
        ("address", "192.168.2.99/24", "reserved address"),
        ("address", "192.168.2.30/24 192.168.2.99/24", "reserved address"),
        ("root", "192.168.2.1:/srv/netboot/roots/yellow4/a-b nfs", "root"),
        ("boot", "", "boot files"),
        ("sudo", "sudo: unable to resolve host yellow3: Name or service not known", "sudo"),
        ("zone", "/usr/share/zoneinfo/Etc/UTC", "time zone"),
    ],
)
def test_each_thing_that_is_not_as_it_should_be_is_named(fact: str, value: str, check: str) -> None:
    assert failed(**{fact: value}) == [check]


def test_a_second_address_given_by_dhcp_is_seen() -> None:
    given = [IPv4Address("192.168.2.30"), IPv4Address("192.168.2.101")]
    (bad,) = [check for check in judged(FACTS, EXPECTED, given) if check.broken]
    assert bad.check == "reserved address"
    assert "192.168.2.101" in bad.seen


def test_a_shared_root_is_two_layers_under_memory() -> None:
    shared = replace(EXPECTED, shared=True)
    layers = "lowerdir=/run/pibuild/node/a-b/files:/run/pibuild/root"
    given = [LAB.node("yellow3").address]
    seen = {**FACTS, "root": "overlay overlay", "layers": layers, "boot": ""}
    assert holds(judged(seen, shared, given))
    assert not holds(judged({**seen, "layers": "lowerdir=/run/pibuild/root"}, shared, given))


def test_what_two_nodes_share_is_found() -> None:
    one = {"hostname": "a", "machine-id": "1", "address": "x", "host key ssh-ed25519": "k"}
    other = {"hostname": "b", "machine-id": "1", "address": "y", "host key ssh-ed25519": "l"}
    assert [check.check for check in unique({"a": one, "b": other}) if check.broken] == ["machine-id unique"]
    assert [check.check for check in unique({"a": one, "b": {}}) if check.broken] != []


def test_a_bad_verdict_names_node_check_and_console() -> None:
    bad = Verdict(checks=(Finding(check="root", result="broken", seen="none"),), console=Path("/l/y.log"), seconds=1)
    seen = Netbooted(chains={}, verdicts={"yellow3": bad}, identities=())
    with pytest.raises(VerdictError, match=r"yellow3: root: none\nhint: read the console log: /l/y.log"):
        seen.require()


def test_a_node_that_came_into_cluster_yaml_later_is_said_to_be_so(tmp_path: Path) -> None:
    running = Lab(
        inventory=LAB,
        netboot=Netboot(tmp_path),
        options=LabOptions(),
        namespace=Namespace(holder=1, bridge="bridge"),
        directory=tmp_path,
        logs=tmp_path,
        _stack=ExitStack(),
    )
    with pytest.raises(HostError, match=r"cluster\.yaml as it was when it started, without green9") as raised:
        switch_on(running, ["green9"])
    assert "sudo pibuild lab down" in str(raised.value)

"""Nodes boot over the network what was exploded: two at once, upgraded while they run, rolled back, a root shared."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.lab.lab import LabNode
from builder.run import run, spawn
from tests import machine
from tests.clusters import variant
from tests.system.engine import processes_of
from tests.system.lab import PATIENCE, PROJECT, NetLab, explode, pibuild

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network]

CHECKS = {
    "bootloader of a pi4",
    "kernel up",
    "ssh by key",
    "systemd running",
    "reserved address",
    "root",
    "hostname",
    "machine-id",
    "sudo",
    "time zone",
    "root writable",
    "node_exporter answers",
    "vmagent answers",
    "open ports",
    "no ssh by password",
}
IDENTITY = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub /etc/hostname; sudo cat /etc/rancher/node/password"
SECOND = """\
name: second
description: the golden image with one layer more
extends: [{golden}]
disk: {{compress: []}}
layers:
  - name: mark
    steps:
      - files: [{{path: /etc/pibuild-generation, content: "second\\n"}}]
"""


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that differs from the golden one in one layer."""
    home = tmp_path_factory.mktemp("second")
    recipe = home / "second.yaml"
    recipe.write_text(SECOND.format(golden=PROJECT / "recipes/golden.yaml"))
    pibuild("build", recipe, "--output", home)
    return home / "second" / "latest"


def test_two_nodes_boot_at_once_and_are_two(golden_image: Path, tmp_path: Path) -> None:
    """One has a root of its own, the other a shared one; both are seen to be what they should be."""
    dest, cluster = tmp_path / "netboot", variant(tmp_path, shared=["yellow4"])
    nodes = ("--node", "yellow3", "--node", "yellow4", "--cluster", cluster)
    ways = [row["way"] for row in explode(dest, golden_image, *nodes)]
    assert [way == "shared" for way in ways] == [False, True]
    done = pibuild("boot", *nodes, "--netboot", "--dest", dest, "--logs", tmp_path / "logs", "--json", check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    for name, more in (("yellow3", {"boot files"}), ("yellow4", {"kept paths"})):
        assert {check["check"] for check in report["nodes"][name]["verdict"]["checks"]} == CHECKS | more
        serial = {"yellow3": "c0a3cab4", "yellow4": "d31716f4"}[name]
        assert report["nodes"][name]["chain"]["kernel"] == f"{serial}/vmlinuz"
    assert {check["check"] for check in report["identities"]} >= {
        "hostname unique",
        "machine-id unique",
        "address unique",
        "host key ssh-ed25519 unique",
        "host key ecdsa-sha2-nistp256 unique",
    }
    assert "DHCPACK on 192.168.2.30 to e4:5f:01:f5:f1:ae" in (tmp_path / "logs" / "dhcpd.log").read_text()
    assert not (dest / "lab").exists()
    assert processes_of(dest) == []


def facts(node: LabNode) -> Mapping[str, str]:
    """Return what a node runs from and who it is."""
    asked = {
        "root": "findmnt -no SOURCE /",
        "generation": "cat /etc/pibuild-generation 2>/dev/null || echo first",
        "boot": "cat /proc/sys/kernel/random/boot_id",
        "identity": f"({IDENTITY}) | sha256sum",
    }
    command = "; ".join(f'echo "{name}=$({how})"' for name, how in asked.items())
    answer = node.ssh(command, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return dict(line.split("=", 1) for line in answer.stdout.splitlines())


def test_a_node_is_upgraded_while_it_runs_and_goes_back(netlab: NetLab, second: Path) -> None:
    (node,) = netlab.up("yellow3")
    first = facts(node)
    assert first["generation"] == "first"

    word = secrets.token_hex(8)
    writer = f"while sleep 0.2; do echo {word} >>/var/tmp/running || exit; sync -d /var/tmp/running; done"
    node.ssh(f"({writer}) >/dev/null 2>&1 &")
    (row,) = explode(netlab.dest, second, "--node", "yellow3", "--method", "copy", "--cluster", netlab.cluster)
    assert first["root"].endswith(str(row["before"]))
    assert row["after"] != row["before"]
    assert facts(node) == first
    written = int(node.ssh("wc -l </var/tmp/running").stdout)
    time.sleep(3)
    assert int(node.ssh("wc -l </var/tmp/running; rm /var/tmp/running").stdout) > written
    assert node.ssh("sudo ls -R /etc /home /usr/local >/dev/null").returncode == 0
    assert node.ssh("sudo dmesg | grep -iE 'stale (nfs )?file|nfs: server'").stdout == ""
    assert node.ssh("cat /etc/pibuild-generation").returncode == 1

    node.reboot(PATIENCE)
    upgraded = facts(node)
    assert upgraded["generation"] == "second"
    assert upgraded["root"].endswith(str(row["after"]))

    pibuild("rollback", "yellow3", "--dest", netlab.dest, "--cluster", netlab.cluster)
    assert facts(node) == upgraded
    node.reboot(PATIENCE)
    back = facts(node)
    assert {**back, "boot": ""} == {**first, "boot": ""}
    assert {first["identity"], upgraded["identity"], back["identity"]} == {first["identity"]}
    assert node.starts == 3
    assert netlab.lab.given("yellow3") == [node.address] * 6  # the initramfs and the system ask, at each start


def test_a_node_waits_for_its_cable(netlab: NetLab) -> None:
    (node,) = netlab.up("yellow3")
    boot = node.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    netlab.lab.cut("yellow3")
    try:
        assert node.ssh("true", timeout=15).returncode == 255
    finally:
        netlab.lab.restore("yellow3")
    assert node.ssh("cat /proc/sys/kernel/random/boot_id", timeout=120).stdout == boot


# ------------------------------------------------------------------------------------------------- nothing is left


@pytest.fixture(scope="module")
def light(golden_image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory with two nodes of a shared root, and an inventory whose servers are dnsmasq."""
    tmp_path = tmp_path_factory.mktemp("light")
    cluster, dest = (
        variant(tmp_path, dhcp="dnsmasq", tftp="dnsmasq", shared=["yellow5", "yellow6"]),
        tmp_path / "netboot",
    )
    explode(dest, golden_image, "--node", "yellow5", "--node", "yellow6", "--cluster", cluster)
    return dest, cluster


def wait_for(path: Path, text: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not path.exists() or text not in path.read_text(errors="replace"):
        assert time.monotonic() < until, f"{text!r} is not in {path}"
        time.sleep(0.5)


def test_a_killed_netboot_test_leaves_nothing(light: tuple[Path, Path], tmp_path: Path) -> None:
    """Killed when the node, with dnsmasq as its DHCP and TFTP server, has its root and runs systemd from there."""
    dest, cluster = light
    before = machine.traces()
    at = ("--dest", dest, "--cluster", cluster, "--logs", tmp_path / "logs")
    argv: list[str | Path] = [sys.executable, "-m", "builder", "boot", "--node", "yellow5", "--netboot", *at]
    env = {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    with spawn(argv, cwd=PROJECT, env=env) as process:
        wait_for(tmp_path / "logs/yellow5.1.log", "Welcome to", 300)
        assert "DHCPACK(eth0) 192.168.2.32" in (tmp_path / "logs/dnsmasq.log").read_text()
        namespace = str(Path(f"/proc/{qemu_of(dest)}/ns/net").readlink()).strip("net:[]")
        assert namespace in run(["lsns", "-n", "-t", "net", "-o", "NS"]).stdout.split()
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until_none(dest)
    assert not machine.wait_until_gone(before, seconds=5)
    assert namespace not in run(["lsns", "-n", "-t", "net", "-o", "NS"]).stdout.split()


def qemu_of(dest: Path) -> int:
    (found,) = [line.split()[0] for line in processes_of(dest) if "qemu-system" in line.split()[1]]
    return int(found)


def wait_until_none(dest: Path) -> None:
    """Wait until no process has to do with a directory; a killed namespace takes a moment."""
    until = time.monotonic() + 5
    while processes_of(dest) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(dest) == []


def test_a_lab_in_the_background_is_one_and_ends_whole(light: tuple[Path, Path]) -> None:
    dest, cluster = light
    at = ("--dest", dest, "--cluster", cluster)
    said = pibuild("lab", "up", "yellow5", *at).stdout
    assert "pibuild lab ssh yellow5" in said
    try:
        busy = pibuild("boot", "--node", "yellow5", "--netboot", *at, check=False)
        assert (busy.returncode, "pibuild lab down" in busy.stderr) == (3, True)
        report = json.loads(pibuild("lab", "status", *at, "--json").stdout)
        assert report["nodes"]["yellow5"]["state"] in {"loading", "running"}
        wait_for(Path(report["nodes"]["yellow5"]["console"]), "Linux version", 120)
        os.kill(qemu_of(dest), signal.SIGKILL)
        until = time.monotonic() + 10
        while json.loads(pibuild("lab", "status", *at, "--json").stdout)["nodes"]["yellow5"]["state"] != "lost":
            assert time.monotonic() < until
        _add_a_node_and_lose_a_server(at)
    finally:
        pibuild("lab", "down", *at)
    assert processes_of(dest) == []
    assert not (dest / "lab").exists()
    assert "no lab runs" in pibuild("lab", "down", *at).stdout


def _add_a_node_and_lose_a_server(at: tuple[str | Path, ...]) -> None:
    """A lab that runs gets a node more, and one that was lost is switched on again; a dead server is said."""
    unknown = pibuild("lab", "up", "yellow7", *at, check=False)
    assert (unknown.returncode, "boots nothing from" in unknown.stderr) == (2, True)
    report = json.loads(pibuild("lab", "up", "yellow5", "yellow6", *at, "--json").stdout)
    assert {name: node["starts"] for name, node in report["nodes"].items()} == {"yellow5": 1, "yellow6": 1}
    assert {node["state"] for node in report["nodes"].values()} <= {"loading", "running"}
    assert {server["state"] for server in report["servers"].values()} == {"running"}
    _let_a_server_hang(at)
    os.kill(report["servers"]["ganesha"]["process"], signal.SIGKILL)
    until = time.monotonic() + 10
    while "ended: ganesha" not in pibuild("lab", "status", *at).stderr:
        assert time.monotonic() < until


def _let_a_server_hang(at: tuple[str | Path, ...]) -> None:
    """A server that runs and answers nothing is said to be broken, with what was seen, and no other one is."""
    servers = json.loads(pibuild("lab", "status", *at, "--json").stdout)["servers"]
    assert {one["state"] for one in servers.values()} == {"running"}, servers
    (name,) = (name for name in servers if "have a config.txt" in servers[name]["seen"])
    os.kill(servers[name]["process"], signal.SIGSTOP)
    try:
        done = pibuild("lab", "status", *at, "--json")
        hanging = json.loads(done.stdout)["servers"]
    finally:
        os.kill(servers[name]["process"], signal.SIGCONT)
    assert {one: hanging[one]["state"] for one in hanging if hanging[one]["state"] != "running"} == {name: "broken"}
    assert hanging[name]["seen"]


def test_a_lab_whose_process_is_killed_is_gone(light: tuple[Path, Path]) -> None:
    dest, cluster = light
    at = ("--dest", dest, "--cluster", cluster)
    pibuild("lab", "up", "yellow5", *at)
    os.kill(json.loads(pibuild("lab", "status", *at, "--json").stdout)["process"], signal.SIGKILL)
    wait_until_none(dest)
    assert "no lab runs" in pibuild("lab", "down", *at).stdout
    assert not (dest / "lab").exists()


def test_what_a_board_would_stop_at_is_said(light: tuple[Path, Path]) -> None:
    dest, cluster = light
    at = ("--netboot", "--dest", dest, "--cluster", cluster)
    shown = pibuild("boot", "--node", "yellow5", *at, "--explain").stdout
    assert "ac1e75dd/vmlinuz" in shown
    boot = (dest / "tftp/ac1e75dd").resolve()
    (boot / "bcm2711-rpi-4-b.dtb").rename(boot / "gone")
    done = pibuild("boot", "--node", "yellow5", *at, check=False)
    (boot / "gone").rename(boot / "bcm2711-rpi-4-b.dtb")
    assert done.returncode == 6
    assert "No device tree: ac1e75dd/bcm2711-rpi-4-b.dtb is not on the server" in done.stderr
    never = pibuild("boot", "--node", "yellow7", *at, check=False)
    assert (never.returncode, "pibuild explode --node yellow7" in never.stderr) == (2, True)

"""`pibuild services check` against the real servers: all of them running, and each of them stopped."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import pytest

from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.run import run, spawn
from builder.services.apply import apply
from builder.services.dhcp.isc_dhcp import DHCPD
from builder.services.nat import NAT
from builder.services.nfs.ganesha import GANESHA
from builder.services.record import note_role
from builder.services.render import render
from tests.clusters import variant
from tests.system.test_services import Network, network, tftp_command, write

pytestmark = [pytest.mark.root, pytest.mark.waits]

PROJECT = Path(__file__).parents[2]
SSH = """  # a machine whose sshd says what the second word is, and closes
import socket, sys
with socket.create_server((sys.argv[1], 22)) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(sys.argv[2].encode())
        connection.close()
"""


@dataclass(slots=True)
class Login:
    """A login node: its servers run in a namespace, its files lie below a directory."""

    inventory: Inventory
    network: Network
    directory: Path
    files: Mapping[PurePosixPath, Path]
    log: IO[bytes]
    running: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def tftp(self) -> Path:
        return self.directory / "netboot/tftp"

    def start(self, name: str) -> None:
        stack = self.running[name] = contextlib.ExitStack()
        stack.enter_context(spawn(self.command(name), stdout=self.log, cwd=PROJECT))

    def command(self, name: str) -> list[str | Path]:
        inside: list[str | Path] = ["ip", "netns", "exec", self.network.server]
        outside: list[str | Path] = ["ip", "netns", "exec", self.network.client]
        if name == "dhcp":
            (self.directory / "leases").touch()
            lease: list[str | Path] = ["-lf", self.directory / "leases", "-pf", self.directory / "dhcpd.pid"]
            return [*inside, "dhcpd", "-4", "-f", "-cf", self.files[DHCPD], *lease, "eth0"]
        if name == "tftp":
            return [*inside, *tftp_command("tftpd-hpa", self.files, self.tftp, self.directory)]
        if name == "stranger":
            words = ["--port=0", "--interface=eth0", "--dhcp-range=192.168.2.150,192.168.2.160", "--bind-dynamic"]
            return [*outside, "dnsmasq", "-k", "--conf-file=/dev/null", *words, "--dhcp-leasefile=/dev/null"]
        if name in ("ssh", "read-only ssh"):
            return [*outside, sys.executable, "-c", SSH, "192.168.2.3", "SSH-2.0-x\r\n" if name == "ssh" else ""]
        # both talk over /run/rpcbind.sock
        run_directory = self.directory / "run"
        run_directory.mkdir(exist_ok=True)
        private: list[str | Path] = ["unshare", "-m", "sh", "-ec", 'mount --bind "$0" /run; exec "$@"', run_directory]
        if name == "portmapper":
            return [*inside, *private, "rpcbind", "-f", "-w"]
        log: list[str | Path] = ["-L", self.directory / "ganesha.log", "-p", "/run/ganesha.pid"]
        return [*inside, *private, "ganesha.nfsd", "-F", "-f", self.files[GANESHA], *log]

    def stop(self, name: str) -> None:
        self.running.pop(name).close()

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)

    def check(self, *words: str | Path, within: Sequence[str] = ()) -> tuple[int, dict[str, tuple[str, str]]]:
        """Return the exit code, and of every check that is not ok what was found and what to type."""
        argv = [
            "ip",
            "netns",
            "exec",
            self.network.server,
            *within,
            sys.executable,
            "-m",
            "builder",
            "services",
            "check",
        ]
        place: list[str | Path] = ["--cluster", self.inventory.path, "--root", self.root, "--json"]
        ended = run([*argv, *place, *words], cwd=PROJECT, check=False, timeout=60)
        found = json.loads(ended.stdout)
        bad = {one["check"]: (one["seen"], one["hint"]) for one in found if one["result"] not in ("ok", "warning")}
        self.closed = [one["seen"] for one in found if "cannot be read by the TFTP server" in one["seen"]]
        self.warned = [one["seen"] for one in found if one["result"] == "warning"]
        failed = json.loads(ended.stderr.splitlines()[-1])["error"]["hint"] if bad else ""
        said = failed.replace(f" --cluster {self.inventory.path}", "")  # as commands to type have it
        for name, (_, hint) in bad.items():
            assert f"{name}: {hint}" in said
        return ended.returncode, bad

    def wait(self) -> None:
        """Wait until everything answers; ganesha takes seconds."""
        until = time.monotonic() + 60
        while (said := self.check())[1]:
            assert time.monotonic() < until, said
            time.sleep(0.5)


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    (tmp_path / "root").mkdir()
    path = variant(tmp_path, nfs="ganesha")
    path.write_text(path.read_text().replace("netboot: /srv/netboot", f"netboot: {tmp_path}/netboot"))
    inventory = load_inventory(path)
    files = write(inventory, "login", tmp_path / "rendered")
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)  # the TFTP server is not root when it reads
    _boots(tmp_path / "netboot", inventory)
    _root(tmp_path / "root", inventory)
    with network("192.168.2.1") as made, (tmp_path / "log").open("wb") as log, contextlib.ExitStack() as stack:
        for address in ("192.168.2.77/24", "192.168.2.3/24"):  # a stranger's and the backup node's
            run(["ip", "-n", made.client, "address", "add", address, "dev", "eth0"])
        run(["ip", "-n", made.server, "link", "add", "wlan0", "type", "veth", "peer", "wlan0", "netns", made.client])
        run(["ip", "-n", made.client, "link", "set", "wlan0", "up"])
        run(["ip", "-n", made.server, "address", "add", "10.0.0.16/24", "dev", "wlan0"])
        run(["ip", "-n", made.server, "link", "set", "wlan0", "up"])
        run(["ip", "-n", made.server, "route", "add", "default", "via", "10.0.0.1"])
        inside = ["ip", "netns", "exec", made.server]
        run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        run([*inside, "nft", "-f", files[NAT]])
        one = Login(inventory, made, tmp_path, files, log)
        stack.callback(one.stop_all)
        for name in ("portmapper", "nfs", "dhcp", "tftp", "ssh"):
            one.start(name)
            time.sleep(0.5)
        one.wait()
        yield one


def _boots(dest: Path, inventory: Inventory) -> None:
    """Make of a netboot directory what the checks look at."""
    for node in inventory.nodes:
        if node.boot == "network":
            (dest / "roots" / node.name / "a/usr").mkdir(parents=True)
            boot = dest / "tftp/boot" / node.name / "a"
            boot.mkdir(parents=True)
            (boot / "config.txt").write_text("arm_64bit=1\n")
            (boot / "vmlinuz").write_text("kernel")
            (dest / "tftp" / node.serial).symlink_to(f"boot/{node.name}/a")
    key = dest / "state/.cluster/id_ed25519"
    key.parent.mkdir(parents=True)
    key.write_text("key")


def _root(root: Path, inventory: Inventory) -> None:
    apply(render(inventory, "login"), root)
    note_role(root, "login")
    (root / "var/tmp").mkdir(parents=True)
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Athens")


def test_each_stopped_server_is_named_with_what_to_type(login: Login) -> None:
    assert login.check()[0] == 0
    assert [told.split("netboot", 1)[1].split(":")[0] for told in login.warned] == [
        " shares a file system with /",
        "/roots is mounted without nosuid and nodev",
    ]
    for name, check, told, hint in (
        ("dhcp", "dhcp", "192.168.2.1 offers mlops-master", "sudo systemctl restart isc-dhcp-server.service"),
        ("tftp", "tftp", "192.168.2.1 port 69", "sudo systemctl restart tftpd-hpa.service"),
        ("nfs", "nfs", "version 3 does not answer", "sudo systemctl restart nfs-ganesha.service"),
    ):
        login.stop(name)
        code, bad = login.check()
        assert (code, list(bad)) == (6, [check])
        assert told in bad[check][0]
        assert bad[check][1].startswith(hint)
        login.start(name)
    login.stop("portmapper")
    login.stop("ssh")
    login.start("stranger")
    login.start("read-only ssh")
    time.sleep(1)
    code, bad = login.check()
    assert (code, sorted(bad)) == (6, ["dhcp", "nfs", "ssh"])
    assert "portmapper" in bad["nfs"][0]
    assert "restart rpcbind.service" in bad["nfs"][1]
    assert "not ours answers: 192.168.2.77 offers 192.168.2.1" in bad["dhcp"][0]
    assert "ssh closes the connection" in bad["ssh"][0]
    assert "read-only" in bad["ssh"][1]


def test_servers_are_asked_from_afar_and_their_files_disks_and_rules_on_the_spot(login: Login) -> None:
    argv = ["ip", "netns", "exec", login.network.client, sys.executable, "-m", "builder", "services", "check"]
    words: list[str | Path] = ["--role", "login", "--nodes", "--cluster", login.inventory.path, "--root", login.root]
    ended = run([*argv, *words], cwd=PROJECT, check=False, timeout=60)
    assert ended.returncode == 6
    rows = {line.split()[0]: line.split()[1] for line in ended.stdout.splitlines()[1:]}
    assert rows == {
        "address": "unknown",
        "dhcp": "ok",
        "tftp": "ok",
        "nfs": "unknown",  # nothing can be mounted from here: not ok
        "ssh": "broken",
        "nodes": "broken",
    }
    assert "17 of 17 do not answer ssh: mlops-master, green1, green2, green3, green4 and 12 more" in ended.stdout
    assert "broken: ssh, nodes" in ended.stderr
    (login.root / "etc/default/tftpd-hpa").write_text("# by hand\n")
    (login.tftp / "85b6d0ea/vmlinuz").chmod(0o600)  # as an upgrade leaves it
    (login.tftp / "0783b082/config.txt").unlink()
    (login.directory / "netboot/roots/green4/a/usr").rmdir()
    (login.directory / "netboot/roots/green4/a").rmdir()
    (login.directory / "netboot/roots/green1/a/usr").rmdir()  # exported, and empty
    overlays = login.directory / "netboot/tftp/boot/green5/a/overlays"
    overlays.mkdir()
    (overlays / "disable-wifi.dtbo").touch(mode=0o600)
    (login.directory / "netboot/state/.cluster/id_ed25519").unlink()
    run(["ip", "netns", "exec", login.network.server, "nft", "delete", "table", "inet", "pibuild"])
    os.utime(login.inventory.path, (time.time() + 86400, time.time() + 86400))
    read_only = 'mount -t tmpfs -o ro none "$0"; exec "$@"'
    login.stop("nfs")  # it remembers what it looked up, which the kernel's does not
    login.start("nfs")
    until = time.monotonic() + 60
    while "cannot mount" not in login.check()[1].get("nfs", ("", ""))[0]:
        assert time.monotonic() < until
    code, bad = login.check(within=["unshare", "-m", "sh", "-ec", read_only, str(login.root / "var/tmp")])
    assert code == 6
    assert sorted(bad) == ["boot files", "clock", "configuration", "disk", "nat", "nfs", "ssh key", "tftp"]
    assert bad["nfs"][0].startswith("green1 cannot mount its root: ")
    assert bad["nfs"][0].endswith("usr: no such directory, and 1 more")
    assert login.closed[0].startswith(f"{login.directory}/netboot/tftp/boot/green1/a/vmlinuz cannot be read")
    assert ", nor 1 more" in login.closed[0]
    assert bad["configuration"] == (
        "not what the inventory says: /etc/default/tftpd-hpa",
        "pibuild services diff --for login; sudo pibuild services apply --for login",
    )
    assert bad["clock"][1].startswith("sudo timedatectl set-ntp true")
    assert "mounted read-only" in bad["disk"][0]
    assert bad["tftp"] == ("no config.txt for green2: they boot nothing", "sudo pibuild explode --node green2")
    assert bad["boot files"][1] == "sudo pibuild explode --node green4"
    assert "no rules" in bad["nat"][0]
    assert bad["ssh key"][1] == "sudo pibuild explode --all"

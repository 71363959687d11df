"""A login node as it is in the lab: a machine of its own, with systemd, udev, the kernel's NFS server and kpartx.

Under QEMU, on a disk written from an image of the parts `access` and `login`, in a network namespace whose bridge is
the lab's switch. A node's machine, connected there, boots from it as from a real one. pibuild is this checkout, brought
on a second disk together with the images to explode.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from builder.console import note
from builder.host.ssh import Shell
from builder.image.open import open_image
from builder.inventory.load import load_inventory
from builder.lab.lab import Lab, LabNode, LabOptions
from builder.lab.namespace import Process, namespace
from builder.netboot.layout import Netboot
from builder.run import Completed, run
from builder.verify.qemu import PATIENCE, BootFiles, authorize, generic_machine, kernel_cmdline, take_boot_files
from tests import machine
from tests.system.lab import PROJECT, pibuild

HERE = Path(__file__).parent

CPUS, MEMORY = 2, 2560
MAC = "e4:5f:01:f6:07:b2"  # pi_login's in cluster.yaml
_SPACE = "3G"  # for what is exploded
_OBSERVER = IPv4Interface("192.168.2.250/24")  # this side of the switch
SERVED = "/srv/netboot"
KEPT = "/var/lib/kept"
OUTSIDE = "/srv/outside"
_CLUSTER = f"""\
cluster:
  name: guest
  subnet: 192.168.2.0/24
  timezone: Europe/Athens
  gateway: 192.168.2.1
  servers:
    login: {{node: pi_login, interface: eth0, uplink: eth1}}
  netboot: {SERVED}
  dhcp: {{server: isc-dhcp, lease: infinite}}
  tftp: {{server: tftpd-hpa}}
  nfs: {{server: kernel}}
defaults: {{board: pi4, image: worker, user: ubuntu}}
roles:
  login: {{boot: local}}
  worker: {{root: shared, persist: [{KEPT}]}}    # what a copy takes here is a minute
nodes:
  - {{name: pi_login, serial: "f154e171", mac: "{MAC}", address: 192.168.2.1, role: login}}
  - {{name: yellow3, serial: "c0a3cab4", mac: "e4:5f:01:f5:f1:ae", address: 192.168.2.30, role: worker}}
  - {{name: green1, serial: "85b6d0ea", mac: "e4:5f:01:f5:cf:83", address: 192.168.2.31,
     role: worker, image: small, root: copy}}
  - {{name: green2, serial: "85b6d0eb", mac: "e4:5f:01:f5:cf:84", address: 192.168.2.32,
     role: worker, image: small, root: copy}}
  - {{name: green3, serial: "85b6d0ec", mac: "e4:5f:01:f5:cf:85", address: 192.168.2.33,
     role: worker, image: small, root: copy}}
"""
_RECIPES = PROJECT / "recipes"
# Debian's three host keys take half a minute where the processor is emulated: one of the quick kind is enough.
_LOGIN = f"""\
name: login-guest
extends: [{_RECIPES}/debian.yaml, {_RECIPES}/parts/access.yaml, {_RECIPES}/parts/login.yaml]
variables:
  hostname: {{type: string, default: golden, description: as golden has it}}
disk:
  root: {{slack: 512M, grow: false}}
  compress: []
layers:
  - name: guest
    steps:
      - files:
          - path: /etc/systemd/network/10-lab.network
            content: |
              [Match]
              MACAddress={MAC}
              [Network]
              Address=192.168.2.1/24
          - path: /etc/systemd/system/sshd-keygen.service.d/zz-one-key.conf
            content: |
              [Unit]
              ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
              [Service]
              ExecStart=
              ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
          - path: /usr/local/sbin/pibuild
            mode: '0755'
            content: |
              #!/bin/sh
              PYTHONPATH=/opt/pibuild exec python3 -m builder "$@"
      - systemd: {{disable: [grow-root.service]}}
"""
_WORKER = f"""\
name: worker
extends: [{_RECIPES}/debian.yaml, {_RECIPES}/parts/access.yaml]
variables:
  hostname: {{type: string, default: golden, description: as golden has it}}
disk:
  compress: []
layers:
  - name: lean    # what no worker here needs is not read, checked and copied by an emulated processor
    steps:
      - run:
          script: |
            cd /usr/share && rm -rf doc locale man i18n bash-completion
            cd /usr/lib/modules/*/kernel && rm -rf sound
            cd drivers && find . -mindepth 1 -maxdepth 1 ! -name net ! -name block ! -name virtio -exec rm -rf {{}} +
            rm -rf net/wireless net/ethernet
"""


def build_images(at: Path) -> tuple[Path, Path]:
    """Build the login node's and the worker's image; return the files. What they share with golden is cached."""
    for name, text in (("login-guest", _LOGIN), ("worker", _WORKER)):
        (at / f"{name}.yaml").write_text(text)
        pibuild("build", at / f"{name}.yaml", "--output", at / "output")
    login, worker = ((at / "output" / name / "latest" / f"{name}.img").resolve() for name in ("login-guest", "worker"))
    return login, worker


def make_tools_disk(at: Path, images: dict[str, Path]) -> Path:
    """Write an ext4 disk with this checkout, an inventory and images to explode, each under its name."""
    content = at / "content"
    for name in ("builder", "overlays"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, content / "pibuild" / name, symlinks=True, ignore=ignore)
    (content / "pibuild/cluster.yaml").write_text(_CLUSTER)
    for name, image in images.items():
        run(["cp", "--recursive", "--sparse=always", image, content / name])
    size = sum(path.lstat().st_blocks * 512 for path in content.rglob("*")) * 5 // 4 + (64 << 20)
    disk = at / "tools.img"
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "tools", "-d", content, disk, str(size >> 10)])
    shutil.rmtree(content)
    return disk


def make_netboot_disk(at: Path) -> Path:
    """Write the file system of its own that docs/security.md asks for."""
    disk = at / "netboot.img"
    run(["mke2fs", "-q", "-t", "ext4", "-L", "netboot", disk, _SPACE])
    return disk


@dataclass(slots=True, kw_only=True)
class LoginGuest:
    """The login node's machine, and the switch it is connected to. `seconds` is what its steps took."""

    lab: Lab
    files: BootFiles
    key: Path
    disks: tuple[Path, ...]
    boots: int = 0
    process: Process | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def console(self) -> Path:
        """Return where the console of its last start is."""
        return self.lab.logs / f"login.{self.boots}.log"

    @property
    def shell(self) -> Shell:
        """A way in over the switch."""
        return Shell(
            host="192.168.2.1",
            port=22,
            key=self.key,
            user="ubuntu",
            entered=self.lab.namespace.entered,
            sockets=self.lab.directory,
        )

    def power_on(self, timeout: float = 300) -> None:
        """Switch it on and wait until a command runs by ssh."""
        self.boots += 1
        drives = [
            word
            for number, disk in enumerate(self.disks)
            for word in (
                "-drive",
                f"if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap,file={disk}",
                "-device",
                f"virtio-blk-pci,drive=disk{number}",
            )
        ]
        initrd = ("-initrd", str(self.files.initrd)) if self.files.initrd else ()
        argv = (
            *generic_machine(cpus=CPUS, memory=MEMORY),
            *("-kernel", str(self.files.kernel), *initrd, "-append", self.files.cmdline, *drives),
            *("-netdev", "tap,id=lab,ifname=login,script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=lab,mac={MAC},romfile="),
            *("-netdev", "user,id=world", "-device", "virtio-net-pci,netdev=world,romfile="),
            *("-serial", f"file:{self.console}"),
        )
        begun = time.monotonic()
        self.process = self.lab.spawn(argv, name="login.qemu")
        while self.run("true", check=False, timeout=30).returncode != 0:
            took = time.monotonic() - begun
            assert self.process.poll() is None, (self.lab.logs / "login.qemu.log").read_text()
            assert took < timeout, f"no ssh after {took:.0f} s: {self.console.read_text()[-2000:]}"
            time.sleep(0.5)
        self.took(f"boot {self.boots}", time.monotonic() - begun)

    def set_up(self) -> None:
        """Do on a new login node what is done by hand: where nodes boot from is made as docs/security.md has it."""
        script = f"""
            mkdir -p {SERVED} /var/lib/pibuild/netboot-state /opt/pibuild/output
            echo 'LABEL=tools /mnt ext4 ro 0 0' >>/etc/fstab
            echo 'LABEL=netboot {SERVED} ext4 nosuid,nodev 0 2' >>/etc/fstab
            echo '/var/lib/pibuild/netboot-state {SERVED}/state none bind,x-mount.mkdir 0 0' >>/etc/fstab
            systemctl daemon-reload
            mount -a
            cp -r /mnt/pibuild /opt/
        """
        self.run(f"sudo sh -euc {shlex.quote(script)}")

    def publish(self, image: str, name: str) -> None:
        """Let an image of the tools disk be the latest of a name."""
        self.run(
            f"sudo mkdir -p /opt/pibuild/output/{name} && sudo ln -sfn /mnt/{image} /opt/pibuild/output/{name}/latest"
        )

    def pibuild(self, *words: str, check: bool = True, timeout: float = 400) -> Completed:
        """Run the command on it, as root and where its inventory is."""
        command = f"cd /opt/pibuild && sudo timeout {timeout:.0f} pibuild {shlex.join(words)}"
        done = self.run(command, check=check, timeout=timeout + 20)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def as_node(self, name: str, *attacks: str) -> Completed:
        """Do on a node what its root user may do (hostile_node.py): by NFS, from a network with its address.

        What it prints are the directories that it could mount besides its own.
        """
        node = self.lab.inventory.node(name)
        return self.run(f"sudo sh -eu /mnt/as_node.sh {name} {node.address} {OUTSIDE} {' '.join(attacks)}", timeout=200)

    def cut_power(self) -> None:
        """Take its power away at this instant."""
        assert self.process is not None
        self.process.send_signal(9)
        self.lab.end(self.process)
        self.process = None
        self.shell.forget()
        self.lab.wait_for_tap("login")

    def run(self, command: str, *, check: bool = True, timeout: float = 120) -> Completed:
        """Run a command on it."""
        done = self.shell.run(command, timeout=timeout)
        if check:
            done.raise_for_status()
        return done

    def timed(self, step: str, command: str, *, timeout: float) -> Completed:
        """Run a command that is to end in time; note what it took."""
        done = self.run(command, timeout=timeout)
        self.took(step, done.seconds)
        return done

    def took(self, step: str, seconds: float) -> None:
        """Note what a step took."""
        self.seconds[step] = seconds
        note(f"login node: {step}: {seconds:.0f} s")

    def connect(self, name: str) -> LabNode:
        """Connect a node's machine, which is off; its keys and the way in are what the login node's states say."""
        node = self.lab.inventory.node(name)
        self.lab.key.parent.mkdir(parents=True)
        self.lab.key.write_text(self.run(f"sudo cat {SERVED}/state/.cluster/id_ed25519").stdout)
        self.lab.key.chmod(0o600)
        keys = self.run(f"sudo sh -c 'cat {SERVED}/state/{name}/ssh_host_*_key.pub'").stdout.splitlines()
        lines = [f"{node.address},{name} {' '.join(key.split()[:2])}\n" for key in keys]
        self.lab.known_hosts.write_text("".join(lines))
        return self.lab._connect(node, 1)


@contextlib.contextmanager
def login_guest(at: Path, images: dict[str, Path], disk: Path) -> Iterator[LoginGuest]:
    """Give a login node that is switched off; it and everything connected to it end with the block."""
    before = machine.traces()
    own = at / "login.img"
    run(["cp", "--sparse=always", disk, own])
    key = at / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", key])
    disks = (own, make_tools_disk(at, images), make_netboot_disk(at))
    with open_image(own) as opened:
        assert opened.boot is not None
        (at / "boot").mkdir()
        files = take_boot_files(opened.boot, at / "boot")
    extra = [*PATIENCE, authorize("ubuntu", key.with_suffix(".pub").read_text())]
    cmdline = kernel_cmdline(files.cmdline, console="ttyAMA0", extra=extra)
    files = BootFiles(kernel=files.kernel, initrd=files.initrd, dtb=None, cmdline=cmdline)
    for name in ("etc", "logs", "netboot", "lab"):
        (at / name).mkdir()
    (at / "cluster.yaml").write_text(_CLUSTER)
    inventory = load_inventory(at / "cluster.yaml")
    with ExitStack() as stack:
        made = stack.enter_context(namespace(etc=at / "etc", bridge="switch", address=_OBSERVER))
        processes = ExitStack()
        lab = Lab(
            inventory=inventory,
            netboot=Netboot(at / "netboot"),
            options=LabOptions(),
            namespace=made,
            directory=at / "lab",
            logs=at / "logs",
            _stack=processes,
        )
        try:
            with machine.known(made.holder):
                lab.run(["ip", "tuntap", "add", "login", "mode", "tap"])
                lab.run(["ip", "link", "set", "login", "master", made.bridge, "up"])
                yield LoginGuest(lab=lab, files=files, key=key, disks=disks)
        finally:
            made.end()
            processes.close()
    left = machine.wait_until_gone(before, seconds=5)
    assert not left, f"the login guest left behind: {'; '.join(sorted(left))}"

"""The lab: the login node's network in a namespace, with its servers, and nodes' machines that boot from it.

    with lab(inventory, dest) as here:
        node = here.boot("yellow3")
        node.wait_until_up(600)
        print(node.ssh("hostname").stdout)
        with here.entered():
            requests.get(f"http://{node.address}:9100/metrics")

The servers are the real ones with what `pibuild services render` gives (lab_servers.py); a machine is QEMU with what a
simulated bootloader got from the TFTP server (machine.py). All of it ends with the block, and with this process
however that ends. DEST/.lab is locked meanwhile: two labs must not run nodes from one directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from builder.errors import HostError, InputError, Problem, VerdictError
from builder.firmware.simulate import BootReport
from builder.host.data import PROJECT
from builder.host.files import write
from builder.host.locks import holders
from builder.host.ssh import Shell, known_host, require_ssh
from builder.inventory.nodes import Inventory, Node
from builder.lab import servers as lab_servers
from builder.lab.machine import Machine, read_chain
from builder.lab.namespace import Namespace, Process, namespace
from builder.netboot.layout import Netboot
from builder.netboot.state import host_keys, login_key_file
from builder.run import Argv, Completed, find_tool, require_root
from builder.services.apply import apply
from builder.services.exports import exports
from builder.services.files import serving
from builder.services.render import render
from builder.services.server import Foreground
from builder.services.servers import of_kind
from builder.verify.qemu import QEMU, processors
from builder.verify.verdict import SerialConsole

_EVERY = 0.5  # seconds between two looks
_PROJECT = PROJECT
_LOCK = ".lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """How the lab is. `logs` is where consoles' and servers' logs stay; None = they go with the lab.

    `dhcp` and `tftp` put another server in the place of the inventory's. `memory` (MiB) is a machine's.
    """

    logs: Path | None = None
    dhcp: str | None = None
    tftp: str | None = None
    memory: int = 1024


@dataclass(slots=True, kw_only=True)
class LabNode:
    """A node's machine in the lab. What it is asked for holds for the time since it was last switched on."""

    lab: Lab
    node: Node
    machine: Machine
    process: Process | None = None

    @property
    def address(self) -> IPv4Address:
        """Its reserved address."""
        return self.node.address

    @property
    def shell(self) -> Shell:
        """A way in as the login node has it: its key, the node's user, the host key of the node's state."""
        return Shell(
            host=str(self.node.address),
            key=self.lab.key,
            user=self.node.user,
            known_hosts=self.lab.known_hosts,
            entered=self.lab.namespace.entered,
            sockets=self.lab.directory,
        )

    def ssh(self, command: str, *, timeout: float = 120) -> Completed:
        """Run a command on the node; `returncode` is 255 when it could not be."""
        return self.shell.run(command, timeout=timeout)

    @property
    def starts(self) -> int:
        """How often its bootloader has run since it was switched on; each reboot counts one more."""
        return int(self._said().get("number", 0))

    @property
    def state(self) -> str:
        """What it does: loading, running, refused, off, lost; see machine.py."""
        return str(self._said().get("state", "off")) if self.process is not None else "off"

    def _said(self) -> Mapping[str, Any]:
        if self.process is not None and self.process.poll() not in (None, 0):
            return {"state": "lost", "detail": "its process was killed"}
        path = self.machine.state
        return dict(json.loads(path.read_text())) if self.process is not None and path.exists() else {}

    @property
    def console(self) -> SerialConsole:
        """The console of its last start."""
        path = self.machine.console(max(1, self.starts))
        return SerialConsole(path=path, process=_Alive(self), log=self.machine.complaints)

    def chain(self, number: int | None = None, *, timeout: float = 120) -> BootReport:
        """Return what its bootloader did at a start, by default the last one; waits for it. Raises VerdictError."""
        until = time.monotonic() + timeout
        while not (path := self.machine.chain(number or max(1, self.starts))).exists():
            if time.monotonic() > until or self.state == "lost":
                raise VerdictError(f"{self.node.name}: its bootloader has not come to an end", hint=str(path))
            time.sleep(_EVERY)
        return read_chain(path)

    def wait_until_up(self, timeout: float = 600, *, start: int = 1) -> float:
        """Wait until a command runs on the node by ssh, in its start number `start` or a later one.

        Returns the seconds that it took. Raises VerdictError when it will not come up, or not in time.
        """
        begun = time.monotonic()
        while True:
            if self.starts >= start and self.ssh("true", timeout=60).returncode == 0:
                return time.monotonic() - begun
            detail = self._said().get("detail", "") or (self.console.fatal() if self.starts >= start else "")
            if detail or time.monotonic() - begun > timeout:
                why = detail or f"not within {timeout:.0f} s"
                raise VerdictError(f"{self.node.name} does not come up: {why}", hint=f"read {self.console.path}")
            time.sleep(_EVERY)

    def reboot(self, timeout: float = 600) -> float:
        """Let the node reboot itself, as `ssh NODE sudo reboot` does; return the seconds until it is up again."""
        number = self.starts
        self.ssh("sudo systemctl reboot", timeout=60)
        self.shell.forget()
        return self.wait_until_up(timeout, start=number + 1)

    def power_off(self) -> None:
        """Take its power away at this instant."""
        if self.process is not None:
            self.lab.end(self.process)
            self.process = None
            self.shell.forget()
            self.lab.wait_for_tap(self.machine.tap)

    def power_on(self) -> None:
        """Switch it on: the bootloader, then what it got."""
        self.power_off()
        shutil.rmtree(self.machine.directory, ignore_errors=True)
        self.machine.directory.mkdir(parents=True)
        for log in self.machine.logs.glob(f"{self.node.name}.*.log"):
            log.unlink()
        spec = self.machine.directory / "spec.json"
        spec.write_text(json.dumps(dataclasses.asdict(self.machine), default=str))
        self.process = self.lab.spawn_machine(self.machine, spec)


@dataclass(frozen=True, slots=True)
class _Alive:
    """The process of a machine, as a console's reader asks for it: a machine that rebooted or is off has ended."""

    node: LabNode

    def poll(self) -> int | None:
        """Return None while the machine runs or loads."""
        return None if self.node.state in {"loading", "running"} else 1


@dataclass(slots=True, kw_only=True)
class Lab:
    """A running lab. `inventory` is as its login node has it; `logs` has NAME.log of every server and console."""

    inventory: Inventory
    netboot: Netboot
    options: LabOptions
    namespace: Namespace
    directory: Path
    logs: Path
    nodes: dict[str, LabNode] = field(default_factory=dict)
    servers: dict[str, Process] = field(default_factory=dict)
    _stack: ExitStack
    _own: dict[int, ExitStack] = field(default_factory=dict)

    @property
    def key(self) -> Path:
        """The login node's private key, which opens every node."""
        return login_key_file(self.netboot)

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys as their states have them."""
        return self.directory / "known_hosts"

    # ---------------------------------------------------------------------------------------------------- login node

    def entered(self) -> AbstractContextManager[None]:
        """Give this thread, and those it starts, the login node's network for a block: sockets, requests, programs."""
        return self.namespace.entered(processes=False)

    def run(self, argv: Argv, **options: Any) -> Completed:
        """Run a command on the login node, with its network and files; options as of `builder.run.run`."""
        return self.namespace.run(argv, **options)

    def spawn(self, argv: Argv, *, name: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a server on the login node; it ends with the lab, or by `end`. What it prints is in logs/NAME.log."""
        own = ExitStack()
        self._stack.push(own)
        log = own.enter_context((self.logs / f"{name}.log").open("ab"))
        process = own.enter_context(self.namespace.spawn(argv, stdout=log, env=env))
        self._own[process.pid] = own
        return process

    def end(self, process: Process) -> None:
        """End a server that `spawn` started (SIGTERM, after 5 s SIGKILL)."""
        self._own.pop(process.pid).close()

    def wait_until_serving(self, *ports: int, timeout: float = 30) -> None:
        """Wait until something listens on TCP ports of the login node. Raises HostError."""
        until = time.monotonic() + timeout
        while missing := {("tcp", port) for port in ports} - self.namespace.listening():
            if time.monotonic() > until:
                raise HostError(f"nothing listens on {sorted(missing)}", hint=f"read the logs in {self.logs}")
            time.sleep(0.1)

    def add_address(self, address: IPv4Address) -> None:
        """Give the login node a further address, for what another node (the master, the backup) would serve."""
        self.run(["ip", "address", "add", f"{address}/{self.inventory.subnet.prefixlen}", "dev", self.namespace.bridge])

    def given(self, node: str) -> list[IPv4Address]:
        """Return the addresses that DHCP gave to a node, in order, as the server's log says."""
        log = "".join((self.logs / f"{name}.log").read_text(errors="replace") for name in self._dhcp_logs())
        return lab_servers.addresses_given(log, self.inventory.node(node).mac)

    def _dhcp_logs(self) -> list[str]:
        names = [row.name for row in of_kind("dhcp").values()]
        return [name for name in names if (self.logs / f"{name}.log").exists()]

    # --------------------------------------------------------------------------------------------------------- nodes

    def boot(self, name: str, *, at_once: int = 1) -> LabNode:
        """Switch a node on, one of `at_once` at the same time. Raises InputError when DEST has nothing for it."""
        node = self.inventory.node(name)
        require_exploded(self.netboot, node)
        if node.name not in self.nodes:
            self.nodes[node.name] = self._connect(node, at_once)
        self._write_known_hosts()
        self.nodes[node.name].power_on()
        return self.nodes[node.name]

    def cut(self, name: str) -> None:
        """Pull a node's cable out."""
        self._link(name, "down")

    def restore(self, name: str) -> None:
        """Put a node's cable back."""
        self._link(name, "up")

    def _link(self, name: str, state: str) -> None:
        node = self.nodes[self.inventory.node(name).name]
        self.run(["ip", "link", "set", node.machine.tap, state])
        node.shell.forget()  # what is on its way when the cable is pulled would be waited for

    def _connect(self, node: Node, at_once: int) -> LabNode:
        tap = f"tap{len(self.nodes)}"  # names of links have 15 characters at most, those of nodes more
        self.run(["ip", "tuntap", "add", tap, "mode", "tap"])
        self.run(["ip", "link", "set", tap, "master", self.namespace.bridge, "up"])
        machine = Machine(
            node=node.name,
            serial=node.serial,
            board=node.board,
            mac=node.mac,
            server=str(self.inventory.login.address),
            tap=tap,
            directory=self.directory / "machines" / node.name,
            logs=self.logs,
            memory=self.options.memory,
            cpus=processors(at_once),
        )
        return LabNode(lab=self, node=node, machine=machine)

    def _write_known_hosts(self) -> None:
        nodes = [(node, key) for node in self.inventory.nodes for key in host_keys(self.netboot, node)]
        lines = [known_host(f"{node.address},{node.name}", key) for node, key in nodes]
        write(self.known_hosts, "".join(lines).encode())

    def spawn_machine(self, machine: Machine, spec: Path) -> Process:
        """Start the program that is a node's machine."""
        env = {"PYTHONPATH": str(_PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        argv: list[str | Path] = [sys.executable, "-m", "builder.lab.machine", spec]
        return self.spawn(argv, name=f"{machine.node}.machine", env=env)

    def wait_for_tap(self, tap: str) -> None:
        """Wait until nobody holds a node's port: QEMU ends a moment after the program that started it."""
        until = time.monotonic() + 10
        while "LOWER_UP" in self.run(["ip", "link", "show", tap]).stdout:
            if time.monotonic() > until:
                raise HostError(f"{tap} is still in use")
            time.sleep(0.05)


@contextlib.contextmanager
def lab(inventory: Inventory, dest: Path, options: LabOptions = LabOptions()) -> Iterator[Lab]:
    """Run a lab of what was exploded into `dest`, for the block. Needs root. Call it in a thread that stays.

    Raises InputError when another lab runs from there, HostError for what this machine lacks.
    """
    require_root("lab")
    check_host()
    netboot = Netboot(dest.absolute())
    inside = lab_servers.for_lab(inventory, netboot.dest, dhcp=options.dhcp, tftp=options.tftp)
    here = serving(inside, "login")
    with ExitStack() as stack:
        stack.enter_context(_alone(netboot.dest))
        directory = netboot.dest / "lab"
        shutil.rmtree(directory, ignore_errors=True)
        root = directory / "root"
        (root / "etc").mkdir(parents=True)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        logs = (options.logs or directory / "logs").absolute()
        logs.mkdir(parents=True, exist_ok=True)
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        apply(render(inside, "login"), root)
        for export in exports(here):
            export.path.mkdir(parents=True, exist_ok=True)
        address = IPv4Interface(f"{inside.login.address}/{inside.subnet.prefixlen}")
        made = stack.enter_context(namespace(etc=root / "etc", bridge=here.entry.interface, address=address))
        processes = ExitStack()
        running = Lab(
            inventory=inside,
            netboot=netboot,
            options=options,
            namespace=made,
            directory=directory,
            logs=logs,
            _stack=processes,
        )
        try:
            _start(running, lab_servers.servers(here))
            yield running
        finally:
            made.end()
            processes.close()


def check_host() -> None:
    """Raise HostError unless this host has what a lab runs on, its servers apart."""
    find_tool(QEMU, package="qemu-system-arm")
    require_ssh()
    if not Path("/dev/net/tun").exists():
        raise HostError("/dev/net/tun is missing: machines cannot be connected", hint="sudo modprobe tun")


def _start(running: Lab, wanted: tuple[Foreground, ...]) -> None:
    """Start servers one after the other: nfs-ganesha ends at once when rpcbind does not answer yet."""
    for server in wanted:
        log = running.logs / f"{server.name}.log"
        log.unlink(missing_ok=True)
        process = running.spawn(server.argv, name=server.name, env=dict(server.env))
        lab_servers.wait_until_serving(running.namespace, server, process, log)
        if server.ports:
            running.servers[server.name] = process


def require_exploded(netboot: Netboot, node: Node) -> None:
    """Raise InputError unless a node boots something over the network."""
    if node.boot != "network":
        hint = "boot: network in cluster.yaml"
        raise InputError(Problem(message=f"{node.name} boots from a disk of its own", mark=node.mark, hint=hint))
    if not netboot.current(node.serial):
        hint = f"sudo pibuild explode --node {node.name} --dest {netboot.dest}"
        raise InputError(Problem(message=f"{node.name} boots nothing from {netboot.dest}", hint=hint))


@contextlib.contextmanager
def _alone(dest: Path) -> Iterator[None]:
    """Hold DEST for one lab."""
    if not dest.is_dir():
        raise InputError(Problem(message=f"{dest} is not there", hint="sudo pibuild explode --node NODE --dest DIR"))
    with (dest / _LOCK).open("a+") as file:
        for patience in (0.1, 0.1, 0.0):  # somebody may just be asking who holds it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not patience:
                    hint = f"sudo pibuild lab down --dest {dest}"
                    message = f"a lab runs from {dest} already: {holders(file.fileno())}"
                    raise HostError(message, hint=hint) from error
                time.sleep(patience)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(dest: Path) -> int:
    """Return the process whose lab runs from DEST, 0 when none does."""
    if not (dest / _LOCK).exists():
        return 0
    with (dest / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return 0

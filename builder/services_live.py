"""What of the servers works, asked as a board would: an address, a file, a mount; and what to type where one does not.

Each check asks the thing itself, not systemd: a unit that is active may not answer, and on the other server there is
no asking systemd at all. From another machine than the server only what goes over the network is asked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.dhcp_discover import TFTP_SERVER, VENDOR, discover
from builder.errors import HostError, PibuildError
from builder.inventory import Node
from builder.run import find_tool, run
from builder.services import render
from builder.services_apply import compare
from builder.services_dhcp import PXE_MENU
from builder.services_files import Serving, netboot
from builder.services_nfs import Export, exports
from builder.services_record import is_interrupted
from builder.services_units import DNSMASQ_UNIT, GANESHA_UNIT, ISC, KEA_UNIT, NFS, TFTPD_UNIT, Unit
from builder.tftp import NOT_FOUND, Server, TftpError, get

Result = Literal["ok", "broken", "unknown"]
_PATIENCE = 3.0  # seconds for an answer
_OFFERS = 5.0  # seconds: a server tries for three whether an address of a pool is free before it offers it
_LEAST_FREE = 256 << 20  # bytes: less does not hold what a server writes in a week
_AT_ONCE = 32
_NAMED = 5  # nodes in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a check found; `hint` is what to type when it is broken."""

    check: str
    result: Result
    told: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom to ask, with the directory that stands for its /. `here`: it is this machine; `nodes`: the nodes too."""

    serving: Serving
    root: Path
    here: bool
    nodes: bool

    @property
    def address(self) -> str:
        """The server's address."""
        return str(self.serving.node.address)

    @property
    def apply(self) -> str:
        """The command that puts the servers' files in order."""
        return f"sudo pibuild services apply --role {self.serving.role}"


def ask(serving: Serving, root: Path, *, nodes: bool) -> tuple[Looked, ...]:
    """Return what every check finds, in the order in which one thing needs another. No check ends the others."""
    here = str(serving.node.address) in run(["ip", "-o", "-4", "address", "show"]).stdout.replace("/", " ").split()
    asked = Asked(serving=serving, root=root, here=here, nodes=nodes)
    local = (_disks, _clock, _name, _configuration, _keys, _nat)
    found: list[Looked] = []
    for check in (_machine, *(local if here else ()), _dhcp, _tftp, _nfs, _other, *((_nodes,) if nodes else ())):
        found += _looked(check, asked)
    return tuple(found)


def _looked(check: Callable[[Asked], Iterator[Looked]], asked: Asked) -> list[Looked]:
    name = check.__name__.strip("_")
    try:
        return list(check(asked))
    except (PibuildError, OSError) as error:
        told, hint = (error.message, error.hint) if isinstance(error, PibuildError) else (str(error), "")
        return [Looked(check=name, result="unknown", told=told, hint=hint)]


# ------------------------------------------------------------------------------------------------ of the machine itself


def _machine(asked: Asked) -> Iterator[Looked]:
    entry, name = asked.serving.entry, asked.serving.node.name
    if asked.here:
        yield Looked(check="address", result="ok", told=f"{asked.address}: this machine is {name}")
    else:
        hint = f"on {name} itself: ip address show {entry.interface}; sudo ip address add "
        hint += f"{asked.address}/{asked.serving.inventory.subnet.prefixlen} dev {entry.interface}"
        told = f"{asked.address} is not this machine's: {name} is asked over the network"
        yield Looked(check="address", result="unknown", told=told, hint=hint)


def _disks(asked: Asked) -> Iterator[Looked]:
    served = netboot(asked.serving.inventory).dest
    for path in (asked.root / "var/tmp", served):
        if not path.is_dir():
            continue
        facts = os.statvfs(path)
        try:
            if not facts.f_flag & os.ST_RDONLY:
                with tempfile.NamedTemporaryFile(dir=path, prefix=".pibuild-check."):
                    pass
        except PermissionError:
            yield Looked(check="disk", result="unknown", told=f"{path}: writing needs root", hint="sudo")
            continue
        except OSError as error:
            told, bad = f"{path} cannot be written: {error.strerror}", True
        else:
            told, bad = f"{path} is mounted read-only", bool(facts.f_flag & os.ST_RDONLY)
        free = facts.f_bavail * facts.f_frsize
        if bad:
            hint = "dmesg | grep -iE 'I/O error|EXT4-fs error|usb'; check the SSD's cable and power, then: sudo reboot"
            yield Looked(check="disk", result="broken", told=told, hint=hint)
        elif free < _LEAST_FREE:
            told = f"{path} is full: {free >> 20} MiB free"
            hint = f"sudo pibuild node gc; sudo apt-get clean; df -h {path}"
            yield Looked(check="disk", result="broken", told=told, hint=hint)
        else:
            yield Looked(check="disk", result="ok", told=f"{path} can be written, {free >> 30} GiB free")


def _clock(asked: Asked) -> Iterator[Looked]:
    inventory = asked.serving.inventory
    written, now = inventory.path.stat().st_mtime, time.time()
    hint = "sudo timedatectl set-ntp true; timedatectl timesync-status"
    if now < written:
        told = f"{time.ctime(now)} is before {inventory.path.name} was written: certificates and k3s refuse such times"
        yield Looked(check="clock", result="broken", told=told, hint=hint)
        return
    zone = str((asked.root / "etc/localtime").readlink()).partition("zoneinfo/")[2]
    if zone != inventory.cluster.timezone:
        told = f"time zone {zone or 'unknown'}, the cluster's is {inventory.cluster.timezone}"
        hint = f"sudo timedatectl set-timezone {inventory.cluster.timezone}"
        yield Looked(check="clock", result="broken", told=told, hint=hint)
        return
    said = run(["timedatectl", "show", "-p", "NTPSynchronized", "--value"], check=False).stdout.strip()
    if said == "no":
        yield Looked(check="clock", result="broken", told="not synchronised with a time server", hint=hint)
    else:
        told = "synchronised" if said == "yes" else "plausible; whether it is synchronised is not known"
        yield Looked(check="clock", result="ok", told=f"{told}, {zone}")


def _name(_asked: Asked) -> Iterator[Looked]:
    """Look for what sudo complains of: `unable to resolve host`."""
    own = socket.gethostname()
    if run(["getent", "hosts", own], check=False, timeout=15).returncode == 0:
        yield Looked(check="name", result="ok", told=f"{own} can be resolved")
    else:
        hint = f"echo '127.0.1.1 {own}' | sudo tee -a /etc/hosts"
        yield Looked(check="name", result="broken", told=f"{own}, its own name, cannot be resolved", hint=hint)


def _configuration(asked: Asked) -> Iterator[Looked]:
    if is_interrupted(asked.root):
        told = "an apply was interrupted: files are partly the old ones and partly the new ones"
        yield Looked(check="configuration", result="broken", told=told, hint=asked.apply)
        return
    changes = compare(render(asked.serving.inventory, asked.serving.role), asked.root)
    if changes:
        names = ", ".join(str(change.path) for change in changes[:_NAMED]) + (" …" if len(changes) > _NAMED else "")
        told = f"not what the inventory says: {names}"
        hint = f"pibuild services diff --role {asked.serving.role}; {asked.apply}"
        yield Looked(check="configuration", result="broken", told=told, hint=hint)
    else:
        yield Looked(check="configuration", result="ok", told="as the inventory says")


def _keys(asked: Asked) -> Iterator[Looked]:
    key = netboot(asked.serving.inventory).login_key
    if os.geteuid() != 0:
        yield Looked(check="ssh key", result="unknown", told=f"{key}: reading it needs root", hint="sudo")
    elif key.is_file():
        yield Looked(check="ssh key", result="ok", told=f"{key} opens every exploded node")
    else:
        told = f"{key}, which opens the nodes, is not there"
        yield Looked(check="ssh key", result="broken", told=told, hint="sudo pibuild explode --all")


def _nat(asked: Asked) -> Iterator[Looked]:
    uplink = asked.serving.entry.uplink
    if uplink is None:
        return
    restart = "sudo systemctl restart pibuild-nat.service"
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
        hint = f"sudo sysctl -w net.ipv4.ip_forward=1; {asked.apply}"
        yield Looked(check="nat", result="broken", told="packets are not forwarded: ip_forward is 0", hint=hint)
    elif os.geteuid() != 0:
        yield Looked(check="nat", result="unknown", told="reading the rules needs root", hint="sudo")
    elif run([find_tool("nft", package="nftables"), "list", "table", "inet", "pibuild"], check=False).returncode != 0:
        yield Looked(check="nat", result="broken", told="addresses are not translated: no rules", hint=restart)
    elif not run(["ip", "route", "show", "default", "dev", uplink], check=False).stdout.strip():
        hint = f"ip route; nmcli device; nmcli connection up {uplink}"
        yield Looked(check="nat", result="broken", told=f"{uplink} has no way to the world", hint=hint)
    else:
        yield Looked(check="nat", result="ok", told=f"nodes reach the world through {uplink}")


# ------------------------------------------------------------------------------------------------------ of its servers


def _restart(asked: Asked, unit: Unit, *before: str) -> str:
    """Return what to type when a server does not answer."""
    command = f"sudo systemctl restart {' '.join([*before, unit.name])}; journalctl -u {unit.name} -n 50"
    return command if asked.here else f"on {asked.serving.node.name}: {command}"


def _dhcp(asked: Asked) -> Iterator[Looked]:
    inventory, nodes = asked.serving.inventory, asked.serving.netbooting
    if os.geteuid() != 0 or not nodes:
        told = "asking needs root" if nodes else "no node boots over the network"
        yield Looked(check="dhcp", result="unknown", told=told, hint="sudo" if nodes else "")
        return
    unit = {"isc-dhcp": ISC, "dnsmasq": DNSMASQ_UNIT, "kea": KEA_UNIT}[inventory.cluster.dhcp.server]
    node = nodes[0]
    offers = discover(asked.serving.entry.interface, node.mac, seconds=_OFFERS)
    ours = {str(inventory.login.address), *([str(inventory.backup.address)] if inventory.backup else [])}
    for offer in offers:
        if offer.server not in ours:
            told = f"a DHCP server that is not ours answers: {offer.server} offers {offer.address} to {node.name}"
            hint = f"find and unplug it: ip neighbour show {offer.server}"
            yield Looked(check="dhcp", result="broken", told=told, hint=hint)
    offer_here = next((offer for offer in offers if offer.server == asked.address), None)
    if offer_here is None:
        told = f"{asked.address} offers {node.name} ({node.mac}) nothing"
        yield Looked(check="dhcp", result="broken", told=told, hint=_restart(asked, unit))
        return
    boots = TFTP_SERVER in offer_here.options and PXE_MENU.encode() in offer_here.options.get(VENDOR, b"")
    if offer_here.address != str(node.address):
        told = f"{node.name} is offered {offer_here.address}, not its {node.address}"
        yield Looked(check="dhcp", result="broken", told=told, hint=asked.apply)
    elif not boots:
        told = f"{node.name} is offered its address and not told to boot over the network (options 43 and 66)"
        yield Looked(check="dhcp", result="broken", told=told, hint=asked.apply)
    else:
        yield Looked(check="dhcp", result="ok", told=f"{node.name} is offered {node.address}, and where to boot from")


def _tftp(asked: Asked) -> Iterator[Looked]:
    unit = {"dnsmasq": DNSMASQ_UNIT, "tftpd-hpa": TFTPD_UNIT}[asked.serving.inventory.cluster.tftp.server]
    server = Server(host=asked.address, timeout=_PATIENCE / 3)
    missing: list[str] = []
    for node in asked.serving.netbooting:
        try:
            get(server, f"{node.serial}/config.txt")
        except TftpError as error:
            if error.code is None:
                yield Looked(check="tftp", result="broken", told=error.message, hint=_restart(asked, unit))
                return
            missing.append(node.name if error.code == NOT_FOUND else f"{node.name} ({error.message})")
    if missing:
        told = f"no config.txt for {_named(missing)}: they boot nothing"
        hint = "sudo pibuild explode " + " ".join(f"--node {name.split()[0]}" for name in missing[:_NAMED])
        yield Looked(check="tftp", result="broken", told=told, hint=hint)
    else:
        yield Looked(check="tftp", result="ok", told=f"{len(asked.serving.netbooting)} nodes have a config.txt")
    yield from _boot_files(asked)


def _boot_files(asked: Asked) -> Iterator[Looked]:
    """Look at what the TFTP server's own user cannot read, and at roots that are gone. Only on the machine itself."""
    served = netboot(asked.serving.inventory)
    if not asked.here or not served.tftp.is_dir():
        return
    closed, rootless = [], []
    for node in asked.serving.netbooting:
        with contextlib.suppress(FileNotFoundError):
            closed += [path for path in (served.tftp / node.serial).iterdir() if not path.stat().st_mode & 0o004]
        name = served.current(node.serial)
        if name and not served.root(node.name, name).is_dir():
            rootless.append(node.name)
    if closed:
        told = f"{closed[0]} cannot be read by the TFTP server" + (f", nor {len(closed) - 1} more" * (len(closed) > 1))
        yield Looked(check="boot files", result="broken", told=told, hint=f"sudo chmod a+r {closed[0].parent}/*")
    if rootless:
        hint = "sudo pibuild explode " + " ".join(f"--node {name}" for name in rootless[:_NAMED])
        told = f"the root that it boots is gone: {_named(rootless)}"
        yield Looked(check="boot files", result="broken", told=told, hint=hint)


def _nfs(asked: Asked) -> Iterator[Looked]:
    unit = NFS if asked.serving.inventory.cluster.nfs.server == "kernel" else GANESHA_UNIT
    rpcinfo = find_tool("rpcinfo", package="rpcbind")
    if (said := _silent(rpcinfo, "-T", "tcp", asked.address, "portmapper")) is not None:
        restart = _restart(asked, unit, "rpcbind.service")
        told = f"the portmapper does not answer ({said}): no node finds the NFS server"
        yield Looked(check="nfs", result="broken", told=told, hint=restart)
        return
    for program in ("nfs", "mountd"):
        if (said := _silent(rpcinfo, "-T", "tcp", asked.address, program, "3")) is not None:
            told = f"{program} version 3 does not answer: {said}"
            yield Looked(check="nfs", result="broken", told=told, hint=_restart(asked, unit))
            return
    if unit == GANESHA_UNIT:  # tells a client of its own exports alone
        yield Looked(check="nfs", result="ok", told="portmapper, mountd and nfs answer")
        return
    showmount = find_tool("showmount", package="nfs-common")
    listed = run([showmount, "-e", "--no-headers", asked.address], check=False, timeout=15).stdout
    lacking = not_exported(listed, exports(asked.serving))
    if lacking:
        told = f"not exported to {lacking[0].client}: {lacking[0].path}"
        told += f", and {len(lacking) - 1} more" * (len(lacking) > 1)
        yield Looked(check="nfs", result="broken", told=told, hint=f"{asked.apply}; {_restart(asked, unit)}")
    else:
        yield Looked(check="nfs", result="ok", told=f"answers, with {len(listed.splitlines())} exports")


def not_exported(listed: str, wanted: Sequence[Export]) -> list[Export]:
    """Return which exports are not in what `showmount -e` lists: a path and its clients a line."""
    words = [line.rsplit(maxsplit=1) for line in listed.splitlines()]
    live = {path.strip(): clients.split(",") for path, clients in (row for row in words if len(row) > 1)}
    return [export for export in wanted if str(export.client) not in live.get(str(export.path), [])]


def _silent(*argv: str | Path) -> str | None:
    """Return why a server does not answer an RPC, None when it does."""
    try:
        ended = run(argv, check=False, merge=True, timeout=10)
    except HostError:
        return "no answer within 10 s"
    return None if ended.returncode == 0 else " ".join(ended.stdout.split()) or "no answer"


# ---------------------------------------------------------------------------------------------------- of other machines


def _other(asked: Asked) -> Iterator[Looked]:
    """Look whether ssh answers on the machine asked of, from afar, or else on the other server."""
    inventory, role = asked.serving.inventory, asked.serving.role
    other = asked.serving.node if not asked.here else inventory.backup if role == "login" else inventory.login
    if other is None:
        return
    said = _ssh(other)
    if said is None:
        yield Looked(check="ssh", result="ok", told=f"{other.name} answers")
    else:
        hint = (
            f"its disk may have turned read-only: restart it, from the backup node or at the switch (port {other.port})"
        )
        yield Looked(check="ssh", result="broken", told=f"{other.name}: {said}", hint=hint)


def _nodes(asked: Asked) -> Iterator[Looked]:
    nodes = asked.serving.netbooting
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
        said = dict(zip((node.name for node in nodes), threads.map(_ssh, nodes), strict=True))
    silent = [name for name, why in said.items() if why is not None]
    if silent:
        ports = ", ".join(f"{node.name} {node.port}" for node in nodes if node.name in silent[:_NAMED])
        told = f"{len(silent)} of {len(nodes)} do not answer ssh: {_named(silent)}"
        hint = f"after what is broken above, power them off and on at the switch (ports: {ports})"
        yield Looked(check="nodes", result="broken", told=told, hint=hint)
    else:
        yield Looked(check="nodes", result="ok", told=f"all {len(nodes)} answer ssh")


def _ssh(node: Node) -> str | None:
    """Return why a machine's ssh does not answer, None when it does."""
    try:
        with socket.create_connection((str(node.address), 22), timeout=_PATIENCE) as connection:
            banner = connection.recv(64)
    except OSError as error:
        return f"no ssh on {node.address} ({error.strerror or error})"
    return None if banner.startswith(b"SSH-") else "ssh closes the connection before it says who it is"


def _named(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

"""Health checks: send the requests that a board sends, and report which server fails and what mends it.

Each check asks the thing itself, not systemd: a unit that is active may not answer, and on the other server there is
no asking systemd at all. From another machine than the server only what goes over the network is asked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import PibuildError
from builder.host.confine import is_directory
from builder.host.dhcp_client import TFTP_SERVER, VENDOR, Offer, discover_all
from builder.host.tftp_client import NOT_FOUND, Server, TftpError, get
from builder.inventory.choices import Kind
from builder.inventory.nodes import Node
from builder.run import find_tool, run
from builder.services.apply import compare
from builder.services.files import Serving, netboot, shortcoming
from builder.services.live_disk import sharing
from builder.services.live_nfs import nfs
from builder.services.looked import NAMED, PATIENCE, Asked, named, restart
from builder.services.offer import PXE_MENU
from builder.services.record import is_interrupted
from builder.services.render import render
from builder.services.servers import chosen
from builder.verify.finding import Finding

_OFFERS = 5.0  # seconds: a server tries for three whether an address of a pool is free before it offers it
_LEAST_FREE = 256 << 20  # bytes: less does not hold what a server writes in a week
_AT_ONCE = 32


def ask(serving: Serving, root: Path, *, nodes: bool) -> tuple[Finding, ...]:
    """Return what every check finds, in the order in which one thing needs another. No check ends the others."""
    here = str(serving.node.address) in run(["ip", "-o", "-4", "address", "show"]).stdout.replace("/", " ").split()
    asked = Asked(serving=serving, root=root, here=here, nodes=nodes)
    local = (_disks, _sharing, _clock, _name, _configuration, _keys, _nat)
    found: list[Finding] = []
    for check in (
        _machine,
        _takeover,
        *(local if here else ()),
        _dhcp,
        _tftp,
        nfs,
        _other,
        *((_nodes,) if nodes else ()),
    ):
        found += _looked(check, asked)
    return tuple(found)


def ask_servers(serving: Serving) -> tuple[tuple[str, Finding], ...]:
    """Return what was found of what DHCP, TFTP and NFS serve here, each with its server's name. Needs root."""
    asked = Asked(serving=serving, root=Path("/"), here=True, nodes=False, strangers=False)
    checks: Mapping[Kind, Callable[[Asked], Iterator[Finding]]] = {"dhcp": _dhcp, "tftp": _tftp, "nfs": nfs}
    return tuple(
        (chosen(serving, kind).name, finding)
        for kind, check in checks.items()
        for finding in _looked(check, asked)
        if finding.check == kind
    )


def _looked(check: Callable[[Asked], Iterator[Finding]], asked: Asked) -> list[Finding]:
    name = check.__name__.strip("_")
    try:
        return list(check(asked))
    except (PibuildError, OSError) as error:
        told, hint = (error.message, error.hint) if isinstance(error, PibuildError) else (str(error), "")
        return [Finding(check=name, result="unknown", seen=told, hint=hint)]


# ------------------------------------------------------------------------------------------------ of the machine itself


def _machine(asked: Asked) -> Iterator[Finding]:
    entry, name = asked.serving.entry, asked.serving.node.name
    if asked.here:
        yield Finding(check="address", result="ok", seen=f"{asked.address}: this machine is {name}")
    else:
        hint = f"on {name} itself: ip address show {entry.interface}; sudo ip address add "
        hint += f"{asked.address}/{asked.serving.inventory.subnet.prefixlen} dev {entry.interface}"
        told = f"{asked.address} is not this machine's: {name} is asked over the network"
        yield Finding(check="address", result="unknown", seen=told, hint=hint)


def _takeover(asked: Asked) -> Iterator[Finding]:
    if told := shortcoming(asked.serving):
        yield Finding(check="takeover", result="warning", seen=told)


def _sharing(asked: Asked) -> Iterator[Finding]:
    for told in sharing(asked.serving):
        yield Finding(check="netboot disk", result="warning", seen=told)


def _disks(asked: Asked) -> Iterator[Finding]:
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
            yield Finding(check="disk", result="unknown", seen=f"{path}: writing needs root", hint="sudo")
            continue
        except OSError as error:
            told, bad = f"{path} cannot be written: {error.strerror}", True
        else:
            told, bad = f"{path} is mounted read-only", bool(facts.f_flag & os.ST_RDONLY)
        free = facts.f_bavail * facts.f_frsize
        if bad:
            hint = "dmesg | grep -iE 'I/O error|EXT4-fs error|usb'; check the SSD's cable and power, then: sudo reboot"
            yield Finding(check="disk", result="broken", seen=told, hint=hint)
        elif free < _LEAST_FREE:
            told = f"{path} is full: {free >> 20} MiB free"
            hint = f"sudo pibuild node gc; sudo apt-get clean; df -h {path}"
            yield Finding(check="disk", result="broken", seen=told, hint=hint)
        else:
            yield Finding(check="disk", result="ok", seen=f"{path} can be written, {free >> 30} GiB free")


def _clock(asked: Asked) -> Iterator[Finding]:
    inventory = asked.serving.inventory
    written, now = inventory.path.stat().st_mtime, time.time()
    hint = "sudo timedatectl set-ntp true; timedatectl timesync-status"
    if now < written:
        told = f"{time.ctime(now)} is before {inventory.path.name} was written: certificates and k3s refuse such times"
        yield Finding(check="clock", result="broken", seen=told, hint=hint)
        return
    zone = str((asked.root / "etc/localtime").readlink()).partition("zoneinfo/")[2]
    if zone != inventory.cluster.timezone:
        told = f"time zone {zone or 'unknown'}, the cluster's is {inventory.cluster.timezone}"
        hint = f"sudo timedatectl set-timezone {inventory.cluster.timezone}"
        yield Finding(check="clock", result="broken", seen=told, hint=hint)
        return
    said = run(["timedatectl", "show", "-p", "NTPSynchronized", "--value"], check=False).stdout.strip()
    if said == "no":
        yield Finding(check="clock", result="broken", seen="not synchronised with a time server", hint=hint)
    else:
        told = "synchronised" if said == "yes" else "plausible; whether it is synchronised is not known"
        yield Finding(check="clock", result="ok", seen=f"{told}, {zone}")


def _name(_asked: Asked) -> Iterator[Finding]:
    """Look for what sudo complains of: `unable to resolve host`."""
    own = socket.gethostname()
    if run(["getent", "hosts", own], check=False, timeout=15).returncode == 0:
        yield Finding(check="name", result="ok", seen=f"{own} can be resolved")
    else:
        hint = f"echo '127.0.1.1 {own}' | sudo tee -a /etc/hosts"
        yield Finding(check="name", result="broken", seen=f"{own}, its own name, cannot be resolved", hint=hint)


def _configuration(asked: Asked) -> Iterator[Finding]:
    if is_interrupted(asked.root):
        told = "an apply was interrupted: files are partly the old ones and partly the new ones"
        yield Finding(check="configuration", result="broken", seen=told, hint=asked.apply)
        return
    changes = compare(render(asked.serving.inventory, asked.serving.role), asked.root)
    if changes:
        names = ", ".join(str(change.path) for change in changes[:NAMED]) + (" …" if len(changes) > NAMED else "")
        told = f"not what the inventory says: {names}"
        hint = f"pibuild services diff --for {asked.serving.role}; {asked.apply}"
        yield Finding(check="configuration", result="broken", seen=told, hint=hint)
    else:
        yield Finding(check="configuration", result="ok", seen="as the inventory says")


def _keys(asked: Asked) -> Iterator[Finding]:
    key = netboot(asked.serving.inventory).login_key
    if os.geteuid() != 0:
        yield Finding(check="ssh key", result="unknown", seen=f"{key}: reading it needs root", hint="sudo")
    elif key.is_file():
        yield Finding(check="ssh key", result="ok", seen=f"{key} opens every exploded node")
    else:
        told = f"{key}, which opens the nodes, is not there"
        yield Finding(check="ssh key", result="broken", seen=told, hint="sudo pibuild explode --all")


def _nat(asked: Asked) -> Iterator[Finding]:
    uplink = asked.serving.entry.uplink
    if uplink is None:
        return
    restart = "sudo systemctl restart pibuild-nat.service"
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
        hint = f"sudo sysctl -w net.ipv4.ip_forward=1; {asked.apply}"
        yield Finding(check="nat", result="broken", seen="packets are not forwarded: ip_forward is 0", hint=hint)
    elif os.geteuid() != 0:
        yield Finding(check="nat", result="unknown", seen="reading the rules needs root", hint="sudo")
    elif run([find_tool("nft", package="nftables"), "list", "table", "inet", "pibuild"], check=False).returncode != 0:
        yield Finding(check="nat", result="broken", seen="addresses are not translated: no rules", hint=restart)
    elif not run(["ip", "route", "show", "default", "dev", uplink], check=False).stdout.strip():
        hint = f"ip route; nmcli device; nmcli connection up {uplink}"
        yield Finding(check="nat", result="broken", seen=f"{uplink} has no way to the world", hint=hint)
    else:
        yield Finding(check="nat", result="ok", seen=f"nodes reach the world through {uplink}")


# ------------------------------------------------------------------------------------------------------ of its servers


def _dhcp(asked: Asked) -> Iterator[Finding]:
    inventory, nodes = asked.serving.inventory, asked.serving.netbooting
    if os.geteuid() != 0 or not nodes:
        told = "asking needs root" if nodes else "no node boots over the network"
        yield Finding(check="dhcp", result="unknown", seen=told, hint="sudo" if nodes else "")
        return
    unit = chosen(asked.serving, "dhcp").unit
    interface, macs = asked.serving.entry.interface, [node.mac for node in nodes]
    first = discover_all(interface, macs[:1], seconds=_OFFERS, patient=asked.strangers)  # so that others are heard, too
    offers = first | discover_all(interface, macs[1:], seconds=_OFFERS)
    ours = {str(inventory.login.address), *([str(inventory.backup.address)] if inventory.backup else [])}
    theirs = {offer.server: (node, offer) for node in nodes for offer in offers[node.mac] if offer.server not in ours}
    for node, offer in theirs.values():
        told = f"a DHCP server that is not ours answers: {offer.server} offers {offer.address} to {node.name}"
        hint = f"find and unplug it: ip neighbour show {offer.server}"
        yield Finding(check="dhcp", result="broken", seen=told, hint=hint)
    wrong = [told for node in nodes if (told := _misled(asked, node, offers[node.mac]))]
    silent = any(_own(asked, offers[node.mac]) is None for node in nodes)
    if not wrong:
        yield Finding(
            check="dhcp", result="ok", seen=f"{len(nodes)} nodes are offered their addresses, and where to boot"
        )
    else:
        told = wrong[0] + (f", and {len(wrong) - 1} more are answered wrongly" if len(wrong) > 1 else "")
        yield Finding(check="dhcp", result="broken", seen=told, hint=restart(asked, unit) if silent else asked.apply)


def _own(asked: Asked, offers: Sequence[Offer]) -> Offer | None:
    return next((offer for offer in offers if offer.server == asked.address), None)


def _misled(asked: Asked, node: Node, offers: Sequence[Offer]) -> str:
    """Return what is wrong with what the server offers a node, "" when nothing is."""
    offer = _own(asked, offers)
    if offer is None:
        return f"{asked.address} offers {node.name} ({node.mac}) nothing"
    if offer.address != str(node.address):
        return f"{node.name} is offered {offer.address}, not its {node.address}"
    if TFTP_SERVER not in offer.options or PXE_MENU.encode() not in offer.options.get(VENDOR, b""):
        return f"{node.name} is offered its address and not told to boot over the network (options 43 and 66)"
    return ""


def _tftp(asked: Asked) -> Iterator[Finding]:
    unit = chosen(asked.serving, "tftp").unit
    server = Server(host=asked.address, timeout=PATIENCE / 3)
    missing: list[str] = []
    for node in asked.serving.netbooting:
        try:
            get(server, f"{node.serial}/config.txt")
        except TftpError as error:
            if error.code is None:
                yield Finding(check="tftp", result="broken", seen=error.message, hint=restart(asked, unit))
                return
            missing.append(node.name if error.code == NOT_FOUND else f"{node.name} ({error.message})")
    if missing:
        told = f"no config.txt for {named(missing)}: they boot nothing"
        hint = "sudo pibuild explode " + " ".join(f"--node {name.split()[0]}" for name in missing[:NAMED])
        yield Finding(check="tftp", result="broken", seen=told, hint=hint)
    else:
        yield Finding(check="tftp", result="ok", seen=f"{len(asked.serving.netbooting)} nodes have a config.txt")
    yield from _boot_files(asked)


def _boot_files(asked: Asked) -> Iterator[Finding]:
    """Look at what the TFTP server's own user cannot read, and at roots that are gone. Only on the machine itself."""
    served = netboot(asked.serving.inventory)
    if not asked.here or not served.tftp.is_dir():
        return
    closed, rootless = [], []
    for node in asked.serving.netbooting:
        name = served.current(node.serial)
        boot = served.boot(node.name, name)
        if name and is_directory(boot):  # the node writes there: no link of its is followed
            with contextlib.suppress(FileNotFoundError):
                closed += _closed(boot)
        if os.geteuid() == 0 and name and not is_directory(served.root(node.name, name)):
            rootless.append(node.name)
    if closed:
        told = f"{closed[0]} cannot be read by the TFTP server" + (f", nor {len(closed) - 1} more" * (len(closed) > 1))
        yield Finding(check="boot files", result="broken", seen=told, hint=f"sudo chmod a+r {closed[0].parent}/*")
    if rootless:
        hint = "sudo pibuild explode " + " ".join(f"--node {name}" for name in rootless[:NAMED])
        told = f"the root that it boots is gone: {named(rootless)}"
        yield Finding(check="boot files", result="broken", seen=told, hint=hint)


def _closed(tree: Path) -> list[Path]:
    """Return what the TFTP server's user cannot read, or enter, below a directory; links do not count."""
    found = []
    for directory, directories, files in os.walk(tree.resolve()):
        rights = [(name, 0o005) for name in directories] + [(name, 0o004) for name in files]
        for name, right in rights:
            facts = os.lstat(Path(directory, name))
            if not stat.S_ISLNK(facts.st_mode) and facts.st_mode & right != right:
                found.append(Path(directory, name))
    return found


# ---------------------------------------------------------------------------------------------------- of other machines


def _other(asked: Asked) -> Iterator[Finding]:
    """Look whether ssh answers on the machine asked of, from afar, or else on the other server."""
    inventory, role = asked.serving.inventory, asked.serving.role
    other = asked.serving.node if not asked.here else inventory.backup if role == "login" else inventory.login
    if other is None:
        return
    said = _ssh(other)
    if said is None:
        yield Finding(check="ssh", result="ok", seen=f"{other.name} answers")
    else:
        hint = f"its disk may have turned read-only: restart it, from the backup node or {at_the_switch([other])}"
        yield Finding(check="ssh", result="broken", seen=f"{other.name}: {said}", hint=hint)


def _nodes(asked: Asked) -> Iterator[Finding]:
    nodes = asked.serving.netbooting
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
        said = dict(zip((node.name for node in nodes), threads.map(_ssh, nodes), strict=True))
    silent = [name for name, why in said.items() if why is not None]
    if silent:
        told = f"{len(silent)} of {len(nodes)} do not answer ssh: {named(silent)}"
        where = at_the_switch([node for node in nodes if node.name in silent[:NAMED]])
        hint = f"after what is broken above, power them off and on {where}"
        yield Finding(check="nodes", result="broken", seen=told, hint=hint)
    else:
        yield Finding(check="nodes", result="ok", seen=f"all {len(nodes)} answer ssh")


def at_the_switch(nodes: Sequence[Node]) -> str:
    """Return where nodes are switched off and on, with the ports that the inventory has."""
    ports = ", ".join(f"{node.name} {node.port}" for node in nodes if node.port is not None)
    return f"at the switch{f' (ports: {ports})' if ports else ''}"


def _ssh(node: Node) -> str | None:
    """Return why a machine's ssh does not answer, None when it does."""
    try:
        with socket.create_connection((str(node.address), 22), timeout=PATIENCE) as connection:
            banner = connection.recv(64)
    except OSError as error:
        return f"no ssh on {node.address} ({error.strerror or error})"
    return None if banner.startswith(b"SSH-") else "ssh closes the connection before it says who it is"

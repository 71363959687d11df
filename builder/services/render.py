"""The servers' configuration: every file of the login or the backup node, from the inventory alone.

Pure and deterministic: the same inventory gives the same bytes. `services_apply.py` compares and replaces what is live.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from builder.inventory.nodes import Inventory
from builder.monitoring.forwarder import forwarder_files
from builder.services.dhcp import dhcp_files
from builder.services.files import CONFIG, ConfigFile, ServerRole, Serving, fill, netboot, serving
from builder.services.nfs import nfs_files

HOSTS = PurePosixPath("/etc/hosts")
SSH = PurePosixPath("/etc/ssh/ssh_config.d/pibuild.conf")
PARALLEL = CONFIG / "hosts.txt"
NAT = CONFIG / "nat.nft"
NAT_UNIT = PurePosixPath("/etc/systemd/system/pibuild-nat.service")
FLEET_UNIT = PurePosixPath("/etc/systemd/system/pibuild-fleet.service")
SYSCTL = PurePosixPath("/etc/sysctl.d/60-pibuild.conf")


def render(inventory: Inventory, role: ServerRole) -> tuple[ConfigFile, ...]:
    """Return every file of a server, sorted by path. Raises InputError."""
    here = serving(inventory, role)
    files = [*dhcp_files(here), *nfs_files(here), *_names(here), *_nat(here), *_fleet(here), *_forwarder(here)]
    return tuple(sorted(files, key=lambda file: file.path))


def _names(here: Serving) -> list[ConfigFile]:
    """Return what knows the nodes by name: hosts, ssh, and lists for parallel-ssh, of all nodes and of each group."""
    files = [
        ConfigFile(path=HOSTS, text=fill("hosts.j2", here), block=True),
        ConfigFile(path=SSH, text=fill("ssh_config.j2", here, login_key=netboot(here.inventory).login_key)),
        ConfigFile(path=PARALLEL, text=fill("hosts.txt.j2", here, listed=here.netbooting)),
    ]
    for group in here.inventory.groups:
        members = tuple(node for node in here.netbooting if group in node.groups)
        text = fill("hosts.txt.j2", here, listed=members)
        files.append(ConfigFile(path=PARALLEL.with_name(f"hosts-{group}.txt"), text=text))
    return files


def _forwarder(here: Serving) -> list[ConfigFile]:
    """Return what a server's forwarder of metrics reads: nobody explodes a server, which would bring it."""
    if here.node.boot == "network":
        return []
    files = forwarder_files(here.inventory, here.node)
    return [ConfigFile(path=PurePosixPath(path), text=text) for path, text in files.items() if text]


def _nat(here: Serving) -> list[ConfigFile]:
    """Return address translation, for a server with a port to the world."""
    if here.entry.uplink is None:
        return []
    rules = fill("nat.nft.j2", here, subnet=here.inventory.subnet, uplink=here.entry.uplink)
    return [
        ConfigFile(path=NAT, text=rules),
        ConfigFile(path=NAT_UNIT, text=fill("pibuild-nat.service.j2", here, nat=NAT)),
        ConfigFile(path=SYSCTL, text=fill("sysctl.conf.j2", here)),
    ]


def serves_fleet(here: Serving) -> bool:
    """Return whether nodes report to this server: the address in cluster.fleet.url is its own."""
    host = urlsplit(here.inventory.cluster.fleet.url or "").hostname
    return host in {str(here.node.address), here.node.name, *here.node.aliases}


def _fleet(here: Serving) -> list[ConfigFile]:
    """Return the fleet manager's unit, for the server that nodes report to."""
    if not serves_fleet(here):
        return []
    url = urlsplit(here.inventory.cluster.fleet.url or "")
    port = url.port or (443 if url.scheme == "https" else 80)
    served = netboot(here.inventory).dest
    values = {"address": here.node.address, "port": port, "netboot": served, "tls": url.scheme == "https"}
    return [ConfigFile(path=FLEET_UNIT, text=fill("pibuild-fleet.service.j2", here, **values))]

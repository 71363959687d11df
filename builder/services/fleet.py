"""The fleet manager's unit, of pibuild's own, for the server that nodes report to."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from builder.services.files import ConfigFile, Serving, fill, netboot
from builder.services.server import Server, Unit

FLEET_UNIT = PurePosixPath("/etc/systemd/system/pibuild-fleet.service")


def serves_fleet(here: Serving) -> bool:
    """Return whether nodes report to this server: the address in cluster.fleet.url is its own."""
    host = urlsplit(here.inventory.cluster.fleet.url or "").hostname
    return host in {str(here.node.address), here.node.name, *here.node.aliases}


def _files(here: Serving) -> list[ConfigFile]:
    url = urlsplit(here.inventory.cluster.fleet.url or "")
    port = url.port or (443 if url.scheme == "https" else 80)
    served = netboot(here.inventory).dest
    values = {"address": here.node.address, "port": port, "netboot": served, "tls": url.scheme == "https"}
    return [ConfigFile(path=FLEET_UNIT, text=fill("pibuild-fleet.service.j2", here, **values))]


SERVER = Server(
    name="fleet",
    units=(Unit(name="pibuild-fleet.service", restart_on=(FLEET_UNIT,)),),
    files=(_files,),
)

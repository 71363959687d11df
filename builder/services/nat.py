"""Address translation, for a server with a port to the world: rules of nftables, and a unit of pibuild's own."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.services.files import CONFIG, ConfigFile, Serving, fill
from builder.services.server import Checker, Foreground, Server, Unit

NAT = CONFIG / "nat.nft"
NAT_UNIT = PurePosixPath("/etc/systemd/system/pibuild-nat.service")
SYSCTL = PurePosixPath("/etc/sysctl.d/60-pibuild.conf")
_NAME = "pibuild-nat.service"


def _files(here: Serving) -> list[ConfigFile]:
    rules = fill("nat.nft.j2", here, subnet=here.inventory.subnet, uplink=here.entry.uplink)
    return [
        ConfigFile(path=NAT, text=rules),
        ConfigFile(path=NAT_UNIT, text=fill("pibuild-nat.service.j2", here, nat=NAT)),
        ConfigFile(path=SYSCTL, text=fill("sysctl.conf.j2", here)),
    ]


def _foreground(_: Serving) -> Foreground:
    return Foreground(name="nat", program="nft", package="nftables", argv=("nft", "-f", str(NAT)), ports=frozenset())


SERVER = Server(
    name="nat",
    units=(Unit(name=_NAME, reload_on=(NAT, NAT_UNIT), reload=("systemctl", "reload", _NAME)),),
    files=(_files,),
    tools={"nft": "nftables", "sysctl": "procps"},
    checkers=(
        Checker(
            path=NAT,
            program="nft",
            package="nftables",
            argv=lambda file: ("-c", "-f", str(file)),
            needs_root=True,
        ),
    ),
    foreground=_foreground,
)

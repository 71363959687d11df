"""ISC dhcpd. It keeps no leases of reserved addresses, and reads its file once."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.services.files import ConfigFile, Serving, fill
from builder.services.offer import lease_seconds, network, pxe_option
from builder.services.server import Checker, Foreground, Server, Unit

DHCPD = PurePosixPath("/etc/dhcp/dhcpd.conf")
DEFAULTS = PurePosixPath("/etc/default/isc-dhcp-server")


def _files(here: Serving) -> list[ConfigFile]:
    conf = fill(
        "dhcpd.conf.j2",
        here,
        **network(here),
        lease_seconds=lease_seconds(here.inventory.cluster.dhcp.lease),
        pxe_option=pxe_option().hex(":"),
    )
    defaults = fill("isc-dhcp-server.j2", here, interface=here.entry.interface)
    return [ConfigFile(path=DHCPD, text=conf), ConfigFile(path=DEFAULTS, text=defaults)]


def _foreground(_: Serving) -> Foreground:
    leases = "/var/lib/dhcp/dhcpd.leases"
    script = f". {DEFAULTS}; : >{leases}; exec dhcpd -4 -f -d --no-pid -lf {leases} $INTERFACESv4"
    return Foreground(
        name="dhcpd",
        program="dhcpd",
        package="isc-dhcp-server",
        argv=("sh", "-ec", script),
        ports=frozenset({("udp", 67)}),
    )


SERVER = Server(
    name="dhcpd",
    units=(Unit(name="isc-dhcp-server.service", restart_on=(DHCPD, DEFAULTS)),),
    files=(_files,),
    package="isc-dhcp-server",
    program="dhcpd",
    checkers=(
        Checker(
            path=DHCPD,
            program="dhcpd",
            package="isc-dhcp-server",
            argv=lambda file: ("-4", "-t", "-cf", str(file)),
        ),
    ),
    foreground=_foreground,
    writes=("/var/lib/dhcp",),
    given=r"DHCPACK on (?P<address>[\d.]+) to {mac}",
)

"""dnsmasq, the program: one unit and one file, whether it answers DHCP, TFTP, names, or all of it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from builder.services.files import CONFIG, ConfigFile, Serving, fill, netboot
from builder.services.names import HOSTS
from builder.services.offer import network
from builder.services.server import Checker, Foreground, Port, Server, Staged, Unit
from builder.services.tftp_view import BOOT_MOUNT, DROP_IN, MOUNT, VIEW, view_script

DNSMASQ = PurePosixPath("/etc/dnsmasq.d/pibuild.conf")
RESERVATIONS = CONFIG / "dnsmasq-reservations"
UNIT = Unit(
    name="dnsmasq.service",
    restart_on=(DNSMASQ, DROP_IN, MOUNT, BOOT_MOUNT),
    reload_on=(RESERVATIONS, HOSTS),
    reload=("systemctl", "reload", "dnsmasq.service"),
    configured=DNSMASQ,
)
_TRANSFERS = (200, 900)  # tftp-max: its own 50 is too few for a rack; below the usual 1024 open files
_NODE_TRANSFERS = 4  # a board leaves transfers open behind it: it aborts and reopens files


def conf(here: Serving) -> list[ConfigFile]:
    """Return its configuration without the reservations, which it reads again on a reload."""
    cluster = here.inventory.cluster
    fewest, most = _TRANSFERS
    text = fill(
        "dnsmasq.conf.j2",
        here,
        **network(here),
        interface=here.entry.interface,
        dhcp=cluster.dhcp.server == "dnsmasq",
        tftp=cluster.tftp.server == "dnsmasq",
        dns=here.answers_dns,
        lease=cluster.dhcp.lease,
        reservations=RESERVATIONS,
        tftp_root=VIEW,
        tftp_max=min(max(fewest, _NODE_TRANSFERS * len(here.netbooting)), most),
    )
    return [ConfigFile(path=DNSMASQ, text=text)]


def checked(conf: str, reservations: str) -> str:
    """Return one configuration with the reservations in it: `dnsmasq --test` does not read the file that holds them."""
    lines = [f"dhcp-host={line}" for line in reservations.splitlines() if line and not line.startswith("#")]
    return re.sub(r"^dhcp-hostsfile=.*\n", "", conf, flags=re.MULTILINE) + "\n".join(lines) + "\n"


def _staged(files: Staged) -> str:
    reservations = files[RESERVATIONS].read_text() if RESERVATIONS in files else ""
    return checked(files[DNSMASQ].read_text(), reservations)


def _test(_: Path) -> tuple[str, ...]:
    return ("--test", "--conf-file=-")


def _foreground(here: Serving) -> Foreground:
    cluster = here.inventory.cluster
    asked: dict[Port, bool] = {
        ("udp", 53): here.answers_dns,
        ("udp", 67): cluster.dhcp.server == "dnsmasq",
        ("udp", 69): cluster.tftp.server == "dnsmasq",
    }
    options = f"--keep-in-foreground --conf-file={DNSMASQ} --log-facility=- --pid-file="
    sees = f"{view_script(netboot(here.inventory).tftp)}; " if cluster.tftp.server == "dnsmasq" else ""
    argv = ("sh", "-ec", f"{sees}exec dnsmasq {options}")
    return Foreground(
        name="dnsmasq",
        program="dnsmasq",
        package="dnsmasq-base",
        argv=argv,
        ports=frozenset(port for port, wanted in asked.items() if wanted),
    )


NAMES = Server(  # as a name server; dhcp/dnsmasq.py and tftp/dnsmasq.py have what it does there
    name="dnsmasq",
    units=(UNIT,),
    files=(conf,),
    package="dnsmasq",
    program="dnsmasq",
    checkers=(Checker(path=DNSMASQ, program="dnsmasq", package="dnsmasq-base", argv=_test, stdin=_staged),),
    foreground=_foreground,
    writes=("/var/lib/misc",),
)

"""tftpd-hpa, which changes its root to the tree of boot files."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.services.files import ConfigFile, Serving, fill, netboot
from builder.services.server import Foreground, Server, Unit

TFTPD = PurePosixPath("/etc/default/tftpd-hpa")


def _files(here: Serving) -> list[ConfigFile]:
    text = fill("tftpd-hpa.j2", here, tftp_root=netboot(here.inventory).tftp)
    return [ConfigFile(path=TFTPD, text=text)]


def _foreground(_: Serving) -> Foreground:
    options = "--user $TFTP_USERNAME --address $TFTP_ADDRESS $TFTP_OPTIONS $TFTP_DIRECTORY"
    script = f". {TFTPD}; exec in.tftpd --foreground {options}"
    return Foreground(
        name="tftpd",
        program="in.tftpd",
        package="tftpd-hpa",
        argv=("sh", "-ec", script),
        ports=frozenset({("udp", 69)}),
    )


SERVER = Server(
    name="tftpd",
    units=(Unit(name="tftpd-hpa.service", restart_on=(TFTPD,)),),
    files=(_files,),
    package="tftpd-hpa",
    program="in.tftpd",
    foreground=_foreground,
)

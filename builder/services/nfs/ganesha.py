"""nfs-ganesha, a program: for kernels without an NFS server, and for the lab. It tells a client of its own exports."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.errors import InputError, Problem
from builder.services.exports import exports
from builder.services.files import ConfigFile, Serving, fill
from builder.services.server import Foreground, Port, Server, Unit, hang_up

GANESHA = PurePosixPath("/etc/ganesha/ganesha.conf")
_UNIT = "nfs-ganesha.service"
_MOST_IDS = 0xFFFF  # Export_Id has 16 bits, and is part of file handles
_MOUNTD = 20048


def _files(here: Serving) -> list[ConfigFile]:
    """Return its configuration. Raises InputError when it cannot number the exports."""
    listed = exports(here)
    if any(export.id > _MOST_IDS for export in listed):
        message = f"nfs-ganesha cannot number the exports of so large a subnet as {here.inventory.subnet}"
        hint = "nfs: {server: kernel}, or a subnet of /17"
        raise InputError(Problem(message=message, mark=here.inventory.subnet_mark, hint=hint))
    return [ConfigFile(path=GANESHA, text=fill("ganesha.conf.j2", here, exports=listed, own=here.node.address))]


def _foreground(_: Serving) -> Foreground:
    script = f"mkdir -p /var/lib/nfs/ganesha; exec ganesha.nfsd -F -L STDOUT -f {GANESHA} -p /run/ganesha.pid"
    ports: frozenset[Port] = frozenset({("tcp", 2049), ("tcp", _MOUNTD)})
    return Foreground(
        name="ganesha",
        program="ganesha.nfsd",
        package="nfs-ganesha nfs-ganesha-vfs",
        argv=("sh", "-ec", script),
        ports=ports,
    )


SERVER = Server(
    name="ganesha",
    units=(Unit(name=_UNIT, reload_on=(GANESHA,), reload=hang_up(_UNIT)),),
    files=(_files,),
    package="nfs-ganesha",
    program="ganesha.nfsd",
    libraries={"nfs-ganesha-vfs": "ganesha/libfsalvfs.so"},
    foreground=_foreground,
    writes=("/var/lib/nfs",),
)

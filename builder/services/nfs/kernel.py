"""The kernel's own NFS server. Its threads belong to no process, so nothing runs it in the foreground."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.services.exports import exports
from builder.services.files import ConfigFile, Serving, fill
from builder.services.server import Server, Unit

EXPORTS = PurePosixPath("/etc/exports.d/pibuild.exports")
CONF = PurePosixPath("/etc/nfs.conf.d/pibuild.conf")
_THREADS = (16, 128)  # its own 8 keep a rack that boots at once waiting


def _files(here: Serving) -> list[ConfigFile]:
    fewest, most = _THREADS
    threads = min(max(fewest, len(here.netbooting)), most)
    listed = fill("exports.j2", here, exports=exports(here), own=here.node.address)
    return [
        ConfigFile(path=EXPORTS, text=listed),
        ConfigFile(path=CONF, text=fill("nfs.conf.j2", here, threads=threads)),
    ]


SERVER = Server(
    name="nfs",
    units=(Unit(name="nfs-server.service", restart_on=(CONF,), reload_on=(EXPORTS,), reload=("exportfs", "-ra")),),
    files=(_files,),
    package="nfs-kernel-server",
    program="exportfs",
    writes=("/var/lib/nfs",),
    lists_exports=True,
)

"""Health check of NFS: portmapper, mountd and nfsd answer, the exports are right, every root can be looked up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.errors import HostError
from builder.host.nfs_client import LookupRefusedError, NfsServer, connected
from builder.inventory.nodes import Node
from builder.run import find_tool, run
from builder.services.exports import Export, exports
from builder.services.files import netboot
from builder.services.looked import PATIENCE, Asked, restart
from builder.services.servers import chosen
from builder.verify.finding import Finding

_CHECK = "sudo pibuild services check"


def nfs(asked: Asked) -> Iterator[Finding]:
    """Ask the NFS server, and for every node's root."""
    server = chosen(asked.serving, "nfs")
    unit = server.unit
    rpcinfo = find_tool("rpcinfo", package="rpcbind")
    if (said := _silent(rpcinfo, "-T", "tcp", asked.address, "portmapper")) is not None:
        told = f"the portmapper does not answer ({said}): no node finds the NFS server"
        yield Finding(check="nfs", result="broken", seen=told, hint=restart(asked, unit, "rpcbind.service"))
        return
    for program in ("nfs", "mountd"):
        if (said := _silent(rpcinfo, "-T", "tcp", asked.address, program, "3")) is not None:
            told = f"{program} version 3 does not answer: {said}"
            yield Finding(check="nfs", result="broken", seen=told, hint=restart(asked, unit))
            return
    if server.lists_exports:
        showmount = find_tool("showmount", package="nfs-common")
        listed = run([showmount, "-e", "--no-headers", asked.address], check=False, timeout=15).stdout
        lacking = not_exported(listed, exports(asked.serving))
        if lacking:
            told = f"not exported to {lacking[0].client}: {lacking[0].path}"
            told += f", and {len(lacking) - 1} more" * (len(lacking) > 1)
            yield Finding(check="nfs", result="broken", seen=told, hint=f"{asked.apply}; {restart(asked, unit)}")
            return
    if not asked.here or os.geteuid() != 0:
        told = "portmapper, mountd and nfs answer; whether roots can be mounted is seen on the server alone, as root"
        yield Finding(check="nfs", result="unknown", seen=told, hint=f"on {asked.serving.node.name}: {_CHECK}")
        return
    yield from _roots(asked, f"{asked.apply}; {restart(asked, unit)}")


def _roots(asked: Asked, hint: str) -> Iterator[Finding]:
    """Look up the root that each node boots over NFS, down to what the kernel starts."""
    served, looked = netboot(asked.serving.inventory), 0
    wrong: list[str] = []
    try:
        with connected(asked.address, timeout=PATIENCE) as server:
            for node in asked.serving.netbooting:
                if name := served.current(node.serial):
                    looked += 1
                    wrong += _unmountable(server, node, str(served.roots / node.name), name)
    except LookupRefusedError as error:
        wrong.append(str(error))
    if wrong:
        told = f"{wrong[0]}" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        yield Finding(check="nfs", result="broken", seen=told, hint=hint)
    elif not looked:
        yield Finding(
            check="nfs", result="unknown", seen="answers; no node has a root to look up", hint="sudo pibuild explode"
        )
    else:
        yield Finding(check="nfs", result="ok", seen=f"the roots of {looked} nodes can be mounted")


def _unmountable(server: NfsServer, node: Node, export: str, name: str) -> list[str]:
    """Return why a node's root cannot be mounted. Raises LookupRefusedError when the server answers no more."""
    try:
        server.look_up(export, [name] if node.root == "shared" else [name, "usr"])
    except LookupRefusedError as error:
        if error.status is None:
            raise
        return [f"{node.name} cannot mount its root: {error}"]
    return []


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

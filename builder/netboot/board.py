"""Check, before a node is switched, that its board would start from the new files and reach its root.

The files are the node's own boot directory, asked by the simulated bootloader as a TFTP server would send them. The
kernel and its initramfs are the generation's: they are looked into once, however many nodes boot them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.console import warn
from builder.errors import PibuildError
from builder.firmware.boards import BOARDS, NETBOOTED
from builder.firmware.boot_files import MOST_BYTES, Answer, Tree
from builder.firmware.boot_state import Eeprom
from builder.firmware.config_eval import CONFIG_LIMIT
from builder.firmware.simulate import simulate
from builder.host.confine import resolve_in
from builder.image.initramfs import read_initramfs
from builder.image.kernel import read_kernel
from builder.inventory.nodes import Node
from builder.netboot.generation import Generation
from builder.verify.drivers import OVERLAY, UNTOLD, find_drivers, lacking
from builder.verify.finding import Finding, Result

_FACTS = 16 << 20  # bytes of modules.dep and its like that are read; the biggest have one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Glance:
    """A boot directory whose big files are seen and not read: a Tree."""

    tree: Tree

    def probe(self, name: str) -> Answer:
        """Say whether the server would send a file."""
        return self.tree.probe(name)

    def read(self, name: str) -> Answer:
        """Return a small file's content, of a big one the first of it alone."""
        seen = self.tree.probe(name)
        if seen.outcome == "found" and (seen.size or 0) > CONFIG_LIMIT:
            return Answer(outcome="found", size=seen.size, data=b"\0")
        return self.tree.read(name)


def ask_boards(asked: Iterable[tuple[Node, Generation, Tree, bool]]) -> dict[str, str]:
    """Return, by the name of a node, why its board would stop or not reach its root; what cannot be told is warned of.

    Each is asked with the generation, the boot files that it is to have, and whether its root is a shared one.
    """
    stopped = {}
    unseen: dict[str, list[str]] = {}
    for node, generation, boot, shared in asked:
        try:
            found = _ask(node, generation, boot, shared=shared)
        except (OSError, PibuildError) as error:  # a node writes in its boot directory
            found = _found("broken", f"its boot files cannot be read: {error}")
        if found.broken:
            stopped[node.name] = found.seen
        elif found.result == "unknown":
            unseen.setdefault(f"a {node.board}: {found.seen}", []).append(node.name)
    for told, names in unseen.items():
        warn(f"whether {len(names)} of the nodes ({names[0]}…) reach their root was not seen, each {told}")
    return stopped


def _found(result: Result, seen: str) -> Finding:
    return Finding(check="board", result=result, seen=seen)


def _ask(node: Node, generation: Generation, boot: Tree, *, shared: bool) -> Finding:
    board = BOARDS[node.board]
    if node.board not in NETBOOTED:
        ways = f"boot: local, or one of {', '.join(NETBOOTED)}"
        return _found("broken", f"a {board.title} is not known to boot over the network: {ways}")
    own = Eeprom(tftp_prefix=1, tftp_prefix_str="", rolls_over=True)  # `boot` is where its serial leads to
    report = simulate(_Glance(tree=boot), node.board, node.serial, mac=node.mac, eeprom=own)
    if report.stop is not None:
        return _found("broken", f"its {board.title} would stop ({report.stop.kind}): {report.stop.said}")
    loaded = (report.kernel or "", report.dtb or "", *report.initramfs)
    found = _reaches(generation.directory, node.board, loaded, shared=shared)
    if found.broken:
        return _found(
            "broken", f"its {board.title} would start the kernel and not reach its root: {found.seen} (docs/boards.md)"
        )
    return found


@functools.cache
def _reaches(generation: Path, board: str, names: tuple[str, ...], *, shared: bool) -> Finding:
    """Look whether a generation's kernel reaches a root over the network; it never changes, so once is enough."""

    def read(path: str, root: Path = generation / "root", limit: int = _FACTS) -> bytes | None:
        file = resolve_in(root, path)
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            return opened.read(limit)

    kernel, dtb, *initramfs = (read(name, generation / "boot", MOST_BYTES) for name in names)
    version = read_kernel(kernel or b"").version
    if not version:
        return _found("unknown", f"{names[0]} is no kernel whose version it says")
    try:
        unpacked = [read_initramfs(data) for data in initramfs if data is not None]
    except PibuildError as error:
        return _found("unknown", f"{', '.join(names[2:])}: {error}")
    loadable = {module for each in unpacked for module in each.drivers.get(version, ())}
    found = find_drivers(read, version, loadable)
    way = BOARDS[board].ways["network"]
    if not found.told:
        return _found("unknown", UNTOLD)
    lacks = lacking(found, way, OVERLAY if shared else (), dtb=dtb)
    return _found("broken" if lacks else "ok", "; ".join(lacks))

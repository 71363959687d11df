"""Switch a node back to an earlier root, and hold it there until it is released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InputError, PibuildError, Problem
from builder.inventory.nodes import Inventory, Node
from builder.netboot.layout import Netboot


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """What became of a node: the root it leaves and the one it boots next; `failed` says why it goes on as it did."""

    node: str
    left: str
    boots: str
    held: bool
    failed: str = ""


def rollback(
    inventory: Inventory,
    nodes: Sequence[Node],
    dest: Path,
    *,
    to: str = "",
    unhold: bool = False,
    dry_run: bool = False,
) -> tuple[RolledBack, ...]:
    """Let nodes boot what they booted before, or a root made of generation `to`, and hold them there.

    `unhold` releases them instead, with what they boot. Raises InputError for a single node that cannot go back, and
    where nothing was exploded; of several, each has its row. A dry run says the same and changes nothing.
    """
    netboot = Netboot(dest.absolute())
    done: list[RolledBack] = []
    with netboot.locked():
        for node in nodes:
            current = netboot.current(node.serial)
            if unhold:
                if not dry_run:
                    netboot.release(node.name)
                done.append(RolledBack(node=node.name, left="", boots=current, held=False))
                continue
            try:
                back = _target(inventory, netboot, node, to)
                if not dry_run:
                    netboot.hold(node.name, back)  # first: killed between the two, the next explode goes on with it
                    netboot.switch(node.name, node.serial, back, back=True)
            except (OSError, PibuildError) as error:
                if len(nodes) == 1:
                    raise
                held = bool(netboot.held(node.name))
                boots = netboot.current(node.serial)
                done.append(RolledBack(node=node.name, left="", boots=boots, held=held, failed=str(error)))
                continue
            done.append(RolledBack(node=node.name, left=current, boots=back, held=True))
    return tuple(done)


def _target(inventory: Inventory, netboot: Netboot, node: Node, to: str) -> str:
    """Return the root that a node goes back to. Raises InputError where there is none."""
    current = netboot.current(node.serial)
    again = f"sudo pibuild explode --node {node.name} --image …"
    if not current:
        hint = f"sudo pibuild explode --node {node.name}"
        raise InputError(Problem(message=f"{node.name} boots nothing from {netboot.dest}", hint=hint))
    if node.boot != "network":
        hint = f"boot: network in {inventory.path}"
        raise InputError(Problem(message=f"{node.name} boots from a disk of its own", mark=node.mark, hint=hint))
    if not to:
        record = netboot.record(node.name, current)
        previous = record.previous if record else ""
        if not netboot.is_whole(node.name, previous):
            raise InputError(Problem(message=f"{node.name} has booted nothing before {current}", hint=again))
        return previous
    made = [name for name in netboot.names(node.name) if netboot.is_whole(node.name, name)]
    there = [name for name in made if name == to or name.partition("-")[0] == to]
    if not there:
        message = f"{node.name} has no root of {to}; it has {', '.join(made) or 'none'}"
        raise InputError(Problem(message=message, hint=again))
    if current in there:
        return current
    return max(there, key=lambda name: _made(netboot, node, name))


def _made(netboot: Netboot, node: Node, name: str) -> int:
    record = netboot.record(node.name, name)
    return record.made if record else 0

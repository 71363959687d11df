"""The netboot test: nodes boot in a lab from what was exploded, to a verdict from outside."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.console import note
from builder.errors import VerdictError
from builder.firmware.boot_files import ServerTree
from builder.firmware.simulate import BootReport, simulate
from builder.inventory.nodes import Inventory, Node
from builder.lab.lab import LabOptions, lab, require_exploded
from builder.lab.verdict import NodeSeen, expected_of, look_at_node, unique
from builder.netboot.layout import Netboot
from builder.verify.finding import Finding, holds, judge, reasons
from builder.verify.verdict import Seen, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Netbooted:
    """What was seen: by node what its bootloader did and the verdict; and what nodes must not share."""

    chains: Mapping[str, BootReport]
    verdicts: Mapping[str, Verdict]
    identities: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether all of it was well."""
        return all(verdict.ok for verdict in self.verdicts.values()) and holds(self.identities)

    @property
    def findings(self) -> Mapping[str, tuple[Finding, ...]]:
        """What was found of each node, and of all together."""
        each = {name: verdict.checks for name, verdict in self.verdicts.items()}
        return {**each, "all nodes": self.identities} if self.identities else each

    def require(self) -> None:
        """Raise VerdictError with the reasons and the places of the console logs unless all is well."""
        if self.ok:
            return
        said = [f"{name}: {reason}" for name, found in self.findings.items() for reason in reasons(found)]
        logs = ", ".join(str(verdict.console) for verdict in self.verdicts.values() if not verdict.ok)
        hint = f"read the console log: {logs}" if logs else "pibuild explode makes identities by serial number"
        raise VerdictError("netboot: not as it should be\n" + "\n".join(said), hint=hint)


def chains(inventory: Inventory, nodes: Sequence[Node], dest: Path, options: LabOptions) -> dict[str, BootReport]:
    """Return what the nodes' bootloaders do, against the lab's TFTP server; starts no machine. Needs root."""
    with lab(inventory, dest, options) as here, here.entered():
        return ask(nodes, str(here.inventory.login.address))


def ask(nodes: Sequence[Node], server: str) -> dict[str, BootReport]:
    """Return what the nodes' bootloaders do with a TFTP server's files, asked over this machine's network."""
    tree = ServerTree(host=server)
    return {node.name: simulate(tree, node.board, node.serial, mac=node.mac) for node in nodes}


def boot_nodes(
    inventory: Inventory, nodes: Sequence[Node], dest: Path, options: LabOptions, *, timeout: float
) -> Netbooted:
    """Boot nodes at the same time and look at them. Needs root.

    Raises InputError for a node that boots nothing from `dest`, HostError for what this machine lacks.
    """
    for node in nodes:
        require_exploded(Netboot(dest), node)
    begun = time.monotonic()
    with lab(inventory, dest, options) as here:
        expected = {node.name: expected_of(here.inventory, here.netboot, node) for node in nodes}
        machines = {node.name: here.boot(node.name, at_once=len(nodes)) for node in nodes}
        found = {name: machine.chain() for name, machine in machines.items()}
        seen: dict[str, NodeSeen] = {}
        for name, machine in machines.items():
            for told in (_loaded(found[name]).seen, *found[name].notes):
                note(f"{name}: {told}")
            started = found[name].stop is None
            seen[name] = (
                look_at_node(
                    Seen(name=name, console=machine.console, shell=machine.shell, metrics=""),
                    expected[name],
                    functools.partial(here.given, name),
                    begun=begun,
                    deadline=begun + timeout,
                )
                if started
                else NodeSeen(checks=(), facts={})
            )
        seconds = time.monotonic() - begun
        verdicts = {
            name: Verdict(
                checks=(_loaded(found[name]), *seen[name].checks), console=machine.console.path, seconds=seconds
            )
            for name, machine in machines.items()
        }
    facts = {name: one.facts for name, one in seen.items() if one.facts}
    identities = tuple(unique(facts)) if len(facts) > 1 else ()
    return Netbooted(chains=found, verdicts=verdicts, identities=identities)


def _loaded(report: BootReport) -> Finding:
    """Return the check that the board's bootloader comes as far as starting the kernel."""
    had = [asked for asked in report.requests if asked.outcome == "sent"]
    size = sum(asked.size or 0 for asked in had) / (1 << 20)
    went = f"{len(report.requests)} requests, {len(had)} files, {size:.1f} MiB, then {report.kernel}"
    return judge(
        check=f"bootloader of a {report.board}", ok=report.stop is None, seen=report.stop.said if report.stop else went
    )

"""The commands of the lab and the netboot test: a login node's network and nodes inside this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli import tables
from builder.cli.names import Commands
from builder.cli.options import (
    cluster_option,
    dest_option,
    dry_run_option,
    example,
    json_option,
    plain,
    table_options,
    tell,
)
from builder.cli.selection import Selection, node_argument, selection
from builder.cli.typed import shown
from builder.errors import VerdictError

if TYPE_CHECKING:
    from builder.firmware.simulate import BootReport
    from builder.inventory.nodes import Inventory, Node
    from builder.lab.lab import LabOptions


def lab_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add the options of how the lab is."""
    memory = click.option(
        "--memory",
        metavar="MIB",
        type=click.IntRange(min=512),
        default=1024,
        show_default=True,
        help="Memory of a machine.",
    )
    logs = click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep all logs here.")
    return memory(logs(command))


def netboot(
    inventory: Inventory, nodes: Sequence[Node], dest: Path, options: LabOptions, *, timeout: int, as_json: bool
) -> None:
    """Be `pibuild boot --netboot`: boot nodes, print the verdict. Raises VerdictError when it is bad."""
    from builder.lab.netboot_test import boot_nodes
    from builder.verify.finding import rows

    seen = boot_nodes(inventory, nodes, dest, options, timeout=timeout)
    if as_json:
        verdicts = {
            name: {"chain": _chain_json(seen.chains[name]), "verdict": verdict.as_json()}
            for name, verdict in seen.verdicts.items()
        }
        console.print_json({"ok": seen.ok, "nodes": verdicts, "identities": plain(seen.identities)})
    else:
        for name, findings in seen.findings.items():
            console.print_table(tables.FINDINGS, rows(findings), title=name)
    seen.require()


def explain_netboot(
    inventory: Inventory, nodes: Sequence[Node], dest: Path, *, server: str | None, as_json: bool
) -> None:
    """Be `pibuild boot --netboot --explain`: print what bootloaders ask for. Raises VerdictError when one stops."""
    from builder.lab.lab import LabOptions
    from builder.lab.netboot_test import ask, chains

    _explain(ask(nodes, server) if server else chains(inventory, nodes, dest, LabOptions()), as_json=as_json)


def _explain(reports: Mapping[str, BootReport], *, as_json: bool) -> None:
    from builder.firmware.simulate import explain

    if as_json:
        console.print_json({name: _chain_json(report) for name, report in reports.items()})
    else:
        for name, report in reports.items():
            console.print_table(tables.BOOTLOADER, explain(report), title=f"{name}: a {report.board}, {report.serial}")
            for note in report.notes:
                console.say(f"note: {note}")
            console.say(
                f"starts {report.kernel}: {report.cmdline}" if report.stop is None else f"STOPS: {report.stop.said}"
            )
    stopped = [f"{name}: {report.stop.said}" for name, report in reports.items() if report.stop is not None]
    options = " ".join(f"--node {name}" for name, report in reports.items() if report.stop is not None)
    if stopped:
        raise VerdictError(
            "a board would not start\n" + "\n".join(stopped), hint=f"sudo pibuild explode --fresh {options}"
        )


def _chain_json(report: BootReport) -> dict[str, object]:
    from builder.lab.machine import chain_json

    return chain_json(report)


@click.group(
    cls=Commands,
    epilog=example("sudo pibuild lab up yellow3", "sudo pibuild lab ssh yellow3", "sudo pibuild lab down"),
)
def lab() -> None:
    """Keep nodes running on this machine.

    A login node's network with its real servers, and machines that boot from it as boards do.
    """


@lab.command(
    epilog=example(
        "sudo pibuild explode --node yellow3 --node yellow4 --dest /tmp/netboot",
        "sudo pibuild lab up yellow3 yellow4 --dest /tmp/netboot",
    )
)
@selection
@cluster_option
@dest_option
@lab_options
@dry_run_option
@json_option
def up(
    chosen: Selection,
    cluster_file: Path | None,
    dest: Path | None,
    logs: Path | None,
    memory: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start the servers and each NODE, and leave them running; a lab that runs gets more nodes.

    Returns when the machines are on; they take a minute or two to answer. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.lab.daemon import check, start
    from builder.lab.lab import LabOptions
    from builder.netboot.explode import choose

    chosen.require()
    inventory = load_inventory(find_inventory(cluster_file))
    where = dest or Path(inventory.cluster.netboot)
    nodes = [node.name for node in choose(inventory, chosen.of(inventory))]
    if dry_run:
        check(inventory, nodes, where)
        tell({"nodes": nodes, "dry_run": True}, f"would start: {', '.join(nodes)}", as_json=as_json)
        return
    report = start(inventory, nodes, where, LabOptions(logs=logs, memory=memory))
    if as_json:
        console.print_json(report)
        return
    at = f" --dest {where}" if dest else ""
    for name, node in report["nodes"].items():
        console.say(f"{name}: {node['address']}, console in {node['console']}")
        console.say(shown(f"  sudo pibuild lab ssh {name}{at}"))
    console.say(shown(f"it ends with: sudo pibuild lab down{at}"))


@lab.command(epilog=example("sudo pibuild lab status", "sudo pibuild lab status --json | jq .nodes"))
@cluster_option
@dest_option
@table_options
def status(cluster_file: Path | None, dest: Path | None, as_json: bool) -> None:
    """Say what runs.

    Asks the servers as `pibuild services check` does: one that runs and does not answer is broken.
    """
    from builder.lab.daemon import status as read_status

    report = read_status(_where(cluster_file, dest))
    servers = report["servers"]
    if as_json:
        console.print_json(report)
    elif report["running"]:
        rows = [
            (name, node["address"], node["state"], node["starts"], node["console"])
            for name, node in report["nodes"].items()
        ]
        console.print_table(tables.LAB, rows)
        console.print_table(tables.LAB_SERVERS, [(name, one["state"], one["log"]) for name, one in servers.items()])
        for name, one in servers.items():
            if one["state"] == "broken":
                console.warn(f"{name} runs and does not serve: {one['seen']}; its log: {one['log']}")
        if ended := [name for name, one in servers.items() if one["state"] == "ended"]:
            console.warn(f"ended: {', '.join(ended)}; nodes wait for it: sudo pibuild lab down, then lab up")
    else:
        console.say("no lab runs")


@lab.command(
    epilog=example(
        "sudo pibuild lab ssh yellow3",
        "sudo pibuild lab ssh yellow3 sudo reboot",
    ),
    context_settings={"ignore_unknown_options": True},
)
@node_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@cluster_option
@dest_option
def ssh(name: str, command: tuple[str, ...], cluster_file: Path | None, dest: Path | None) -> None:
    """Log in on NODE, or run a command there, as from the login node. Needs root."""
    from builder.lab.daemon import log_in

    log_in(_where(cluster_file, dest), name, command)


@lab.command(epilog=example("sudo pibuild lab down", "sudo pibuild lab down --dest /tmp/netboot"))
@cluster_option
@dest_option
@dry_run_option
@json_option
def down(cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """End the lab: machines, servers, network.

    Keeps what nodes wrote to their roots. Needs root.
    """
    from builder.lab.daemon import status as read_status
    from builder.lab.daemon import stop

    where = _where(cluster_file, dest)
    ran = read_status(where, look=False)["running"] if dry_run else stop(where)
    said = f"the lab {'would be' if dry_run else 'is'} down" if ran else "no lab runs"
    tell({"ran": ran, "dry_run": dry_run}, said, as_json=as_json)


def _where(cluster_file: Path | None, dest: Path | None) -> Path:
    from builder.inventory.load import find_inventory, load_inventory

    return dest or Path(load_inventory(find_inventory(cluster_file)).cluster.netboot)

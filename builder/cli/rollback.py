"""The command that lets nodes boot what they booted before."""

from __future__ import annotations

from pathlib import Path

import click

from builder import console
from builder.cli import tables
from builder.cli.node import cluster_option, dest_option, require_done
from builder.cli.options import example, plain, table_options


@click.command(
    epilog=example(
        "sudo pibuild rollback yellow3",
        "ssh yellow3 sudo reboot",
        "sudo pibuild rollback --group yellow --to 0123456789ab",
        "sudo pibuild rollback --unhold yellow3",
    )
)
@click.argument("names", metavar="[NODE]...", nargs=-1)
@click.option("--group", metavar="GROUP", help="All nodes of a group.")
@click.option("--role", metavar="ROLE", help="All nodes of a role.")
@click.option("--all", "everything", is_flag=True, help="All nodes that boot over the network.")
@click.option(
    "--to", metavar="NAME", default="", help="A root, or the generation that one is made of, as tables name it."
)
@click.option("--unhold", is_flag=True, help="Change nothing of what they boot, let the next explode take them along.")
@cluster_option
@dest_option
@table_options
def rollback(
    names: tuple[str, ...],
    group: str | None,
    role: str | None,
    everything: bool,
    to: str,
    unhold: bool,
    cluster_file: Path | None,
    dest: Path | None,
    as_json: bool,
) -> None:
    """Let nodes boot what they booted before.

    They take it when they boot the next time, and stay with it whatever is exploded, until --unhold here or with
    explode. Once more goes back one further. A root is as its node left it: after a break-in, what a node wrote comes
    back with it, and explode --fresh is the way. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.explode import choose
    from builder.netboot.rollback import rollback as roll_back
    from builder.run import require_root

    if not (names or group or role or everything):
        raise click.UsageError("say which nodes: NODE, --group, --role or --all")
    if to and unhold:
        raise click.UsageError("--to goes back, --unhold releases: one of them")
    inventory = load_inventory(find_inventory(cluster_file))
    nodes = choose(inventory, inventory.select(names, role=role, group=group, everything=everything))
    require_root("rollback")
    done = roll_back(inventory, nodes, dest or Path(inventory.cluster.netboot), to=to, unhold=unhold)
    if as_json:
        console.print_json(plain(done))
    else:
        rows = [(row.node, row.left or "-", row.boots or "-", "held" if row.held else "-") for row in done]
        console.print_table(tables.ROLLED_BACK, rows)
    require_done({row.node: row.failed for row in done if row.failed}, of=len(done))

"""The command that lets nodes boot what they booted before."""

from __future__ import annotations

from pathlib import Path

import click

from builder import console
from builder.cli import tables
from builder.cli.explode import require_done
from builder.cli.options import cluster_option, dest_option, dry_run_option, example, plain, table_options
from builder.cli.selection import Selection, selection


@click.command(
    epilog=example(
        "sudo pibuild rollback yellow3",
        "ssh yellow3 sudo reboot",
        "sudo pibuild rollback --group yellow --to 0123456789ab",
        "sudo pibuild rollback --unhold yellow3",
    )
)
@selection
@click.option("--to", metavar="NAME", default="", help="A root, or the generation of one, as the tables name it.")
@click.option("--unhold", is_flag=True, help="Let the next explode take them along; change nothing that they boot.")
@cluster_option
@dest_option
@dry_run_option
@table_options
def rollback(
    chosen: Selection,
    to: str,
    unhold: bool,
    cluster_file: Path | None,
    dest: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let nodes boot what they booted before.

    They take it at their next boot, and stay with it whatever you explode, until --unhold (here or with explode). A
    second rollback goes back one more. A root is as its node left it: after a break-in use explode --fresh, as a
    rollback brings back what an attacker wrote. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.explode import choose
    from builder.netboot.rollback import rollback as roll_back
    from builder.run import require_root

    chosen.require()
    if to and unhold:
        raise click.UsageError("--to goes back, --unhold releases: one of them")
    inventory = load_inventory(find_inventory(cluster_file))
    nodes = choose(inventory, chosen.of(inventory))
    require_root("rollback")
    done = roll_back(inventory, nodes, dest or Path(inventory.cluster.netboot), to=to, unhold=unhold, dry_run=dry_run)
    if as_json:
        console.print_json(plain(done))
    else:
        rows = [(row.node, row.left or "-", row.boots or "-", "held" if row.held else "-") for row in done]
        console.print_table(tables.WOULD_ROLL_BACK if dry_run else tables.ROLLED_BACK, rows)
    require_done({row.node: row.failed for row in done if row.failed}, of=len(done))

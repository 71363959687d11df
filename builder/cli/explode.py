"""The command that makes nodes' roots and boot files from an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from builder import console
from builder.cli import tables
from builder.cli.options import (
    NamedFile,
    cluster_option,
    dest_option,
    dry_run_option,
    example,
    plain,
    progress_option,
    table_options,
)
from builder.cli.selection import Selection, selection

if TYPE_CHECKING:
    from builder.netboot.explode import Exploded


@click.command(
    epilog=example(
        "sudo pibuild explode yellow3 yellow4",
        "sudo pibuild explode --role worker --dry-run",
        "sudo pibuild explode --all --image output/golden/latest --dest /srv/netboot",
    )
)
@selection
@click.option(
    "--image",
    type=click.Path(exists=True, path_type=Path),
    help="Published directory or image file; default: output/IMAGE/latest, as the inventory names it.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "copy", "reflink", "shared"]),
    default="auto",
    show_default=True,
    help="How roots are made; auto: as the inventory says, else what the file system can.",
)
@click.option(
    "--attach",
    type=click.Choice(["auto", "kpartx", "loop", "files"]),
    default="auto",
    show_default=True,
    help="How the image is read: device-mapper, loop devices, or file tools alone.",
)
@click.option(
    "--authorized-key",
    "key_files",
    metavar="FILE",
    type=NamedFile(),
    multiple=True,
    help="Public keys that open the nodes beside the login node's; repeatable.",
)
@click.option("--fresh", is_flag=True, help="Make new roots, also for nodes whose root is up to date.")
@click.option("--unhold", is_flag=True, help="Take along nodes that a rollback holds.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Nodes at once; default: as many as processors.")
@cluster_option
@dest_option
@dry_run_option
@progress_option
@table_options
def explode(
    chosen: Selection,
    image: Path | None,
    method: Literal["auto", "copy", "reflink", "shared"],
    attach: Literal["auto", "kpartx", "loop", "files"],
    key_files: tuple[Path, ...],
    fresh: bool,
    unhold: bool,
    jobs: int | None,
    cluster_file: Path | None,
    dest: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make what each NODE boots from an image.

    Makes each node's next root and boot files, and switches the node to them. What a node runs from stays as it is: the
    node takes the new root when it boots. A root that exists is used again, with all that its node wrote there: after a
    break-in, --fresh makes a new one. If one node fails, the table says why (exit code 4), and the others are done.
    Needs root.
    """
    import os

    from builder.host.mounts import enter_namespaces
    from builder.host.named_file import read_named
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.dry_run import plan_explode
    from builder.netboot.explode import ExplodeOptions, choose
    from builder.netboot.explode import explode as explode_nodes
    from builder.run import require_root

    chosen.require()
    inventory = load_inventory(find_inventory(cluster_file))
    nodes = choose(inventory, chosen.of(inventory))
    keys = tuple(
        line for file in key_files for line in read_named(file).decode(errors="replace").splitlines() if line.strip()
    )
    at_once = jobs or os.cpu_count() or 1
    options = ExplodeOptions(
        image=image, method=method, attach=attach, keys=keys, fresh=fresh, unhold=unhold, jobs=at_once
    )
    where = dest or Path(inventory.cluster.netboot)
    require_root("explode")
    enter_namespaces()
    if dry_run:
        _print_exploded(plan_explode(inventory, nodes, where, options), as_json=as_json, would_be=where)
        return
    with console.progress(f"exploding {len(nodes)} node{'s' if len(nodes) > 1 else ''} to {where}"):
        done = explode_nodes(inventory, nodes, where, options)
    _print_exploded(done, as_json=as_json)


def _print_exploded(exploded: tuple[Exploded, ...], *, as_json: bool, would_be: Path | None = None) -> None:
    """Print what became of nodes, or would become of them in a directory. Raises StepError where one failed."""
    from builder.netboot.cost import cost_of
    from builder.netboot.explode import named

    dry_run = would_be is not None
    if as_json:
        console.print_json(plain(exploded))
    else:
        rows = [(row.node, row.action, row.way, row.before or "-", row.after or "-", row.serial) for row in exploded]
        console.print_table(tables.WOULD_EXPLODE if dry_run else tables.EXPLODED, rows)
        for row in exploded if dry_run else ():
            if row.changed:
                console.say(f"{row.node}: {', '.join(row.changed)}")
        if would_be is not None:
            for line in cost_of(exploded, would_be).lines(would_be):
                console.say(line)
    held = [row.node for row in exploded if row.action == "held"]
    if held:
        console.note(f"went back and stay there: {named(held)}; --unhold takes them along")
    others = "the others would be done" if dry_run else "the others are done"
    require_done({row.node: row.failed for row in exploded if row.failed}, of=len(exploded), others=others)


def require_done(failed: Mapping[str, str], *, of: int, others: str = "the others are done") -> None:
    """Raise StepError where something failed for a node."""
    from builder.errors import StepError

    if failed:
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        message = f"{len(failed)} of {of} nodes boot what they booted, {others}\n{reasons}"
        raise StepError(message, hint="pibuild explode --fresh makes a new root, whatever the node did to the old one")

"""The commands around backups: what there is of a node, bringing it back, new passwords, whom the gateway lets in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli import tables
from builder.cli.node import cluster_option, dest_option
from builder.cli.options import example, json_option, plain, progress_option, table_options

if TYPE_CHECKING:
    from builder.inventory.nodes import Inventory
    from builder.netboot.layout import Netboot

repository_option = click.option(
    "--repository",
    "base",
    metavar="WHERE",
    default="",
    help="Where the nodes' repositories are; default: cluster.backup.repository.",
)


@click.group(epilog=example("sudo pibuild backup list yellow3", "sudo pibuild backup rotate yellow3"))
def backup() -> None:
    """List nodes' backups, change their passwords.

    Nodes with `backup: true` make them by themselves, to where cluster.yaml says (cluster: backup:).
    """


@backup.command(
    "list",
    epilog=example(
        "sudo pibuild backup list yellow3",
        "sudo pibuild backup list yellow3 --repository /srv/backup --json",
    ),
)
@click.argument("node")
@repository_option
@cluster_option
@dest_option
@table_options
def list_snapshots(node: str, base: str, cluster_file: Path | None, dest: Path | None, as_json: bool) -> None:
    """List the snapshots of NODE.

    Needs root: the node's passwords are in its state.
    """
    from builder.backup.repository import repository, snapshots
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    require_root("backup list")
    found = snapshots(repository(inventory, netboot, inventory.node(node), base=base))
    if as_json:
        console.print_json(plain(found))
        return
    rows = [
        (one.id, one.time[:19].replace("T", " "), one.host, "-" if one.files is None else one.files, _size(one.size))
        for one in found
    ]
    console.print_table(tables.SNAPSHOTS, rows)


@backup.command(epilog=example("sudo pibuild backup rotate yellow3"))
@click.argument("node")
@cluster_option
@dest_option
@json_option
def rotate(node: str, cluster_file: Path | None, dest: Path | None, as_json: bool) -> None:
    """Give NODE new passwords for its backups.

    For its repository and for the gateway. The old ones open nothing any more. Whatever stops it on its way, running
    it again brings it to its end. Needs root; a node with a disk of its own has to be up.
    """
    from builder.backup.gateway import find_gateway
    from builder.backup.rotate import rotate as rotate_secrets
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    require_root("backup rotate")
    done = rotate_secrets(inventory, netboot, inventory.node(node), gateway=find_gateway(inventory, netboot))
    if as_json:
        console.print_json(plain(done))
        return
    got = [f"in {done.roots} roots"] if done.roots else []
    got += ["over ssh"] if done.pushed else []
    console.say(f"{done.node} has its new passwords: {' and '.join(got) or 'with the next explode'}")
    console.say(f"{done.removed} old keys removed" if done.repository else "it has backed up nothing yet")


@backup.command(epilog=example("sudo pibuild backup gateway"))
@cluster_option
@dest_option
@json_option
def gateway(cluster_file: Path | None, dest: Path | None, as_json: bool) -> None:
    """Tell the gateway which nodes to let in.

    All that are backed up, each to its own repository; a node that is gone is let in no more, its backups stay. Makes
    passwords for nodes that have none yet. Needs root.
    """
    from builder.backup.gateway import find_gateway, let_in
    from builder.errors import InputError, Problem
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    require_root("backup gateway")
    found = find_gateway(inventory, netboot)
    if found is None:
        hint = "cluster: backup: {gateway: NODE}; stores without one need no such thing"
        raise InputError(Problem(message=f"{inventory.path} names no gateway", hint=hint))
    names = let_in(inventory, netboot, found)
    if as_json:
        console.print_json(list(names))
    else:
        console.say(f"let in: {', '.join(names)}")


@click.command(
    epilog=example(
        "sudo pibuild restore yellow3 --to /tmp/yellow3",
        "sudo pibuild restore yellow3 --to /tmp/fstab --include /etc/fstab --snapshot 5f2c81aa",
        "# on the node itself: pibuild-restore --in-place --yes",
    )
)
@click.argument("node")
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new or empty directory.")
@click.option("--snapshot", default="latest", show_default=True, help="Which one; pibuild backup list NODE.")
@click.option("--include", metavar="PATH", multiple=True, help="Only this, as it is called on the node; repeatable.")
@repository_option
@cluster_option
@dest_option
@progress_option
@json_option
def restore(
    node: str,
    to: Path,
    snapshot: str,
    include: tuple[str, ...],
    base: str,
    cluster_file: Path | None,
    dest: Path | None,
    as_json: bool,
) -> None:
    """Bring a backup of NODE back.

    Into a directory of this machine, with owners and modes. Needs root.
    """
    from builder.backup.repository import repository
    from builder.backup.repository import restore as bring_back
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    require_root("restore")
    of = repository(inventory, netboot, inventory.node(node), base=base)
    with console.progress(f"restoring {of.node} from {of.url}"):
        files = bring_back(of, to, snapshot=snapshot, include=include)
    if as_json:
        console.print_json({"node": of.node, "snapshot": snapshot, "to": str(to), "files": files})
    else:
        console.say(f"{to}: {files} files")


def _cluster(cluster_file: Path | None, dest: Path | None) -> tuple[Inventory, Netboot]:
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.layout import Netboot

    inventory = load_inventory(find_inventory(cluster_file))
    return inventory, Netboot((dest or Path(inventory.cluster.netboot)).absolute())


def _size(count: int | None) -> str:
    return "-" if count is None else console.size(count)

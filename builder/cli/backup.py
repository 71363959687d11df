"""The commands of backups: list, restore, rotate passwords, let nodes in at the gateway."""

from __future__ import annotations

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
    progress_option,
    table_options,
    tell,
)
from builder.cli.selection import node_argument

if TYPE_CHECKING:
    from builder.inventory.nodes import Inventory
    from builder.netboot.layout import Netboot

repository_option = click.option(
    "--repository",
    "base",
    metavar="WHERE",
    default="",
    help="Place of the nodes' repositories; default: cluster.backup.repository.",
)


@click.group(cls=Commands, epilog=example("sudo pibuild backup list yellow3", "sudo pibuild backup rotate yellow3"))
def backup() -> None:
    """List nodes' backups, change their passwords.

    Nodes with `backup: true` push their backups by themselves, to cluster.backup.repository of cluster.yaml.
    """


@backup.command(
    "list",
    epilog=example(
        "sudo pibuild backup list yellow3",
        "sudo pibuild backup list yellow3 --repository /srv/backup --json",
    ),
)
@node_argument
@repository_option
@cluster_option
@dest_option
@table_options
def list_snapshots(name: str, base: str, cluster_file: Path | None, dest: Path | None, as_json: bool) -> None:
    """List the snapshots of NODE.

    Needs root: the node's passwords are in its state.
    """
    from builder.backup.repository import repository, snapshots
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    if not base and not inventory.node(name).backup:
        tell(
            [],
            f"{inventory.node(name).name} makes no backups: backup is off for it in {inventory.path}",
            "turn it on with backup: true, for the node, a group, a role or the defaults",
            as_json=as_json,
        )
        return
    require_root("backup list")
    found = snapshots(repository(inventory, netboot, inventory.node(name), base=base))
    if as_json:
        console.print_json(plain(found))
        return
    rows = [
        (one.id, one.time[:19].replace("T", " "), one.host, "-" if one.files is None else one.files, _size(one.size))
        for one in found
    ]
    console.print_table(tables.SNAPSHOTS, rows)


@backup.command(epilog=example("sudo pibuild backup rotate yellow3"))
@node_argument
@cluster_option
@dest_option
@dry_run_option
@json_option
def rotate(name: str, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Give NODE new passwords for its backups.

    For its repository and for the gateway; the old ones then open nothing. If something stops it, run it again: it
    finishes. Needs root; a node with a disk of its own must be up.
    """
    from builder.backup.gateway import find_gateway
    from builder.backup.repository import repository
    from builder.backup.rotate import rotate as rotate_secrets
    from builder.run import require_root

    inventory, netboot = _cluster(cluster_file, dest)
    require_root("backup rotate")
    if dry_run:
        of = repository(inventory, netboot, inventory.node(name))
        said = f"{of.node} would get new passwords for {of.url}; the old ones would open nothing any more"
        tell({"node": of.node, "repository": of.url, "dry_run": True}, said, as_json=as_json)
        return
    done = rotate_secrets(inventory, netboot, inventory.node(name), gateway=find_gateway(inventory, netboot))
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
@dry_run_option
@json_option
def gateway(cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Tell the gateway which nodes to let in.

    All nodes that are backed up, each to its own repository. A removed node is locked out, and its backups stay.
    Makes passwords for nodes that have none yet. Needs root.
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
    backed_up = tuple(node.name for node in inventory.nodes if node.backup)
    names = backed_up if dry_run else let_in(inventory, netboot, found)
    listed = ", ".join(names) or "no node: none has backup: true"
    tell(names, f"would let in: {listed}" if dry_run else f"let in: {listed}", as_json=as_json)


@click.command(
    epilog=example(
        "sudo pibuild restore yellow3 --to /tmp/yellow3",
        "sudo pibuild restore yellow3 --to /tmp/fstab --include /etc/fstab --snapshot 5f2c81aa",
        "# on the node itself: pibuild-restore --in-place --yes",
    )
)
@node_argument
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new or empty directory.")
@click.option("--snapshot", default="latest", show_default=True, help="One of pibuild backup list NODE.")
@click.option("--include", metavar="PATH", multiple=True, help="Restore only this path of the node; repeatable.")
@repository_option
@cluster_option
@dest_option
@dry_run_option
@progress_option
@json_option
def restore(
    name: str,
    to: Path,
    snapshot: str,
    include: tuple[str, ...],
    base: str,
    cluster_file: Path | None,
    dest: Path | None,
    dry_run: bool,
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
    of = repository(inventory, netboot, inventory.node(name), base=base)
    with console.progress(f"restoring {of.node} from {of.url}"):
        files = bring_back(of, to, snapshot=snapshot, include=include, dry_run=dry_run)
    facts = {"node": of.node, "snapshot": snapshot, "to": to, "files": files, "dry_run": dry_run}
    tell(facts, f"{to}: {files} files{' would come back' if dry_run else ''}", as_json=as_json)


def _cluster(cluster_file: Path | None, dest: Path | None) -> tuple[Inventory, Netboot]:
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.layout import Netboot

    inventory = load_inventory(find_inventory(cluster_file))
    return inventory, Netboot((dest or Path(inventory.cluster.netboot)).absolute())


def _size(count: int | None) -> str:
    return "-" if count is None else console.size(count)

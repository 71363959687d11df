"""The commands around nodes: explode an image to what they boot, go back, and keep the inventory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from builder import console
from builder.cli import tables
from builder.cli.options import NamedFile, ServedDirectory, example, plain, progress_option, table_options
from builder.cli.typed import shown

if TYPE_CHECKING:
    from builder.netboot.explode import Exploded
    from builder.netboot.layout import Netboot

cluster_option = click.option(
    "--cluster",
    "cluster_file",
    type=NamedFile(exists=False),
    help="The inventory; default: ./cluster.yaml, else /etc/pibuild/cluster.yaml.",
)
dest_option = click.option(
    "--dest",
    type=ServedDirectory(),
    help="Directory that nodes boot from; default: cluster.netboot of the inventory.",
)


@contextlib.contextmanager
def held_netboot(dest: Path | None, configured: str) -> Iterator[Netboot]:
    """Hold the directory that nodes boot from; one that the inventory names is begun.

    Raises InputError for a `--dest` that is none: what is made there, a token for one, would open nothing elsewhere.
    """
    from builder.netboot.layout import Netboot

    netboot = Netboot((dest or Path(configured)).absolute())
    with netboot.locked(begin=dest is None):
        yield netboot


dry_run_option = click.option("--dry-run", "-n", is_flag=True, help="Say what would change, change nothing.")


@click.command(
    epilog=example(
        "sudo pibuild explode --node yellow3",
        "sudo pibuild explode --role worker --dry-run",
        "sudo pibuild explode --all --image output/golden/latest --dest /srv/netboot",
    )
)
@click.option("--node", "names", metavar="NODE", multiple=True, help="A node, by name or alias; repeatable.")
@click.option("--role", metavar="ROLE", help="All nodes of a role.")
@click.option("--group", metavar="GROUP", help="All nodes of a group.")
@click.option("--all", "everything", is_flag=True, help="All nodes that boot over the network.")
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
@click.option("--fresh", is_flag=True, help="Make new roots even where nothing changed.")
@click.option("--unhold", is_flag=True, help="Nodes that went back (rollback) stay there: take them along again.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Nodes at once; default: as many as processors.")
@cluster_option
@dest_option
@dry_run_option
@progress_option
@table_options
def explode(
    names: tuple[str, ...],
    role: str | None,
    group: str | None,
    everything: bool,
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
    """Make what nodes boot from an image.

    Their next roots and boot files, each node's own, and the switch to them. What a node runs from is not touched:
    it takes the new root when it boots. Roots that are there are taken as they are, and their nodes write in them:
    after a break-in --fresh makes new ones. What fails for one node alone is in the table (exit code 4), and the
    others are done. Needs root.
    """
    import os

    from builder.host.mounts import enter_namespaces
    from builder.host.named_file import read_named
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.dry_run import plan_explode
    from builder.netboot.explode import ExplodeOptions, choose
    from builder.netboot.explode import explode as explode_nodes
    from builder.run import require_root

    if not (names or role or group or everything):
        raise click.UsageError("say which nodes: --node, --role, --group or --all")
    inventory = load_inventory(find_inventory(cluster_file))
    nodes = choose(inventory, inventory.select(names, role=role, group=group, everything=everything))
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
        _print_exploded(plan_explode(inventory, nodes, where, options), as_json=as_json, dry_run=True)
        return
    with console.progress(f"exploding {len(nodes)} node{'s' if len(nodes) > 1 else ''} to {where}"):
        done = explode_nodes(inventory, nodes, where, options)
    _print_exploded(done, as_json=as_json, dry_run=False)


def _print_exploded(exploded: tuple[Exploded, ...], *, as_json: bool, dry_run: bool) -> None:
    """Print what became of nodes. Raises StepError where one failed."""
    from builder.netboot.explode import named

    if as_json:
        console.print_json(plain(exploded))
    else:
        rows = [(row.node, row.action, row.way, row.before or "-", row.after or "-", row.serial) for row in exploded]
        console.print_table(tables.WOULD_EXPLODE if dry_run else tables.EXPLODED, rows)
        for row in exploded if dry_run else ():
            if row.changed:
                console.say(f"{row.node}: {', '.join(row.changed)}")
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
        raise StepError(
            message, hint="pibuild explode --fresh makes a node's root anew, whatever it made of the old one"
        )


@click.group(epilog=example("pibuild node list", "pibuild node explain yellow3"))
def node() -> None:
    """List, explain and edit the nodes.

    What cluster.yaml, the inventory, says of them.
    """


@node.command("list", epilog=example("pibuild node list", "pibuild node list --json"))
@cluster_option
@table_options
def list_nodes(cluster_file: Path | None, as_json: bool) -> None:
    """List the nodes."""
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.layout import Netboot

    inventory = load_inventory(find_inventory(cluster_file))
    netboot, nodes = Netboot(Path(inventory.cluster.netboot)), inventory.nodes
    held = {each.name: netboot.held(each.name) for each in nodes}
    if as_json:
        console.print_json([{**_fields(plain(each)), "held": held[each.name]} for each in nodes])
        return
    rows = [
        (
            *(each.name, each.serial, each.mac, each.address, each.port or "-", each.role, each.board),
            f"{each.boot}, held at {held[each.name]}" if held[each.name] else each.boot,
        )
        for each in nodes
    ]
    console.print_table(tables.NODES, rows)


def _fields(written: Mapping[str, object]) -> dict[str, object]:
    return {key: str(value) if key == "address" else value for key, value in written.items() if key != "mark"}


@node.command(epilog=example("pibuild node explain yellow3"))
@click.argument("name", metavar="NODE")
@cluster_option
@table_options
def explain(name: str, cluster_file: Path | None, as_json: bool) -> None:
    """Say where each value of NODE comes from."""
    from builder.inventory.explain import explain as explain_node
    from builder.inventory.load import find_inventory
    from builder.inventory.read import read_inventory

    read = read_inventory(find_inventory(cluster_file))
    rows = explain_node(read, read.inventory.node(name))
    if as_json:
        console.print_json([{**plain(row), "mark": str(row.mark) if row.mark else None} for row in rows])
        return
    shown = [(row.field, _shown(row.value), row.why, row.mark or "") for row in rows]
    console.print_table(tables.EXPLAINED, shown)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@node.command(
    "import",
    epilog=example(
        "# a line a node: NAME MAC SERIAL IP",
        "pibuild node import pi_info.txt",
        "pibuild node import pi_info.txt --role worker --cluster cluster.yaml",
    ),
)
@click.argument("file", type=NamedFile())
@click.option(
    "--role", type=click.Choice(["master", "worker"]), default="worker", show_default=True, help="Of them all."
)
@cluster_option
def import_nodes(file: Path, role: str, cluster_file: Path | None) -> None:
    """Add the nodes of a pi_info.txt.

    Nodes of FILE that the inventory has already, by name, are left out.
    """
    from builder.inventory.edit import add_nodes
    from builder.inventory.load import find_inventory, load_inventory
    from builder.inventory.names import hostname
    from builder.inventory.pi_info import import_pi_info

    path = find_inventory(cluster_file)
    known = {each.name for each in load_inventory(path).nodes}
    found = import_pi_info(file, role=role)
    new = tuple(each for each in found if hostname(each.name) not in known)
    for each in found:
        if each not in new:
            console.note(f"{each.name}: is there already")
    if new:
        add_nodes(path, new)
    console.say(f"{path}: {len(new)} nodes added")


@node.command(
    epilog=example(
        "pibuild node add yellow9 --serial 0a1b2c3d --mac e4:5f:01:f5:f1:99 --address 192.168.2.36 --group yellow",
    )
)
@click.argument("name", metavar="NODE")
@click.option("--serial", required=True, help="8 hex digits: cat /proc/cpuinfo | grep Serial")
@click.option("--mac", required=True, help="Of its Ethernet port.")
@click.option("--address", required=True, help="Its IPv4 address.")
@click.option("--role", type=click.Choice(["master", "worker"]), default="worker", show_default=True, help="Its role.")
@click.option("--group", "groups", multiple=True, help="A group it is in; repeatable.")
@click.option("--port", type=int, help="Port of the switch it hangs on.")
@cluster_option
def add(
    name: str,
    serial: str,
    mac: str,
    address: str,
    role: str,
    groups: tuple[str, ...],
    port: int | None,
    cluster_file: Path | None,
) -> None:
    """Add NODE to the inventory."""
    from builder.inventory.edit import add_nodes
    from builder.inventory.load import find_inventory
    from builder.inventory.pi_info import NewNode

    fields: dict[str, object] = {"port": port} if port is not None else {}
    fields |= {"role": role, **({"groups": list(groups)} if groups else {})}
    path = find_inventory(cluster_file)
    add_nodes(path, [NewNode(name=name, serial=serial, mac=mac, address=address, fields=fields)])
    console.say(shown(f"{path}: {name} added; sudo pibuild explode --node {name}"))


@node.command(epilog=example("sudo pibuild node remove yellow3", "sudo pibuild node remove yellow3 --delete-state"))
@click.argument("name", metavar="NODE")
@click.option("--keep-state/--delete-state", default=True, show_default=True, help="What becomes of its identity.")
@cluster_option
@dest_option
def remove(name: str, keep_state: bool, cluster_file: Path | None, dest: Path | None) -> None:
    """Take NODE out of the inventory, and what it boots away.

    On a server whose files are as the inventory says, its reservation, lease and exports go too; else it says what to
    type. A NODE that is no longer in the inventory is tidied up after. Needs root where the node has been exploded.
    """
    from builder.errors import InputError
    from builder.inventory.edit import remove_node
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.gc import leftovers, withdraw
    from builder.printable import one_line
    from builder.run import require_root
    from builder.services.withdraw import follow, in_step

    path = find_inventory(cluster_file)
    inventory = load_inventory(path)
    where = dest or Path(inventory.cluster.netboot)
    if where.is_dir():
        require_root("node remove")
    try:
        removed = inventory.node(name).name
    except InputError:
        removed = _hostname(name)
        if not removed or not leftovers(where, removed, keep_state=keep_state):
            raise
        console.note(f"{removed} is not in {path}: removing what it left")
    else:
        role = in_step(inventory)
        remove_node(path, name)
        follow(load_inventory(path), role)
    gone = withdraw(where, removed, keep_state=keep_state) if where.is_dir() else ()
    for each in gone:
        console.note(f"removed {one_line(each)}")
    console.say(f"{path}: {removed} removed")


def _hostname(name: str) -> str:
    from builder.inventory.names import hostname

    try:
        return hostname(name)
    except ValueError:
        return ""


@node.command(epilog=example("sudo pibuild node rename yellow3 blue1", "sudo pibuild explode --node blue1"))
@click.argument("name", metavar="NODE")
@click.argument("new")
@cluster_option
@dest_option
def rename(name: str, new: str, cluster_file: Path | None, dest: Path | None) -> None:
    """Give NODE another name.

    Its identity goes with it now, what it keeps when it is exploded under the NEW one, which it then has to be, as the
    exports change names too. What it runs from goes on working until it boots.
    """
    from builder.inventory.edit import rename_node
    from builder.inventory.load import find_inventory, load_inventory
    from builder.inventory.names import hostname
    from builder.netboot.gc import rename_state
    from builder.run import require_root

    path = find_inventory(cluster_file)
    inventory = load_inventory(path)
    renamed = inventory.node(name)
    where = dest or Path(inventory.cluster.netboot)
    if where.is_dir():
        require_root("node rename")
        rename_state(where, renamed.name, hostname(new), then=lambda: rename_node(path, name, new))
    else:
        rename_node(path, name, new)
    console.say(f"{path}: {renamed.name} is {hostname(new)} now")
    if renamed.boot == "network":
        console.say(shown(f"next: sudo pibuild explode --node {hostname(new)}"))
        console.say(shown("then, on each server: sudo pibuild services apply; then restart the node"))


@node.command(epilog=example("sudo pibuild node gc --dry-run", "sudo pibuild node gc --keep-days 1"))
@click.option(
    "--keep-days",
    metavar="N",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Keep roots that a node has left since.",
)
@cluster_option
@dest_option
@dry_run_option
@table_options
def gc(keep_days: int, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove roots and generations that no node uses.

    What a node boots, what it would go back to, and what it was last seen to start from stay. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.gc import collect
    from builder.run import require_root

    require_root("node gc")
    where = dest or Path(load_inventory(find_inventory(cluster_file)).cluster.netboot)
    found = collect(where, keep_days=keep_days, dry_run=dry_run)
    if as_json:
        console.print_json(plain(found))
    else:
        console.print_table(tables.NODE_GC, [(each.path, each.why) for each in found])

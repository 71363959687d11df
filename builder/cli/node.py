"""The commands around the inventory: list, explain and edit nodes, and remove what none of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from builder import console
from builder.cli import tables
from builder.cli.names import Commands
from builder.cli.options import (
    NamedFile,
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

_role_option = click.option(
    "--role",
    type=click.Choice(["master", "worker"]),
    default="worker",
    show_default=True,
    help="The role of what is added.",
)


@click.group(cls=Commands, epilog=example("pibuild node list", "pibuild node explain yellow3"))
def node() -> None:
    """List, explain and edit the nodes.

    The nodes of cluster.yaml, the inventory.
    """


@node.command("list", epilog=example("pibuild node list", "pibuild node list --group yellow --json"))
@selection
@cluster_option
@table_options
def list_nodes(chosen: Selection, cluster_file: Path | None, as_json: bool) -> None:
    """List the nodes: all, or those that are named."""
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.layout import Netboot

    inventory = load_inventory(find_inventory(cluster_file))
    netboot, nodes = Netboot(Path(inventory.cluster.netboot)), chosen.of(inventory)
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
@node_argument
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
    shown = [(row.field, _shown(plain(row.value)), row.why, row.mark or "") for row in rows]
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
        "pibuild node import pi_info.txt --role worker --dry-run",
    ),
)
@click.argument("file", type=NamedFile())
@_role_option
@cluster_option
@dry_run_option
@json_option
def import_nodes(file: Path, role: str, cluster_file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Add the nodes of a pi_info.txt.

    Skips nodes whose name the inventory has already.
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
        add_nodes(path, new, dry_run=dry_run)
    facts = {"inventory": path, "added": [each.name for each in new], "dry_run": dry_run}
    tell(facts, f"{path}: {len(new)} nodes {'would be ' if dry_run else ''}added", as_json=as_json)


@node.command(
    epilog=example(
        "pibuild node add yellow9 --serial 0a1b2c3d --mac e4:5f:01:f5:f1:99 --address 192.168.2.36 --group yellow",
    )
)
@click.argument("name", metavar="NODE")
@click.option("--serial", required=True, help="8 hex digits: cat /proc/cpuinfo | grep Serial")
@click.option("--mac", required=True, help="MAC address of its Ethernet port.")
@click.option("--address", required=True, help="Its IPv4 address.")
@_role_option
@click.option("--group", "groups", multiple=True, help="A group it is in; repeatable.")
@click.option("--port", type=int, help="Port of the switch that it is plugged into.")
@cluster_option
@dry_run_option
@json_option
def add(
    name: str,
    serial: str,
    mac: str,
    address: str,
    role: str,
    groups: tuple[str, ...],
    port: int | None,
    cluster_file: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add NODE to the inventory."""
    from builder.inventory.edit import add_nodes
    from builder.inventory.load import find_inventory
    from builder.inventory.pi_info import NewNode

    fields: dict[str, object] = {"port": port} if port is not None else {}
    fields |= {"role": role, **({"groups": list(groups)} if groups else {})}
    path = find_inventory(cluster_file)
    new = NewNode(name=name, serial=serial, mac=mac, address=address, fields=fields)
    add_nodes(path, [new], dry_run=dry_run)
    said = f"{name} would be added" if dry_run else f"{name} added; sudo pibuild explode {name}"
    tell({"inventory": path, "added": [name], "dry_run": dry_run}, f"{path}: {said}", as_json=as_json)


@node.command(epilog=example("sudo pibuild node remove yellow3 --dry-run", "sudo pibuild node remove yellow3"))
@node_argument
@click.option(
    "--keep-state/--delete-state",
    default=True,
    show_default=True,
    help="What becomes of its host keys, passwords and tokens.",
)
@cluster_option
@dest_option
@dry_run_option
@json_option
def remove(
    name: str, keep_state: bool, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Remove NODE from the inventory, with its roots.

    On a server whose files are as the inventory says, its reservation, lease and exports go too; on others it says what
    to type. For a NODE that is no longer in the inventory, removes what is left of it. Needs root where it has roots.
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
        remove_node(path, name, dry_run=dry_run)
        if not dry_run:
            follow(load_inventory(path), role)
    take_away = leftovers if dry_run else withdraw
    gone = take_away(where, removed, keep_state=keep_state) if where.is_dir() else ()
    would = "would be " if dry_run else ""
    for each in gone:
        console.note(f"{would}removed {one_line(each)}")
    facts = {"inventory": path, "removed": removed, "paths": gone, "dry_run": dry_run}
    tell(facts, f"{path}: {removed} {would}removed", as_json=as_json)


def _hostname(name: str) -> str:
    from builder.inventory.names import hostname

    try:
        return hostname(name)
    except ValueError:
        return ""


@node.command(epilog=example("sudo pibuild node rename yellow3 blue1", "sudo pibuild explode blue1"))
@node_argument
@click.argument("new")
@cluster_option
@dest_option
@dry_run_option
@json_option
def rename(name: str, new: str, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Give NODE another name.

    Its identity moves at once; what it keeps moves with the next explode of NEW, which must follow, as the names of its
    exports change too. What it runs from keeps working until it boots.
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
    if where.is_dir() and not dry_run:
        rename_state(where, renamed.name, hostname(new), then=lambda: rename_node(path, name, new))
    else:
        rename_node(path, name, new, dry_run=dry_run)
    facts = {"inventory": path, "node": renamed.name, "name": hostname(new), "dry_run": dry_run}
    lines = [f"{path}: {renamed.name} {'would be' if dry_run else 'is'} {hostname(new)} {'then' if dry_run else 'now'}"]
    if renamed.boot == "network" and not dry_run:
        lines += [f"next: sudo pibuild explode {hostname(new)}"]
        lines += ["then, on each server: sudo pibuild services apply; then restart the node"]
    tell(facts, *lines, as_json=as_json)


@node.command(epilog=example("sudo pibuild node gc --dry-run", "sudo pibuild node gc --keep-days 1"))
@click.option(
    "--keep-days",
    metavar="N",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Keep roots that a node left in the last N days.",
)
@cluster_option
@dest_option
@dry_run_option
@table_options
def gc(keep_days: int, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove roots and generations that no node uses.

    Keeps what a node boots, what it would go back to, and what it last started from. Needs root.
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

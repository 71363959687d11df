"""The commands of the fleet manager: serve, list reports, print a node's token."""

from __future__ import annotations

import re
import time
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
    unread_dest_option,
)
from builder.cli.selection import Selection, node_argument, selection
from builder.cli.tokens import held_netboot, seen_netboot, tell_of_token

_database_option = click.option(
    "--database",
    type=NamedFile(exists=False),
    default=Path("/var/lib/pibuild-fleet/fleet.db"),
    show_default=True,
    help="SQLite file with the nodes' reports.",
)

# click would ask access(2), which knows nothing of the unit's CAP_DAC_READ_SEARCH
_FILE = NamedFile(readable=False)


def _listen(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    address, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 0 <= int(port) < 1 << 16:
        raise click.BadParameter(f"{value!r} is not ADDRESS:PORT")
    return address.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - said in the option's help


@click.group(cls=Commands, epilog=example("sudo pibuild fleet serve", "pibuild fleet list"))
def fleet() -> None:
    """Know which nodes run, and how they are.

    Nodes register on their first boot and then report (part bootstrap of an image). They boot without the manager, too.
    """


@fleet.command(
    epilog=example(
        "sudo pibuild fleet serve --listen 192.168.2.1:9340",
        "sudo pibuild fleet serve --certificate fleet.pem --key fleet.key",
    )
)
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    default="0.0.0.0:9340",
    show_default=True,
    callback=_listen,
    help="Where to listen; without an address on all.",
)
@click.option("--certificate", type=_FILE, help="Certificate for TLS, in PEM.")
@click.option("--key", type=_FILE, help="Key of the certificate, in PEM.")
@_database_option
@cluster_option
@unread_dest_option
def serve(
    listen: tuple[str, int],
    certificate: Path | None,
    key: Path | None,
    database: Path,
    cluster_file: Path | None,
    dest: Path | None,
) -> None:
    """Take the nodes' reports until it is stopped.

    The token in a node's state, which `pibuild explode` made, lets the node in. Reading it takes root, or the unit that
    `pibuild services apply` installs.
    """
    import os

    from builder.errors import HostError
    from builder.fleet.reports import Database, Tokens
    from builder.fleet.server import FleetServer
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.layout import Netboot

    if bool(certificate) != bool(key):
        raise click.UsageError("--certificate and --key go together")
    state = Netboot(dest or Path(load_inventory(find_inventory(cluster_file)).cluster.netboot)).state
    try:
        os.listdir(state)  # noqa: PTH208 - not access(2): that asks for the user, not for CAP_DAC_READ_SEARCH
    except OSError as error:
        hint = "sudo; and explode a node before: that makes the tokens"
        raise HostError(f"the nodes' tokens in {state} cannot be read", hint=hint) from error
    store = Database(database)
    store.create()
    with FleetServer(listen, store, Tokens(state)) as server:
        if certificate and key:
            server.secure(certificate, key)
        address, port = server.server_address[:2]
        console.note(f"listening on {address!s}:{port}, reports go to {database}")
        server.serve_forever()


@fleet.command(
    "list",
    epilog=example("pibuild fleet list", "pibuild fleet list --json | jq '.[] | select(.health != \"ok\")'"),
)
@selection
@_database_option
@cluster_option
@table_options
def list_fleet(chosen: Selection, database: Path, cluster_file: Path | None, as_json: bool) -> None:
    """List the nodes: seen when, running what.

    Also those of the inventory that have never reported.
    """
    from builder.fleet.reports import Database, listed
    from builder.inventory.load import find_inventory, load_inventory

    now = time.time()
    inventory = load_inventory(find_inventory(cluster_file))
    wanted = {node.name for node in chosen.of(inventory)}
    rows = [row for row in listed(inventory, Database(database).known(), now) if not chosen.given or row.node in wanted]
    if as_json:
        console.print_json(plain(rows))
        return
    shown = [
        (
            row.node,
            _ago(row.last, now),
            row.health,
            row.root or row.image[:12] or "-",
            row.kernel or "-",
            ", ".join(f"{name} {version}" for name, version in row.models.items()) or "-",
            row.serial,
        )
        for row in rows
    ]
    console.print_table(tables.FLEET, shown)


def _ago(last: float | None, now: float) -> str:
    if last is None:
        return "never"
    seconds = max(0, int(now - last))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


@fleet.command(
    epilog=example(
        "sudo pibuild fleet token yellow3 |",
        "  ssh yellow3 sudo install -D -m 600 /dev/stdin /etc/pibuild/fleet-token",
    )
)
@node_argument
@cluster_option
@dest_option
@dry_run_option
@json_option
def token(name: str, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Print the token of NODE.

    For a node with a disk of its own, which explode does not reach: bring it to the node's /etc/pibuild/fleet-token.
    Makes a token if the node has none yet. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.netboot.state import make_state
    from builder.run import require_root

    inventory = load_inventory(find_inventory(cluster_file))
    node = inventory.node(name)
    require_root("fleet token")
    if dry_run:
        seen = seen_netboot(dest, inventory.cluster.netboot)
        tell_of_token(node.name, seen.state / node.name / "fleet-token", as_json=as_json)
        return
    with held_netboot(dest, inventory.cluster.netboot) as netboot:
        make_state(netboot, (node,))
    made = (netboot.state / node.name / "fleet-token").read_text().strip()
    tell({"node": node.name, "token": made}, made, as_json=as_json)

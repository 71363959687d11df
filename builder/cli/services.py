"""The commands of the login and backup nodes' servers: render, diff, apply, check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from builder import console
from builder.cli import tables
from builder.cli.names import Commands
from builder.cli.options import Function, cluster_option, dry_run_option, example, json_option, plain, table_options
from builder.cli.rendered import print_changes, write_files

if TYPE_CHECKING:
    from builder.services.files import ConfigFile, Serving


_SERVERS = click.Choice(["login", "backup"])


def _remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    context.meta["builder.services.role"] = value


def _server(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    former: str | None = context.meta.get("builder.services.role")
    return former or value


def _server_option(default: str | None, told: str) -> Callable[[Function], Function]:
    """Make --for, and --role as it was called before it meant the role of nodes everywhere else."""
    former = click.option(
        "--role", type=_SERVERS, hidden=True, is_eager=True, expose_value=False, callback=_remember, help="As --for."
    )
    named = click.option(
        "--for", "role", type=_SERVERS, default=default, show_default=bool(default), callback=_server, help=told
    )
    return lambda command: named(former(command))


def _inventory_options(command: Function) -> Function:
    """Add what all commands here take: --for and --cluster."""
    return _server_option("login", "Which server.")(cluster_option(command))


_root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Directory that stands for the server's /; no server is reloaded then.",
)


@click.group(
    cls=Commands,
    epilog=example(
        "pibuild services diff --for login",
        "sudo pibuild services apply --for login",
    ),
)
def services() -> None:
    """Configure the servers nodes boot from.

    DHCP, TFTP, NFS exports, NAT, hosts and ssh files of the login and the backup node, from the inventory. Both give a
    board the same address and send it to the login node: the backup node has no roots and boot files to take over with.
    """


@services.command(
    epilog=example(
        "pibuild services render --for backup -o /tmp/backup",
        "pibuild services render --json | jq -r '.[].path'",
    )
)
@_inventory_options
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), help="Directory; default: stdout.")
@json_option
def render(role: Literal["login", "backup"], cluster_file: Path | None, output: Path | None, as_json: bool) -> None:
    """Write the servers' files to a directory.

    Of a file like /etc/hosts, only pibuild's own part. Needs no root.
    """
    _, files = _files(role, cluster_file)
    write_files(files, output, as_json=as_json)


@services.command(
    epilog=example(
        "pibuild services diff --for login",
        "pibuild services diff --for backup --json | jq -r '.[].path'",
    )
)
@_inventory_options
@_root_option
@json_option
def diff(role: Literal["login", "backup"], cluster_file: Path | None, root: Path, as_json: bool) -> None:
    """Say what an apply would change.

    Compares with the files of this machine. Needs root only for files that are closed to you.
    """
    from builder.services.apply import compare

    _, files = _files(role, cluster_file)
    print_changes(compare(files, root), as_json=as_json)


@services.command(
    epilog=example(
        "sudo pibuild services check",
        "sudo pibuild services check --nodes",
        "sudo pibuild services check --for login   # on the backup node, when the login node seems dead",
        "sudo pibuild services check --json | jq -r '.[] | select(.result == \"broken\") | .hint'",
    )
)
@_server_option(None, "Which server; default: the one this machine is.")
@cluster_option
@_root_option
@click.option("--nodes", is_flag=True, help="Also ask every node whether its ssh answers.")
@table_options
def check(
    role: Literal["login", "backup"] | None, cluster_file: Path | None, root: Path, nodes: bool, as_json: bool
) -> None:
    """Say which part of a server is broken, and what to type.

    Sends the requests that boards send: for every node's address (DHCP), config.txt (TFTP) and root (NFS). Checks
    disks, clock, names, files, keys and address translation of the machine itself. Changes nothing. What it cannot see,
    from elsewhere or without root, is unknown, not ok. Exits with 6 when something is broken. With --json every check
    has the keys check, result (ok, broken, unknown, warning, note), seen and hint.
    """
    from builder.errors import VerdictError
    from builder.inventory.load import find_inventory, load_inventory
    from builder.services.files import serving
    from builder.services.probe import ask
    from builder.services.record import served_as
    from builder.verify.finding import rows

    inventory = load_inventory(find_inventory(cluster_file))
    found = ask(serving(inventory, role or served_as(root) or "login"), root, nodes=nodes)
    if as_json:
        console.print_json(plain(found))
    else:
        console.print_table(tables.FINDINGS, rows(found))
    broken = [one for one in found if one.broken]
    if broken:
        names = ", ".join(dict.fromkeys(one.check for one in broken))
        first, *more = [f"{one.check}: {one.hint}" for one in broken]
        raise VerdictError(f"broken: {names}", hint="\n      ".join([first, *more]))


@services.command(
    epilog=example(
        "sudo pibuild services apply --for login",
        "pibuild services apply --for backup --root /mnt/backup",
    )
)
@_inventory_options
@_root_option
@dry_run_option
@json_option
def apply(
    role: Literal["login", "backup"], cluster_file: Path | None, root: Path, dry_run: bool, as_json: bool
) -> None:
    """Replace the servers' files and reload.

    Before it changes anything, it names missing packages, and the servers' own checkers read the new files. If a server
    refuses them, the old files come back and the servers are reloaded; new directories stay, and removed leases stay
    removed. Removes files of an earlier apply that no server needs any more. Copies what was there to
    /var/backups/pibuild/services. Needs root.
    """
    from builder.run import require_root
    from builder.services.apply import apply as apply_files
    from builder.services.apply import compare
    from builder.services.check import say_checked
    from builder.services.files import shortcoming
    from builder.services.live_disk import sharing
    from builder.services.record import note_role
    from builder.services.tell import Servers

    here, files = _files(role, cluster_file)
    if dry_run:
        print_changes(compare(files, root), as_json=as_json)
        return
    live = root == Path("/")
    if live:
        require_root("services apply")
    servers = Servers(here=here) if live else None
    applied = apply_files(files, root, servers=servers)
    note_role(root, role)
    for told in (shortcoming(here), *(sharing(here) if live else ())):
        if told:
            console.warn(told)
    commands = servers.said if servers else []
    if as_json:
        changes = [{"path": str(change.path), "kind": change.kind} for change in applied.changes]
        console.print_json({**plain(applied), "changes": changes, "commands": plain(commands)})
        return
    say_checked(applied.checked)
    for change in applied.changes:
        console.say(f"{change.kind}: {change.path}")
    for command in commands:
        console.say(f"ran: {' '.join(command)}")
    console.say(f"what was there before: {applied.backup}" if applied.backup else "nothing to change")


def _files(role: Literal["login", "backup"], cluster_file: Path | None) -> tuple[Serving, tuple[ConfigFile, ...]]:
    from builder.inventory.load import find_inventory, load_inventory
    from builder.services.files import serving
    from builder.services.render import render as render_files

    inventory = load_inventory(find_inventory(cluster_file))
    return serving(inventory, role), render_files(inventory, role)

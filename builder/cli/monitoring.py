"""The commands for what watches the cluster: the store, the rules and the alerts, from the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.names import Commands
from builder.cli.options import Function, cluster_option, example, json_option
from builder.cli.rendered import print_changes, write_files

if TYPE_CHECKING:
    from builder.services.files import ConfigFile


def _server_options(command: Function) -> Function:
    """Add what all commands here take: --role and --cluster."""
    told = "The one node of this role is the server; default: cluster.monitoring.server, else the master."
    role = click.option("--role", type=click.Choice(["login", "backup", "master", "worker"]), help=told)
    return role(cluster_option(command))


@click.group(
    cls=Commands,
    epilog=example("pibuild monitoring render -o /tmp/watch", "pibuild monitoring diff"),
)
def monitoring() -> None:
    """Configure what watches the cluster.

    The store of metrics and what it reads, the rules of alerts, and whom Alertmanager wakes: for the server that
    cluster.monitoring names. What each alert means and what to do then: docs/runbooks.md.
    """


@monitoring.command(
    epilog=example(
        "pibuild monitoring render --role master -o /tmp/watch",
        "pibuild monitoring render --json | jq -r '.[].path'",
    )
)
@_server_options
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), help="Directory; default: stdout.")
@json_option
def render(role: str | None, cluster_file: Path | None, output: Path | None, as_json: bool) -> None:
    """Write the monitoring server's files to a directory.

    Needs no root.
    """
    write_files(_files(role, cluster_file), output, as_json=as_json)


@monitoring.command(
    epilog=example(
        "pibuild monitoring diff",
        "pibuild monitoring diff --root /tmp/watch   # what a change of the inventory changes, rendered there before",
    )
)
@_server_options
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Directory that stands for the server's /.",
)
@json_option
def diff(role: str | None, cluster_file: Path | None, root: Path, as_json: bool) -> None:
    """Say in what the monitoring server's files differ from those of this machine.

    Needs no root as long as they can be read.
    """
    from builder.services.apply import differing

    print_changes(differing(_files(role, cluster_file), root), as_json=as_json)


def _files(role: str | None, cluster_file: Path | None) -> tuple[ConfigFile, ...]:
    from builder.inventory.load import find_inventory, load_inventory
    from builder.services.watch import render as render_files
    from builder.services.watch import watching

    inventory = load_inventory(find_inventory(cluster_file))
    return render_files(inventory, watching(inventory, role))

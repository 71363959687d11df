"""The commands of metrics: tokens, and who may write to the store under which name."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.names import Commands
from builder.cli.options import cluster_option, dest_option, dry_run_option, example, json_option, tell
from builder.cli.selection import node_argument
from builder.cli.tokens import held_netboot, seen_netboot, tell_of_token


@click.group(
    cls=Commands,
    epilog=example("sudo pibuild metrics token pi-login", "sudo pibuild metrics vmauth -o /etc/vmauth.yml"),
)
def metrics() -> None:
    """Give forwarders of metrics their credentials.

    Each node's token is part of its state, and explode brings it to the node. To rotate one, replace the file
    remote-write.token there, explode the node with --fresh, and render vmauth's configuration again.
    """


@metrics.command(
    epilog=example(
        "# a forwarder that is not exploded, as the login node",
        "sudo pibuild metrics token pi-login |",
        "  sudo install -D -m 600 /dev/stdin /etc/pibuild/secrets/remote-write.token",
    )
)
@node_argument
@cluster_option
@dest_option
@dry_run_option
@json_option
def token(name: str, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool) -> None:
    """Print the token that NODE writes its metrics with.

    Makes one if the node has none yet. Needs root.
    """
    from builder.inventory.load import find_inventory, load_inventory
    from builder.monitoring.forwarder import TOKEN
    from builder.netboot.state import write_tokens
    from builder.run import require_root

    inventory = load_inventory(find_inventory(cluster_file))
    named = inventory.node(name)
    require_root("metrics token")
    if dry_run:
        seen = seen_netboot(dest, inventory.cluster.netboot)
        tell_of_token(named.name, seen.state / named.name / TOKEN, as_json=as_json)
        return
    with held_netboot(dest, inventory.cluster.netboot) as netboot:
        made = write_tokens(netboot, (named,))[named.name]
    tell({"node": named.name, "token": made}, made, as_json=as_json)


@metrics.command(
    epilog=example(
        "sudo pibuild metrics vmauth --store http://127.0.0.1:8428 --output /etc/vmauth.yml",
        "# where the part store-victoria-metrics is not: what vmauth says of itself is for its machine alone",
        "vmauth -auth.config=/etc/vmauth.yml -httpInternalListenAddr=127.0.0.1:8426 -tls -tlsCertFile=… -tlsKeyFile=…",
    )
)
@click.option("--store", default="http://127.0.0.1:8428", show_default=True, help="URL of the store behind vmauth.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write, readable by its owner alone.",
)
@cluster_option
@dest_option
@dry_run_option
@json_option
def vmauth(
    store: str, output: Path, cluster_file: Path | None, dest: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Write vmauth's configuration: who may write, and under which name.

    Every forwarder of the inventory writes with its own token, and only its own node's metrics (a site agent: its
    site's). Needs root.
    """
    from builder.host.files import write
    from builder.inventory.load import find_inventory, load_inventory
    from builder.inventory.nodes import FORWARDING
    from builder.monitoring.forwarder import gateway
    from builder.netboot.state import write_tokens
    from builder.run import require_root

    inventory = load_inventory(find_inventory(cluster_file))
    require_root("metrics vmauth")
    forwarding = tuple(node for node in inventory.nodes if node.metrics.mode in FORWARDING)
    if dry_run:
        seen_netboot(dest, inventory.cluster.netboot)
    else:
        with held_netboot(dest, inventory.cluster.netboot) as netboot:
            tokens = write_tokens(netboot, forwarding)
        write(output, gateway(inventory, tokens, store).encode(), 0o600)
    facts = {"file": output, "nodes": [node.name for node in forwarding], "dry_run": dry_run}
    said = f"{output}{' would have' if dry_run else ''}: {len(forwarding)} who may write"
    tell(facts, said, as_json=as_json)

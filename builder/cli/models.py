"""Commands of the model store: publishing, what is there, checking it, and which node fetches what and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import console
from builder.cli import tables
from builder.cli.names import Commands
from builder.cli.options import (
    NamedFile,
    cluster_option,
    dry_run_option,
    example,
    json_option,
    plain,
    progress_option,
    table_options,
)
from builder.cli.selection import Selection, selection

if TYPE_CHECKING:
    from builder.inventory.nodes import Inventory, Node
    from builder.modelstore.publish import Listed

STORE = "/srv/models"
store_option = click.option(
    "--store",
    metavar="DIR|s3://BUCKET",
    default=STORE,
    show_default=True,
    help="The store of models: a directory that a web server serves, or s3://BUCKET[/PREFIX].",
)
_file = NamedFile()


@click.group(
    cls=Commands,
    epilog=example(
        "pibuild models publish jen-q4.gguf --name jen --version 3 --key ~/.ssh/id_ed25519",
        "pibuild models list",
        "pibuild models nodes",
    ),
)
def models() -> None:
    """Publish models, and keep the store.

    Of a new version, nodes fetch only what they lack. `nodes` lists which models cluster.yaml gives to each node.
    """


@models.command(
    epilog=example(
        "pibuild models publish jen-q4.gguf --name jen --version 3 --key ~/.ssh/id_ed25519",
        "pibuild models publish jen-q4.gguf --name jen --version 3 --store s3://models",
    )
)
@click.argument("file", type=_file)
@click.option("--name", required=True, help="The model's name.")
@click.option("--version", required=True, help="The version's name. Its content never changes.")
@click.option("--key", type=_file, help="Private ssh key that signs it; default: the login node's, where it is here.")
@click.option(
    "--plain",
    metavar="URL",
    default="",
    help="URL of the whole file: nodes take ranges of it, and the store gets its manifest alone.",
)
@store_option
@cluster_option
@dry_run_option
@progress_option
@json_option
def publish(
    file: Path,
    name: str,
    version: str,
    key: Path | None,
    plain: str,
    store: str,
    cluster_file: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the model in FILE into the store.

    Cuts it into chunks, and writes those that the store lacks.
    """
    from builder.modelstore.publish import Publication, open_store
    from builder.modelstore.publish import publish as publish_model

    signer = key or _login_key(cluster_file)
    wanted = Publication(path=file, model=name, version=version, key=signer, plain=plain)
    with console.progress(f"publishing {file} as {name} {version}"):
        done = publish_model(open_store(store, make=not dry_run), wanted, dry_run=dry_run)
    if not done.signed:
        console.warn("it has no signature: nodes take it only with cluster.models.signed: false; sign it with --key")
    if as_json:
        manifest = done.manifest
        console.print_json(
            {
                "model": name,
                "version": version,
                "sha256": manifest.sha256,
                "size": manifest.size,
                "chunks": len(manifest.chunks),
                "added": done.added,
                "signed": done.signed,
                "dry_run": dry_run,
            }
        )
        return
    added = f"{console.size(done.added)} of {console.size(done.manifest.size)} {'would be ' if dry_run else ''}new"
    console.say(f"{name} {version}: {len(done.manifest.chunks)} chunks, {added}, sha256 {done.manifest.sha256}")


def _login_key(cluster_file: Path | None) -> Path | None:
    """Return the key that the login node opens nodes with, where there is one on this machine that we may read."""
    import os

    from builder.inventory.load import DEFAULT_PATHS, load_inventory
    from builder.netboot.layout import Netboot
    from builder.netboot.state import login_key_file

    places = [cluster_file] if cluster_file else [path for path in DEFAULT_PATHS if path.is_file()]
    if not places:
        return None
    key = login_key_file(Netboot(Path(load_inventory(places[0]).cluster.netboot)))
    return key if os.access(key, os.R_OK) else None


@models.command("list", epilog=example("pibuild models list", "pibuild models list --store s3://models --json"))
@store_option
@table_options
def list_versions(store: str, as_json: bool) -> None:
    """List the versions there are."""
    from builder.modelstore.publish import list_models, open_store

    found = list_models(open_store(store))
    if as_json:
        console.print_json(plain(found))
        return
    console.print_table(tables.MODELS, [_row(each) for each in found])


def _row(each: Listed) -> tuple[object, ...]:
    sizes = [console.size(count) for count in (each.size, each.own, each.shared)]
    signed = "yes" if each.signed else "no"
    return (each.model, each.version, sizes[0], each.chunks, sizes[1], sizes[2], each.published, signed)


@models.command(epilog=example("pibuild models show jen", "pibuild models show jen 3 --json"))
@click.argument("name")
@click.argument("version", required=False)
@store_option
@table_options
def show(name: str, version: str | None, store: str, as_json: bool) -> None:
    """Show of what VERSION of NAME is made; default: the newest."""
    from builder.modelstore.publish import open_store
    from builder.modelstore.publish import show as show_version

    manifest = show_version(open_store(store), name, version)
    if as_json:
        console.print_json(plain(manifest))
        return
    title = f"{manifest.model} {manifest.version}, {console.size(manifest.size)}, sha256 {manifest.sha256}"
    rows = [(chunk.off, chunk.len, chunk.sha256) for chunk in manifest.chunks]
    console.print_table(tables.CHUNKS, rows, title=title)


@models.command(epilog=example("pibuild models verify", "pibuild models verify --drop-bad"))
@click.option("--drop-bad", is_flag=True, help="Remove spoilt chunks: publishing the file again brings them back.")
@store_option
@dry_run_option
@progress_option
@table_options
def verify(drop_bad: bool, store: str, dry_run: bool, as_json: bool) -> None:
    """Read every chunk and compare it with its name."""
    from builder.modelstore.publish import check_verified, open_store
    from builder.modelstore.publish import verify as verify_store

    with console.progress(f"verifying {store}"):
        read, bad = verify_store(open_store(store), drop=drop_bad and not dry_run)
    if as_json:
        console.print_json({"read": read, "bad": plain(bad)})
    elif bad:
        console.print_table(tables.BAD_CHUNKS, [(b.name, b.why, ", ".join(b.needed_by)) for b in bad])
    else:
        console.say(f"{console.size(read)} read, every chunk is what its name says")
    check_verified(bad)


@models.command(epilog=example("pibuild models gc --dry-run", "pibuild models gc --keep 3"))
@click.option("--keep", metavar="N", type=click.IntRange(min=1), help="Keep the N newest versions of each model alone.")
@click.option(
    "--keep-days",
    metavar="N",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Keep chunks younger than this: another publisher may still need them.",
)
@dry_run_option
@store_option
@cluster_option
@table_options
def gc(keep: int | None, keep_days: int, dry_run: bool, store: str, cluster_file: Path | None, as_json: bool) -> None:
    """Remove chunks that no version needs.

    With --keep, older versions too, except those that cluster.yaml gives to a node.
    """
    from builder.modelstore.publish import collect, open_store

    needed = _assigned(cluster_file) if keep is not None else set()
    found = collect(open_store(store), keep=keep, needed=needed, keep_days=keep_days, dry_run=dry_run)
    if as_json:
        console.print_json(plain(found))
        return
    console.print_table(tables.MODELS_GC, [(each.name, console.size(each.size), each.why) for each in found])
    if found:
        console.say(f"{console.size(sum(each.size for each in found))} {'would go' if dry_run else 'removed'}")


def _assigned(cluster_file: Path | None) -> set[tuple[str, str]]:
    from builder.inventory.load import find_inventory, load_inventory

    nodes = load_inventory(find_inventory(cluster_file)).nodes
    return {(name, version) for node in nodes for name, version in node.models.items()}


@models.command(epilog=example("pibuild models nodes", "pibuild models nodes --json"))
@selection
@cluster_option
@table_options
def nodes(chosen: Selection, cluster_file: Path | None, as_json: bool) -> None:
    """List what each node fetches, and when."""
    from builder.inventory.load import find_inventory, load_inventory

    inventory = load_inventory(find_inventory(cluster_file))
    rows = _fetching(inventory, chosen.of(inventory))
    if as_json:
        console.print_json(rows)
        return
    shown = [(*tuple(row.values())[:4], "yes" if row["kept"] else "no") for row in rows]
    console.print_table(tables.NODE_MODELS, shown)
    if not all(row["kept"] for row in rows):
        console.note("not kept: the next root begins without its models; persist: [/var/lib/models] keeps them")


def _fetching(inventory: Inventory, nodes: Sequence[Node]) -> list[dict[str, Any]]:
    from builder.netboot.model_window import node_models

    told = [(node.name, node_models(inventory, node)) for node in nodes]
    return [
        {"node": name, "model": model, "version": version, "begins": models.moment, "kept": models.kept}
        for name, models in told
        if models is not None
        for model, version in models.wanted.items()
    ]

"""The command that makes a place to work: a recipe, an inventory, and how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from builder import console
from builder.cli.options import NamedFile, dry_run_option, example, json_option, tell

README = """\
# {title}

```sh
sudo pibuild build {name}.yaml             # the image: output/{name}/latest, to be flashed or exploded
sudo pibuild explode --all               # on the login node: what every node of cluster.yaml boots
sudo pibuild services apply              # on the login node: DHCP, TFTP and NFS as cluster.yaml says
```

`{name}.yaml` says what is in the image, `cluster.yaml` who the nodes are. Before anything is flashed:
`pibuild boot output/{name}/latest`.
"""


@click.command(
    epilog=example(
        "pibuild init rack",
        "pibuild init rack --key ~/.ssh/id_ed25519.pub --from pi_info.txt",
    )
)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="[DIR]")
@click.option("--name", metavar="NAME", default="node", show_default=True, help="Name of the recipe and its image.")
@click.option(
    "--key",
    "key_files",
    metavar="FILE",
    type=NamedFile(),
    multiple=True,
    help="Public keys that open the image, instead of those in ~/.ssh; repeatable.",
)
@click.option(
    "--from", "pi_info", metavar="FILE", type=NamedFile(), help="List of nodes, a line each: NAME MAC SERIAL IP."
)
@click.option("--login", metavar="NODE", help="The node of the list that serves the others.")
@dry_run_option
@json_option
def init(
    directory: Path,
    name: str,
    key_files: tuple[Path, ...],
    pi_info: Path | None,
    login: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a place to work.

    Writes a recipe that extends golden with your ssh keys, a cluster.yaml and a README.md into DIR. Overwrites no
    file.
    """
    from builder.errors import InputError, Problem
    from builder.host.data import shipped_recipes
    from builder.host.files import write
    from builder.inventory.first import EXAMPLE, cluster_text, with_roles
    from builder.inventory.load import load_inventory
    from builder.inventory.names import hostname
    from builder.inventory.pi_info import import_pi_info
    from builder.recipe.first import recipe_text
    from builder.recipe.load import load_recipe

    if name in shipped_recipes() or not _is_hostname(name):
        told = "is the name of a recipe of pibuild's" if name in shipped_recipes() else "is not letters, digits and -"
        raise InputError(Problem(message=f"--name {name}: {told}", hint="pibuild init --name node"))
    nodes = with_roles(import_pi_info(pi_info), login=login) if pi_info else EXAMPLE
    keys = _chosen_keys(key_files)
    title = directory.resolve().name
    cluster = hostname(title) if _is_hostname(title) else "cluster"
    texts = {
        directory / f"{name}.yaml": recipe_text(name, keys),
        directory / "cluster.yaml": cluster_text(cluster, name, nodes, example=pi_info is None),
        directory / "README.md": README.format(title=title, name=name),
    }
    there = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if there:
        hint = "name an empty directory: pibuild init DIR"
        raise InputError(Problem(message=f"already there: {', '.join(there)}", hint=hint))
    facts = {"files": list(texts), "keys": keys, "dry_run": dry_run}
    if dry_run:
        tell(facts, *(f"would write {path}" for path in texts), as_json=as_json)
        return
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write(path, text.encode())
    load_recipe(directory / f"{name}.yaml")
    load_inventory(directory / "cluster.yaml")  # what a list has wrong is said with its place, to be mended there
    if not keys:
        key = Path("~/.ssh/id_ed25519.pub")
        console.warn(
            f"no public key in ~/.ssh: nobody could log in to the image. ssh-keygen -t ed25519 makes one; its line in "
            f"{key} goes into {directory / f'{name}.yaml'}, under authorized_keys"
        )
    step = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    tell(facts, *map(str, texts), f"next: {step}sudo pibuild build {name}.yaml", as_json=as_json)


def _chosen_keys(files: tuple[Path, ...]) -> list[str]:
    """Return the keys in the files given, else a person's own; at a terminal, after asking."""
    import sys

    from builder.recipe.first import find_keys, read_keys

    if files:
        return list(dict.fromkeys(key for file in files for key in read_keys(file)))
    chosen: list[str] = []
    for path, lines in find_keys(Path.home()).items():
        if sys.stdin.isatty() and not click.confirm(f"{path}: let this key in?", default=True, err=True):
            continue
        console.note(f"key: {path}")
        chosen += lines
    return list(dict.fromkeys(chosen))


def _is_hostname(name: str) -> bool:
    from builder.inventory.names import hostname

    try:
        return hostname(name) == name.lower()
    except ValueError:
        return False

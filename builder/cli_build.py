"""The commands from a recipe to an image: plan, build, lock, and gc for what builds leave in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import click

from builder import console
from builder.cli_options import (
    artifacts_option,
    example,
    json_option,
    offline_option,
    plain,
    recipe_argument,
    refresh_option,
    set_option,
)


@click.command(
    epilog=example(
        "pibuild plan recipes/golden.yaml",
        "pibuild plan recipes/golden.yaml --set timezone=UTC --json",
    )
)
@recipe_argument
@set_option
@json_option
def plan(recipe: Path, settings: Mapping[str, str], as_json: bool) -> None:
    """Say which layers are cached, and why not.

    For every layer of RECIPE: its key, whether it is cached and, if not, which input changed. Needs no root.
    """
    from builder.cache import Cache
    from builder.lock import read_lock
    from builder.plan import make_plan
    from builder.recipe import load_recipe

    loaded = load_recipe(recipe, settings)
    beside = _lock_beside(recipe)
    planned = make_plan(loaded, read_lock(beside) if beside.is_file() else None, Cache.default())
    if as_json:
        console.print_json(plain(planned))
        return
    rows = [
        (layer.name, layer.key[:12], "cached" if layer.cached else "to build", ", ".join(layer.changed))
        for layer in planned.layers
    ]
    console.print_table(("layer", "key", "state", "what changed"), rows)


@click.command(
    epilog=example(
        "sudo pibuild build recipes/golden.yaml",
        "sudo pibuild build recipes/golden.yaml --set timezone=UTC --locked --offline",
    )
)
@recipe_argument
@set_option
@click.option("--locked", is_flag=True, help="Use exactly what the lock beside RECIPE says; refuse to drift.")
@click.option(
    "--lock", "lock_file", type=click.Path(dir_okay=False, path_type=Path), help="As --locked, with this lock file."
)
@click.option(
    "--emulation",
    type=click.Choice(["auto", "native-tools", "full"]),
    default="auto",
    show_default=True,
    help="How arm64 programs run on another machine: a few as the host's own builds, or all emulated.",
)
@click.option("--verify-emulation", is_flag=True, help="Build every layer both ways and refuse a difference.")
@click.option(
    "--attach",
    type=click.Choice(["auto", "kpartx", "loop", "files"]),
    default="auto",
    show_default=True,
    help="How a base image is read: device-mapper, loop devices, or file tools alone.",
)
@click.option("--strict", is_flag=True, help="An optional artifact that cannot be had is an error.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Directory that gets NAME/DIGEST and NAME/latest.",
)
@artifacts_option
@refresh_option
@offline_option
@json_option
def build(
    recipe: Path,
    settings: Mapping[str, str],
    locked: bool,
    lock_file: Path | None,
    emulation: Literal["auto", "native-tools", "full"],
    verify_emulation: bool,
    attach: Literal["auto", "kpartx", "loop", "files"],
    strict: bool,
    output: Path,
    artifacts: tuple[Path, ...],
    refresh: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Build an image from a recipe.

    What RECIPE describes ends in output/NAME/latest. Needs root.
    """
    from builder.build import BuildOptions, build_recipe
    from builder.cache import Cache

    options = BuildOptions(
        settings=settings,
        lock=lock_file or (_lock_beside(recipe) if locked else None),
        emulation=emulation,
        verify_emulation=verify_emulation,
        attach=attach,
        strict=strict,
        output=output,
        artifacts=artifacts,
        refresh=refresh,
        offline=offline,
    )
    built = build_recipe(recipe, options, Cache.default())
    if as_json:
        console.print_json(plain(built))
    else:
        console.say(built.summary())


@click.command(
    epilog=example(
        "# a build that takes the same inputs next year",
        "pibuild lock recipes/golden.yaml",
        "sudo pibuild build recipes/golden.yaml --locked",
    )
)
@recipe_argument
@set_option
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default: beside RECIPE."
)
@artifacts_option
@json_option
def lock(
    recipe: Path, settings: Mapping[str, str], output: Path | None, artifacts: tuple[Path, ...], as_json: bool
) -> None:
    """Write down all that a build takes.

    Resolves RECIPE: every package, base and artifact with its version and checksum.
    """
    from builder.cache import Cache
    from builder.lock import resolve, write_lock
    from builder.recipe import load_recipe

    resolved = resolve(load_recipe(recipe, settings), Cache.default(), artifacts=artifacts)
    file = output or _lock_beside(recipe)
    write_lock(file, resolved)
    if as_json:
        console.print_json(plain(resolved))
    else:
        console.say(f"{file}: {len(resolved.packages)} packages, {len(resolved.artifacts)} artifacts")


@click.command(
    epilog=example(
        "sudo pibuild gc --dry-run",
        "sudo pibuild gc --keep-days 7",
    )
)
@click.option("--dry-run", "-n", is_flag=True, help="Say what would go, remove nothing.")
@click.option(
    "--keep-days",
    metavar="N",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Keep what was used since.",
)
@json_option
def gc(dry_run: bool, keep_days: int, as_json: bool) -> None:
    """Remove what no build uses from the cache.

    What was not used for some time goes, and what killed builds left. Needs root.
    """
    from builder.cache import Cache
    from builder.gc import collect

    removed = collect(Cache.default(), keep_days=keep_days, dry_run=dry_run)
    if as_json:
        console.print_json(plain(removed))
        return
    console.print_table(
        ("entry", "size", "last used"), [(item.path, console.size(item.size), item.used) for item in removed]
    )
    verb = "would be freed" if dry_run else "freed"
    console.say(f"{console.size(sum(item.size for item in removed))} {verb}")


def _lock_beside(recipe: Path) -> Path:
    """`recipes/golden.yaml` → `recipes/golden.lock.yaml`."""
    return recipe.with_name(f"{recipe.stem}.lock.yaml")


COMMANDS = (plan, build, lock)

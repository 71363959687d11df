"""The commands from a recipe to an image: plan, build, lock, and gc for what builds leave in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import click

from builder import console
from builder.cli import tables
from builder.cli.options import (
    NamedFile,
    artifacts_option,
    dry_run_option,
    example,
    json_option,
    offline_option,
    plain,
    progress_option,
    recipe_argument,
    refresh_option,
    set_option,
    table_options,
    tell,
)
from builder.cli.typed import command_line, shown

locked_option = click.option(
    "--locked", is_flag=True, help="Use exactly what the lock beside RECIPE says; refuse to drift."
)
lock_option = click.option(
    "--lock", "lock_file", type=NamedFile(exists=False), help="As --locked, with this lock file."
)


@click.command(
    epilog=example(
        "pibuild plan golden",
        "pibuild plan golden --set timezone=UTC --json",
    )
)
@recipe_argument
@set_option
@locked_option
@lock_option
@table_options
def plan(recipe: Path, settings: Mapping[str, str], locked: bool, lock_file: Path | None, as_json: bool) -> None:
    """Say which layers are cached, and why not.

    For every layer of RECIPE: its key, whether it is cached and, if not, which input changed. Needs no root and no
    network: packages are those of the lock, else those that the last build or `pibuild lock` resolved.
    """
    _print_plan(recipe, settings, lock_file or (_lock_beside(recipe) if locked else None), as_json=as_json)


def _print_plan(recipe: Path, settings: Mapping[str, str], lock_file: Path | None, *, as_json: bool) -> None:
    from builder.build.archives import unknown_packages
    from builder.build.lock import read_fitting_lock
    from builder.build.plan import make_plan
    from builder.errors import InputError
    from builder.host.cache import Cache
    from builder.recipe.load import load_recipe

    loaded = load_recipe(recipe, settings)
    planned = make_plan(loaded, read_fitting_lock(lock_file, loaded) if lock_file else None, Cache.default())
    if not planned.resolved and (problems := unknown_packages(loaded, Cache.default())):
        raise InputError(*problems)
    if as_json:
        layers = [
            {
                "name": layer.name,
                "key": layer.key if layer.final else None,
                "cached": layer.cached,
                "changed": list(layer.changed),
                "inputs": dict(layer.inputs),
            }
            for layer in planned.layers
        ]
        console.print_json({"recipe": loaded.name, "resolved": planned.resolved, "layers": layers})
        return
    rows = [
        (
            layer.name,
            layer.key[:12] if layer.final else "?",
            "cached" if layer.cached else "to build",
            _listed(layer.changed),
        )
        for layer in planned.layers
    ]
    console.print_table(tables.PLAN, rows)
    if not planned.resolved:
        since = next(layer.name for layer in planned.layers if not layer.final)
        console.warn(
            f"the packages of layer {since} were not resolved yet, so its key and those above it are open; "
            f"pibuild lock {recipe} --dry-run resolves them"
        )


@click.command(
    epilog=example(
        "sudo pibuild build golden",
        "sudo pibuild build golden --set timezone=UTC --locked --offline",
    )
)
@recipe_argument
@set_option
@locked_option
@lock_option
@click.option(
    "--emulation",
    type=click.Choice(["auto", "native-tools", "full"]),
    default="auto",
    show_default=True,
    help="How arm64 programs run on another machine: a few as the host's own builds, or all emulated.",
)
@click.option("--verify-emulation", is_flag=True, help="Build every layer both ways and refuse a difference.")
@click.option(
    "--debug-emulation",
    type=click.Path(dir_okay=False, path_type=Path),
    hidden=True,
    help="Log every start of an arm64 program to this file and sum it up at the end; needs native tools.",
)
@click.option(
    "--attach",
    type=click.Choice(["auto", "kpartx", "loop", "files"]),
    default="auto",
    show_default=True,
    help="How a base image is read: device-mapper, loop devices, or file tools alone.",
)
@click.option("--strict", is_flag=True, help="Fail when an optional download is unavailable.")
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
@dry_run_option
@progress_option
@table_options
def build(
    recipe: Path,
    settings: Mapping[str, str],
    locked: bool,
    lock_file: Path | None,
    emulation: Literal["auto", "native-tools", "full"],
    verify_emulation: bool,
    debug_emulation: Path | None,
    attach: Literal["auto", "kpartx", "loop", "files"],
    strict: bool,
    output: Path,
    artifacts: tuple[Path, ...],
    refresh: bool,
    offline: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build an image from a recipe.

    The image and what belongs to it end in output/NAME/latest. Needs root.
    """
    chosen = lock_file or (_lock_beside(recipe) if locked else None)
    if dry_run:
        _print_plan(recipe, settings, chosen, as_json=as_json)
        return
    console.note(f"building {recipe}")
    from builder.build.pipeline import BuildOptions, build_recipe
    from builder.emulation.log import read_log, rows, sum_up
    from builder.host.cache import Cache

    options = BuildOptions(
        settings=settings,
        lock=chosen,
        emulation=emulation,
        verify_emulation=verify_emulation,
        attach=attach,
        strict=strict,
        output=output,
        artifacts=artifacts,
        refresh=refresh,
        offline=offline,
        emulation_log=_begin_log(debug_emulation) if debug_emulation else None,
    )
    built = build_recipe(recipe, options, Cache.default())
    if not built.entrance:
        _warn_of_no_entrance(key_variable=built.key_variable)
    if as_json:
        console.print_json(plain(built))
        return
    console.say(shown(built.summary()))
    if options.emulation_log:
        title = "what ran how, without the time of the programs it started"
        console.print_table(tables.EMULATION, rows(sum_up(read_log(options.emulation_log))), title=title)


@click.command(
    epilog=example(
        "# a build that takes the same inputs next year",
        "pibuild lock golden",
        "sudo pibuild build golden --locked",
    )
)
@recipe_argument
@set_option
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default: beside RECIPE."
)
@artifacts_option
@dry_run_option
@progress_option
@json_option
def lock(
    recipe: Path,
    settings: Mapping[str, str],
    output: Path | None,
    artifacts: tuple[Path, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write down all that a build takes.

    Resolves RECIPE: every package, base and artifact with its version and checksum.
    """
    from builder.build.lock import resolve, write_lock
    from builder.host.cache import Cache
    from builder.recipe.load import load_recipe

    loaded, cache = load_recipe(recipe, settings), Cache.default()
    cache.prepare()
    resolved = resolve(loaded, cache, artifacts=artifacts)
    file = output or _lock_beside(recipe)
    if not dry_run:
        write_lock(file, resolved)
    would = " would be written" if dry_run else ""
    said = f"{file}{would}: {len(resolved.packages)} packages, {len(resolved.artifacts)} artifacts"
    tell(resolved, said, as_json=as_json)


@click.command(
    epilog=example(
        "sudo pibuild gc --dry-run",
        "sudo pibuild gc --keep-days 7",
    )
)
@dry_run_option
@click.option(
    "--keep-days",
    metavar="N",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Keep what a build used in the last N days.",
)
@table_options
def gc(dry_run: bool, keep_days: int, as_json: bool) -> None:
    """Remove what no build uses from the cache.

    Removes what no build has used for some time, and what killed builds left. Needs root.
    """
    from builder.build.gc import collect
    from builder.host.cache import Cache

    removed = collect(Cache.default(), keep_days=keep_days, dry_run=dry_run)
    if as_json:
        console.print_json(plain(removed))
        return
    console.print_table(tables.CACHE_GC, [(item.path, console.size(item.size), item.used) for item in removed])
    if removed:
        verb = "would be freed" if dry_run else "freed"
        console.say(f"{console.size(sum(item.size for item in removed))} {verb}")


def _warn_of_no_entrance(*, key_variable: bool) -> None:
    """Say that a card flashed with the image would let nobody in, and what mends it."""
    told = "nobody can log in to this image: it has neither an ssh key nor a password (explode gives nodes a key)"
    mend = "a user step with authorized_keys in the recipe"
    if key_variable:
        mend = f'{command_line(sudo=True)} --set "authorized_keys=$(cat ~/.ssh/id_ed25519.pub)"'
    console.warn(f"{told}\nhint: {mend}")


def _listed(changes: Sequence[str], *, most: int = 4) -> str:
    more = f" and {len(changes) - most} more" if len(changes) > most else ""
    return ", ".join(changes[:most]) + more


def _begin_log(file: Path) -> Path:
    """Begin an empty log that every program of an image may write to, whoever it runs as."""
    file.write_text("")
    file.chmod(0o666)
    return file.resolve()


def _lock_beside(recipe: Path) -> Path:
    """`recipes/golden.yaml` → `recipes/golden.lock.yaml`; of an installed recipe, in the current directory."""
    from builder.host.data import CHECKOUT, RECIPES

    installed = not CHECKOUT and RECIPES in recipe.parents
    return (Path() if installed else recipe.parent) / f"{recipe.stem}.lock.yaml"

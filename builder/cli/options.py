"""Options and conversions that several commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click

from builder import console
from builder.cli.complete import recipes, variables
from builder.cli.typed import shown
from builder.errors import InputError, Problem
from builder.host.data import is_name, shipped_recipes
from builder.host.named_file import no_file
from builder.inventory.names import place_problem

Function = TypeVar("Function", bound=Callable[..., Any])


def _settings(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for value in values:
        name, equals, setting = value.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{value!r} is not name=value")
        settings[name.strip()] = setting
    return settings


class NamedFile(click.Path):
    """A file to read. What is no file (a named pipe would be waited for) is refused before anybody opens it."""

    def __init__(self, *, exists: bool = True, readable: bool = True) -> None:
        super().__init__(exists=exists, dir_okay=False, readable=readable, path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the path."""
        path = super().convert(value, parameter, context)
        with contextlib.suppress(OSError):  # the command says it in its own words
            if told := no_file(os.stat(path).st_mode):  # noqa: PTH116 - a path of a person's, as it is
                self.fail(f"{value}: {told}", parameter, context)
        return path


class RecipeFile(NamedFile):
    """A recipe: a file, or the name of one that comes with pibuild."""

    name = "recipe"

    def __init__(self) -> None:
        super().__init__(exists=False)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the path. What is neither a file nor a name is refused, with the name that was meant."""
        shipped = shipped_recipes()
        written = os.fspath(value)
        if is_name(written) and not os.path.isfile(written):  # noqa: PTH113 - a path of a person's, as it is
            if written in shipped:
                return shipped[written]
            if not os.path.lexists(written):
                from builder.documents.spelling import did_you_mean

                near = did_you_mean(written, shipped)
                names = ", ".join(name for name in shipped if "/" not in name)
                hint = "" if near else f"name a file, or one of {names}"
                raise InputError(Problem(message=f"no recipe '{written}'{near}", hint=hint))
        path: Path = super().convert(value, parameter, context)
        if not os.path.lexists(path) and path.stem in shipped:
            command = f"pibuild {context.info_name} {path.stem}" if context else path.stem
            hint = f"the one that comes with pibuild: {command}"
            raise InputError(Problem(message=f"{path}: no such file", hint=hint))
        return path


class ServedDirectory(click.Path):
    """The directory that nodes boot from. Exports, fstab and command lines name it: what they misread is refused."""

    def __init__(self, *, readable: bool = True) -> None:
        super().__init__(file_okay=False, readable=readable, path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the path."""
        path = super().convert(value, parameter, context)
        if problem := place_problem(os.path.abspath(os.fsdecode(path))):  # noqa: PTH100 - links stay
            self.fail(f"{str(value)!r} {problem}; like /srv/netboot", parameter, context)
        return path


recipe_argument = click.argument("recipe", type=RecipeFile(), shell_complete=recipes)
image_argument = click.argument("image", type=click.Path(path_type=Path))


def _for_programs(_context: click.Context, _parameter: click.Parameter, as_json: bool) -> bool:
    if as_json:
        console.say_failures_as_json()
    return as_json


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_for_programs,
    help="Print JSON for programs instead of text, failures too.",
)
dry_run_option = click.option("--dry-run", "-n", is_flag=True, help="Say what would change, change nothing.")
cluster_option = click.option(
    "--cluster",
    "cluster_file",
    type=NamedFile(exists=False),
    help="The inventory; default: ./cluster.yaml, else /etc/pibuild/cluster.yaml.",
)


def _dest_option(*, readable: bool = True) -> Callable[[Function], Function]:
    return click.option(
        "--dest",
        type=ServedDirectory(readable=readable),
        help="Directory that nodes boot from; default: cluster.netboot of the inventory.",
    )


dest_option = _dest_option()
# click would ask access(2), which knows nothing of the unit's CAP_DAC_READ_SEARCH
unread_dest_option = _dest_option(readable=False)


def _widen(_context: click.Context, _parameter: click.Parameter, wide: bool) -> None:
    if wide:
        console.everything_shown()


wide_option = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_widen,
    help="All columns of tables, however narrow the terminal is.",
)


def table_options(command: Function) -> Function:
    """Add what commands take that print a table: --json and --wide."""
    return json_option(wide_option(command))


def _show(_context: click.Context, _parameter: click.Parameter, way: console.Way) -> None:
    console.show_progress(way)


progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    show_default=True,
    expose_value=False,
    callback=_show,
    help="How stderr says what goes on: one line on a terminal, lines with times, or events for programs.",
)
set_option = click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_settings,
    shell_complete=variables,
    help="Give a variable a value; repeatable.",
)
offline_option = click.option("--offline", is_flag=True, help="Use the cache; fetch nothing.")
refresh_option = click.option("--refresh", is_flag=True, help="Resolve packages and downloads again.")
artifacts_option = click.option(
    "--artifacts",
    "artifacts",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Directory to search, by checksum, before downloads; repeatable.",
)


def tell(facts: object, *lines: str, as_json: bool) -> None:
    """Print what a command did, or would do: facts for programs, lines for people."""
    if as_json:
        console.print_json(plain(facts))
    else:
        for line in lines:
            console.say(shown(line))


def example(*lines: str) -> str:
    """Return the end of a command's help: an example that nobody rewraps."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def plain(value: Any) -> Any:
    """Return dataclasses, models, paths and sets as what JSON has; sets become sorted lists."""
    if hasattr(value, "model_dump"):  # a pydantic model; importing pydantic to ask would cost half of the start
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    value = vars(value) if isinstance(value, SimpleNamespace) else value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

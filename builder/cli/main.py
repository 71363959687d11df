"""The command line: the `pibuild` group, and how failures become messages and exit codes.

A command's module is imported when the command is asked for, and its stations when it runs: a start takes what it
needs and no more, which on a board is the difference between one second and ten.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from builder import __version__, console
from builder.cli.names import Commands
from builder.cli.options import example
from builder.errors import HostError, InputError, PibuildError, Problem
from builder.host import ending
from builder.host.unwritable import why_not

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # no other package's code, and a quicker start
UMASK = 0o022  # whatever the caller's: servers and nodes must be able to enter and read what is made for them
INTERRUPTED = 128 + signal.SIGINT  # what a shell reports for a program that ended so

_EXIT_CODES = """\b
Exit codes:
  0  done                           4  a step of the recipe failed
  2  recipe or arguments are wrong  5  something could not be fetched
  3  this machine lacks something   6  it does not boot, or would not"""


# in the order of the work: each command, the module of `builder.cli` that has it under its name, and its first sentence
COMMANDS = {
    "init": ("init", "Make a place to work."),
    "plan": ("build", "Say which layers are cached, and why not."),
    "build": ("build", "Build an image from a recipe."),
    "lock": ("build", "Write down all that a build takes."),
    "inspect": ("image", "Show what is in an image."),
    "diff": ("image", "Say what changed between two images."),
    "boot": ("image", "Boot an image or nodes: the verdict."),
    "explode": ("explode", "Make what each NODE boots from an image."),
    "node": ("node", "List, explain and edit the nodes."),
    "rollback": ("rollback", "Let nodes boot what they booted before."),
    "services": ("services", "Configure the servers nodes boot from."),
    "lab": ("lab", "Keep nodes running on this machine."),
    "models": ("models", "Publish models, and keep the store."),
    "fleet": ("fleet", "Know which nodes run, and how they are."),
    "backup": ("backup", "List nodes' backups, change their passwords."),
    "restore": ("backup", "Bring a backup of NODE back."),
    "metrics": ("metrics", "Give forwarders of metrics their credentials."),
    "monitoring": ("monitoring", "Configure what watches the cluster."),
    "gc": ("build", "Remove what no build uses from the cache."),
}


_LINE = 120  # characters: longer than any summary


class _Pibuild(Commands):
    """A group that imports a command when it is asked for, and lists all in the order of the work."""

    _made: MutableMapping[str, click.Command]

    @property
    def commands(self) -> MutableMapping[str, click.Command]:
        """All commands, by name."""
        for name in COMMANDS:
            self._found(name)
        self._made = {**{name: self._made[name] for name in COMMANDS}, **self._made}
        return self._made

    @commands.setter
    def commands(self, commands: MutableMapping[str, click.Command]) -> None:
        self._made = commands

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command that is here already."""
        self._made[name or cmd.name or ""] = cmd

    def _found(self, name: str) -> click.Command | None:
        if name in COMMANDS and name not in self._made:
            self._made[name] = getattr(importlib.import_module(f"builder.cli.{COMMANDS[name][0]}"), name)
        return self._made.get(name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Return a command; only its own module is imported."""
        return self._found(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return list(dict.fromkeys([*COMMANDS, *self._made]))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands as click does; what they are is known without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries().items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command as click does, and options."""
        names = [CompletionItem(name, help=told) for name, told in self._summaries().items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(item for item in names if item.value.startswith(incomplete)), *options]

    def _summaries(self) -> dict[str, str]:
        told = {name: summary for name, (_, summary) in COMMANDS.items()}
        return {**told, **{name: made.get_short_help_str(_LINE) for name, made in self._made.items()}}

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C is one line and not click's empty one."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.note("interrupted")
            ctx.exit(INTERRUPTED)


@click.group(
    cls=_Pibuild,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{example('sudo pibuild build golden', 'pibuild boot output/golden/latest')}\n\n{_EXIT_CODES}",
)
@click.version_option(__version__, prog_name="pibuild", message="%(prog)s %(version)s")
def pibuild() -> None:
    """Build golden images for Raspberry Pi clusters from a YAML recipe, and boot them before anyone flashes them."""


@pibuild.command(
    epilog=example(
        "# check and complete while typing, with the YAML language server",
        "pibuild schema -o recipe.schema.json",
        "pibuild schema cluster -o cluster.schema.json",
        "# first line of a recipe: # yaml-language-server: $schema=recipe.schema.json",
    )
)
@click.argument("what", type=click.Choice(["recipe", "cluster"]), default="recipe", metavar="[WHAT]")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default: stdout.")
def schema(what: str, output: Path | None) -> None:
    """Print the JSON Schema of recipes.

    WHAT is `recipe`, or `cluster` for that of cluster.yaml.
    """
    import json

    from builder.inventory.json_schema import inventory_schema
    from builder.recipe.json_schema import recipe_schema

    document = recipe_schema() if what == "recipe" else inventory_schema()
    if output is None:
        console.print_json(document)
    else:
        output.write_text(json.dumps(document, indent=2) + "\n")


@pibuild.command(
    epilog=example(
        "pibuild completion bash | sudo tee /usr/share/bash-completion/completions/pibuild >/dev/null",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    if complete is None:
        raise click.BadParameter(f"click knows no completion for {shell}")
    console.say(complete(pibuild, {}, "pibuild", "_PIBUILD_COMPLETE").source())


def _fail(error: PibuildError, typed: Sequence[str]) -> int:
    if os.environ.get("PIBUILD_DEBUG"):
        import traceback

        console.note("".join(traceback.format_exception(error)).rstrip())
    if not ending.received():  # else it is of what a signal broke off
        from builder.cli.typed import mend_hints

        mend_hints(error, pibuild, typed)
        console.fail(error)
    return error.exit_code


def _explain(error: Exception) -> PibuildError:
    """Turn what no station expected into a failure with a hint."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        hint = why_not(error, other="PIBUILD_DEBUG=1 shows where it happened")
        return HostError(f"{where}{error.strerror}", hint=hint)
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    return PibuildError(
        f"internal error: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})",
        hint="this is a bug; run again with PIBUILD_DEBUG=1 and report the traceback",
    )


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line to its end and return the exit code; prints failures, raises nothing."""
    console.begin()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        console.begin()  # what the options said holds for this command


def _run(typed: list[str]) -> int:
    try:
        ended = pibuild.main(args=typed, prog_name="pibuild", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()
        return 1
    except click.Abort:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - never a bare traceback
        return _failed(error, typed)
    return ended if isinstance(ended, int) else 0


def _failed(error: Exception, typed: Sequence[str]) -> int:
    """Print what ended a command line, and return its exit code: one kind of failure, one code (builder.errors)."""
    if isinstance(error, click.ClickException):
        if "--json" not in itertools.takewhile(lambda word: word != "--", typed):
            error.show()
            return error.exit_code
        console.say_failures_as_json()
        return _fail(InputError(Problem(message=error.format_message())), typed)
    if isinstance(error, PibuildError):
        return _fail(error, typed)
    failure = _explain(error)
    failure.__cause__ = error
    return _fail(failure, typed)


def _let_go_of_stdout() -> None:
    """Nobody reads stdout any more: keep Python from complaining about that when it flushes at its end."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def main() -> NoReturn:
    """Be the program `pibuild`."""
    ending.unwind_on_signals()
    os.umask(UMASK)
    code = run_command()
    sys.exit(128 + ending.received() if ending.received() else code)

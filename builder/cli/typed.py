"""What a person typed, and commands for them to type: hints that work as they stand.

A hint is written as `pibuild explode --node yellow3`. What a person needs to type has more: `sudo` where the command
needs root, the program where root's PATH lacks it, the --cluster and --dest that they gave.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click

from builder.errors import InputError, PibuildError

PROGRAM = "pibuild"
_REPEATED = ("--cluster", "--dest")  # a hint repeats them where its command has them
_AS_ROOT = frozenset(
    {
        *("build", "explode", "gc", "rollback", "restore", "lab up", "lab down", "lab ssh", "lab status", "node gc"),
        *("services apply", "backup list", "backup rotate", "backup gateway", "metrics token", "metrics vmauth"),
        "fleet token",
    }
)
_COMMAND = re.compile(rf"(?P<sudo>sudo )?(?<![\w/.-]){PROGRAM} (?P<rest>[a-z][^;,()\n]*)")


def program() -> str:
    """Return what to type for the command: its name where root's PATH has it, else its path."""
    import shutil

    from builder.run import PATH

    here = sys.argv[0]
    if Path(here).name != PROGRAM or shutil.which(PROGRAM, path=PATH):
        return PROGRAM
    return shlex.quote(here if "/" in here else shutil.which(here) or here)


def command_line(*, sudo: bool = False) -> str:
    """Return the command that runs, as it was typed; with `sudo` to be typed by anybody."""
    words = shlex.join(sys.argv[1:])
    return f"{'sudo ' if sudo else ''}{program()} {words}"


def shown(text: str) -> str:
    """Return a text with commands to go on with, as the command that runs has to say it."""
    group = click.get_current_context().find_root().command
    return works(text, group, sys.argv[1:]) if isinstance(group, click.Group) else text


def mend_hints(error: PibuildError, group: click.Group, typed: Sequence[str]) -> None:
    """Make the hints of a failure work as they stand, for somebody who typed these words."""
    error.hint = works(error.hint, group, typed)
    if isinstance(error, InputError):
        error.problems = tuple(replace(one, hint=works(one.hint, group, typed)) for one in error.problems)
        error.message = "\n".join(map(str, error.problems))


def works(hint: str, group: click.Group, typed: Sequence[str]) -> str:
    """Return a hint that works as it stands, for somebody who typed these words."""

    def command(match: re.Match[str]) -> str:
        words = match["rest"].split(" ")
        path, found = _command_of(group, words)
        if found is None:
            return match[0]
        own, prose = _own_words(found, words[len(path) :])
        said = [*path, *own]
        if path == _command_of(group, typed)[0] and set(said) <= set(typed):
            said = [shlex.quote(word) for word in typed]
        else:
            said += _repeated(found, own, typed)
        needs_root = " ".join(path) in _AS_ROOT and os.geteuid() != 0
        sudo = "sudo " if match["sudo"] or needs_root else ""
        return " ".join([f"{sudo}{program()}", *said, *prose])

    return _COMMAND.sub(command, hint)


def _command_of(group: click.Group, words: Sequence[str]) -> tuple[list[str], click.Command | None]:
    """Return the words that name a command, and the command; none where they name no whole one."""
    path: list[str] = []
    here: click.Command = group
    for word in words:
        found = here.get_command(click.Context(here), word) if isinstance(here, click.Group) else None
        if found is None:
            break
        here = found
        path.append(word)
    return path, None if isinstance(here, click.Group) else here


def _own_words(command: click.Command, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a command's own options and arguments, and the words after them."""
    options = {name: param for param in command.params if isinstance(param, click.Option) for name in param.opts}
    # any number of arguments may end anywhere: what follows stays in its place behind the options
    arguments = sum(1 for param in command.params if isinstance(param, click.Argument) and param.nargs == 1)
    at = 0
    while at < len(words):
        option = options.get(words[at])
        if option is not None:
            at += 1 if option.is_flag else 2
        elif words[at] and not words[at].startswith("-") and arguments:
            arguments -= 1
            at += 1
        else:
            break
    return list(words[:at]), list(words[at:])


def _repeated(command: click.Command, own: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return the options that were typed, that the command has too and that the hint lacks."""
    known = {name for param in command.params for name in param.opts}
    found: list[str] = []
    for option in _REPEATED:
        values = [after for word, after in pairwise(typed) if word == option]
        values += [word.partition("=")[2] for word in typed if word.startswith(f"{option}=")]
        if values and option in known and option not in own:
            found += [option, shlex.quote(values[-1])]
    return found

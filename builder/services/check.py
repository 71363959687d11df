"""The servers' own checkers, run on files that are not in place yet.

The files lie beside those they will replace, not in /tmp: AppArmor lets dhcpd and Kea read their own directories alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder import console
from builder.errors import HostError, VerdictError
from builder.run import CommandError, find_tool, run
from builder.services import names
from builder.services.server import Checker
from builder.services.servers import every

_TIMEOUT = 60  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A checker that was run, or why it was not."""

    tool: str
    path: PurePosixPath
    result: str


def check_files(staged: Mapping[PurePosixPath, Path], *, everything: bool) -> tuple[Checked, ...]:
    """Run the checker of every file that has one. `staged` maps the path it will have to where it is now.

    With `everything` a checker that is not installed is an error, since then its server is not either; without it the
    result says so. Raises HostError for that, VerdictError with the checker's words when a file is refused.
    """
    checkers = [*(checker for row in every() for checker in row.checkers), names.CHECKER]
    found = {checker.path: checker for checker in checkers}
    return tuple(_check(found[path], staged, everything=everything) for path in staged if path in found)


def _check(checker: Checker, staged: Mapping[PurePosixPath, Path], *, everything: bool) -> Checked:
    name, path = checker.program, checker.path
    try:
        tool = find_tool(name, package=checker.package)
    except HostError as error:
        if everything:
            raise
        return Checked(tool=name, path=path, result=f"not checked: {error.message}")
    if checker.needs_root and os.geteuid() != 0:
        return Checked(tool=name, path=path, result=f"not checked: {name} needs root")
    told = checker.stdin(staged).encode() if checker.stdin is not None else None
    argv = (str(tool), *checker.argv(staged[path]))
    try:
        run(argv, env=checker.env, input=told, merge=True, timeout=_TIMEOUT)
    except CommandError as error:
        hint = "nothing was changed; pibuild services render writes the files to look at"
        raise VerdictError(f"{path} is refused by {name}\n{error.message}", hint=hint) from error
    return Checked(tool=name, path=path, result="ok")


def say_checked(checked: tuple[Checked, ...]) -> None:
    """Tell what was checked, on stderr."""
    for one in checked:
        console.note(f"{one.tool}: {one.path}: {one.result}")

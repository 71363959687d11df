"""The servers' own checkers, run on files that are not in place yet.

The files lie beside those they will replace, not in /tmp: AppArmor lets dhcpd and Kea read their own directories alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from builder import console
from builder.errors import HostError, VerdictError
from builder.run import CommandError, find_tool, run
from builder.services import names
from builder.services.server import Checker
from builder.services.servers import every
from builder.verify.finding import Finding

_TIMEOUT = 60  # seconds


def check_files(staged: Mapping[PurePosixPath, Path], *, everything: bool) -> tuple[Finding, ...]:
    """Run the checker of every file that has one. `staged` maps the path it will have to where it is now.

    With `everything` a checker that is not installed is an error, since then its server is not either; without it the
    result is unknown. Raises HostError for that, VerdictError with the checker's words when a file is refused.
    """
    checkers = [*(checker for row in every() for checker in row.checkers), names.CHECKER]
    found = {checker.path: checker for checker in checkers}
    return tuple(_check(found[path], staged, everything=everything) for path in staged if path in found)


def _check(checker: Checker, staged: Mapping[PurePosixPath, Path], *, everything: bool) -> Finding:
    name, path = checker.program, checker.path
    try:
        tool = find_tool(name, package=checker.package)
    except HostError as error:
        if everything:
            raise
        return Finding(check=name, result="unknown", seen=f"{path}: {error.message}", hint=error.hint)
    if checker.needs_root and os.geteuid() != 0:
        return Finding(check=name, result="unknown", seen=f"{path}: {name} needs root", hint="sudo")
    told = checker.stdin(staged).encode() if checker.stdin is not None else None
    argv = (str(tool), *checker.argv(staged[path]))
    try:
        run(argv, env=checker.env, input=told, merge=True, timeout=_TIMEOUT)
    except CommandError as error:
        hint = "nothing was changed; pibuild services render writes the files to look at"
        raise VerdictError(f"{path} is refused by {name}\n{error.message}", hint=hint) from error
    return Finding(check=name, result="ok", seen=str(path))


def say_checked(checked: tuple[Finding, ...]) -> None:
    """Tell what was checked, on stderr."""
    for one in checked:
        console.note(f"{one.check}: {'' if one.result == 'ok' else 'not checked: '}{one.seen}")

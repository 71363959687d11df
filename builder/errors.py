"""Every way pibuild fails, drawn once.

    PibuildError            exit code 1, never raised itself
    ├── InputError          2  a recipe, inventory or argument is wrong; holds every problem found
    ├── HostError           3  this machine lacks a tool, a privilege or a kernel feature
    ├── StepError           4  a step of a recipe failed
    ├── FetchError          5  something could not be fetched, or is not what was promised
    └── VerdictError        6  what was built does not boot, or would not

A message says what failed and where; `hint` is the command or edit that mends it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

_SHORT = 100
_LONG_WORD = re.compile(r"\S{600,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a file a person wrote. `line` and `column` count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with what a person wrote, and how to mend it."""

    message: str
    mark: Mark | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        hint = f"\n    hint: {_shortened(self.hint)}" if self.hint else ""
        return f"{where}{_shortened(self.message)}{hint}"

    def as_json(self) -> dict[str, object]:
        """Return the problem for programs; without a place, `file`, `line` and `column` are None."""
        mark = self.mark
        place = {"file": str(mark.file), "line": mark.line, "column": mark.column} if mark else {}
        return {"message": self.message, "hint": self.hint, "file": None, "line": None, "column": None, **place}


def _shortened(text: str) -> str:
    """Return a text whose words are of a length that a person reads: a number of 5,000 digits is cut."""
    return _LONG_WORD.sub(lambda word: f"{word[0][:_SHORT]}… ({len(word[0])} characters)", text)


class PibuildError(Exception):
    """What failed, with a hint that mends it. The command line turns it into `exit_code`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def as_json(self) -> dict[str, object]:
        """Return the failure for programs."""
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.message,
            "hint": self.hint,
            "problems": [],
        }


class InputError(PibuildError):
    """What a person wrote is wrong. All problems at once, in the order of the file."""

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def as_json(self) -> dict[str, object]:
        """Return the failure for programs, each problem with its place."""
        return {**super().as_json(), "problems": [problem.as_json() for problem in self.problems]}


class HostError(PibuildError):
    """The machine lacks a tool, a privilege or a kernel feature."""

    exit_code = 3


class StepError(PibuildError):
    """A step of a recipe failed: recipe file:line, step, command, exit code, last lines of output."""

    exit_code = 4


class FetchError(PibuildError):
    """Something could not be fetched, or what came is not what was promised."""

    exit_code = 5


class VerdictError(PibuildError):
    """What was built does not boot, or a check of its boot chain says that it would not."""

    exit_code = 6

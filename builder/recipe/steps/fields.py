"""The types of fields that several kinds of step share, and the files of the recipe's that fields name."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from builder.documents.spelling import did_you_mean
from builder.errors import Problem
from builder.host.confine import exists
from builder.image.passwd import parse_id
from builder.recipe.steps.base import Place

_NAME = r"([a-z_][a-z0-9_-]*\$?|[0-9]{1,10})"
_OWNER = re.compile(rf"{_NAME}:{_NAME}")
_MODE = re.compile(r"[0-7]{3,4}")
_OCTAL_DIGITS = re.compile(r"[0-7]{1,4}")


def _mode(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        shown = f"{value:04d}" if _OCTAL_DIGITS.fullmatch(str(value)) else "0644"
        raise ValueError(  # noqa: TRY004 - pydantic takes ValueError alone
            f"{value} without quotes is a number, not an octal mode\nhint: put it in quotes: '{shown}'"
        )
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError(f"'{value}' is not an octal mode\nhint: three or four octal digits in quotes, such as '0644'")
    return value


def _owner(value: str) -> str:
    numbers = [name for name in value.split(":") if name[:1].isdigit()]
    if not _OWNER.fullmatch(value) or any(parse_id(number) is None for number in numbers):
        raise ValueError(f"'{value}' is not an owner and a group\nhint: write 'user:group', such as 'root:root'")
    return value


def _target_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"'{value}' is not an absolute path\nhint: it counts from the image's root: '/{value}'")
    if ".." in PurePosixPath(value).parts or "\0" in value:
        raise ValueError(f"'{value}' is not a plain path\nhint: write it without '..'")
    plain = "/" + "/".join(PurePosixPath(value).parts[1:])
    if plain == "/":
        raise ValueError("'/' is the root itself\nhint: name a path below it")
    return plain


Mode = Annotated[str, BeforeValidator(_mode), WithJsonSchema({"type": "string", "pattern": "^[0-7]{3,4}$"})]
"""A quoted octal mode, `'0644'`."""

Owner = Annotated[str, AfterValidator(_owner)]
"""`user:group`, names or numbers; names are those of the root's own /etc/passwd and /etc/group."""

TargetPath = Annotated[str, AfterValidator(_target_path)]
"""An absolute path inside the root, other than the root."""


def source_path(at: Place, source: str) -> Path:
    """Return the host's path of a file that a step names: relative ones start at the recipe file's directory."""
    return at.directory / source


def source_problem(at: Place, source: str, *, directory: bool = False) -> Problem | None:
    """Return what is wrong with a file (or directory) that a step reads from the recipe's side, if anything."""
    path = source_path(at, source)
    if not exists(path):
        return Problem(message=f"{source}: no such {'directory' if directory else 'file'}", hint=_near(path))
    if directory and not path.is_dir():
        return Problem(message=f"{source} is not a directory")
    if not directory and not path.is_file():
        hint = "the overlay step lays down a whole directory" if path.is_dir() else ""
        return Problem(message=f"{source} is not a file", hint=hint)
    try:
        next(path.iterdir(), None) if directory else path.open("rb").close()
    except OSError as error:
        return Problem(message=f"{source}: {str(error.strerror).lower()}")
    return None


def _near(missing: Path) -> str:
    """Return the sibling that was probably meant, else the path that was looked for."""
    parts = missing.parts
    depth = next(depth for depth in range(1, len(parts) + 1) if not exists(Path(*parts[:depth])))
    parent = Path(*parts[: depth - 1])
    siblings = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    near = did_you_mean(parts[depth - 1], siblings)
    if near:
        return near.removeprefix("; ")
    return f"looked for {missing}"


def is_executable(path: Path) -> bool:
    """Say whether a source file is executable, the one bit of a mode that git holds."""
    return bool(path.stat().st_mode & 0o100)


def default_mode(*, executable: bool) -> int:
    """Return the mode of a file whose step names none: what git holds, whatever the checkout's umask was."""
    return 0o755 if executable else 0o644

"""What the commands share that render a server's files: into a directory, and what differs from this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder import console
from builder.cli.options import plain

if TYPE_CHECKING:
    from builder.services.apply import Change
    from builder.services.files import ConfigFile


def write_files(files: Sequence[ConfigFile], output: Path | None, *, as_json: bool) -> None:
    """Write files below a directory, or print them where there is none."""
    if output is not None:
        for file in files:
            path = output / file.path.relative_to("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
    if as_json:
        console.print_json(plain([{"path": str(file.path), "text": file.text} for file in files]))
    elif output is not None:
        console.say(f"{output}: {len(files)} files")
    else:
        for file in files:
            console.say(f"==> {file.path} <==\n{file.text}")


def print_changes(changes: Sequence[Change], *, as_json: bool) -> None:
    """Print what differs: as unified diffs, or as data."""
    if as_json:
        console.print_json([{**plain(change), "path": str(change.path), "kind": change.kind} for change in changes])
        return
    for change in changes:
        console.say("\n".join(change.lines()) or f"{change.path}: {change.kind}, empty")
    if not changes:
        console.say("nothing to change")

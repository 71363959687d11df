"""Compare the servers' files with what is live, and replace them all or none.

New files are written beside the old ones, checked there, and renamed into place. What was there is kept under
/var/backups/pibuild. A journal names it from before the first rename until the servers run with the new files: a run
that finds a journal (its predecessor was killed) first puts the old files back, so that it tells the servers of every
change and not only of those its predecessor did not get to.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

from builder import console
from builder.errors import HostError, PibuildError
from builder.host.files import sync
from builder.services.files import ConfigFile
from builder.services.place import at, put, read, read_text, stage, staged, swap, wanted, with_block, write
from builder.services.record import (
    Journal,
    drop_journal,
    journal_path,
    locked,
    read_journal,
    read_written,
    record_of,
    write_journal,
    write_written,
)

if TYPE_CHECKING:
    from builder.verify.finding import Finding

BACKUPS = PurePosixPath("/var/backups/pibuild/services")
KEPT = 10  # backups


class Servers(Protocol):
    """Who is told of new files."""

    def require(self) -> None:
        """Look for all that is needed, before anything is changed. Raises PibuildError."""

    def retire(self, changed: Sequence[PurePosixPath]) -> None:
        """Stop what is not wanted any more, before files change. Raises PibuildError."""

    def update(self, changed: Sequence[PurePosixPath]) -> None:
        """Let the servers know of new files. Raises PibuildError when one does not take them."""

    def halt(self) -> list[str]:
        """Stop what was started, before the old files are back; return what failed even so."""

    def undo(self) -> list[str]:
        """Let the servers that were told know that the old files are back; return what failed even so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A file that differs. `before` is None for a new file, `after` for one that goes."""

    path: PurePosixPath
    before: str | None
    after: str | None

    @property
    def kind(self) -> Literal["new", "changed", "removed"]:
        """What happens to the file, in a word."""
        if self.before is None:
            return "new"
        return "removed" if self.after is None else "changed"

    def lines(self) -> list[str]:
        """Return a unified diff from what is live to what will be."""
        import difflib  # noqa: PLC0415 - what has nothing to change does without

        before, after = (_shown(text) for text in (self.before, self.after))
        old, new = ("/dev/null" if text is None else str(self.path) for text in (self.before, self.after))
        return list(difflib.unified_diff(before, after, old, new, lineterm=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an apply did; `backup` holds what was there before, None when nothing changed."""

    changes: tuple[Change, ...]
    checked: tuple[Finding, ...]
    backup: Path | None


def compare(files: Sequence[ConfigFile], root: Path) -> tuple[Change, ...]:
    """Return what differs under `root`, sorted by path; what an earlier apply wrote and is no longer needed goes.

    Raises InputError where pibuild's part of a file cannot be told, HostError for what cannot be read.
    """
    changes = list(differing(files, root))
    needed = {file.path for file in files}
    for path, block in read_written(root).items():
        live = read_text(root, path)
        if path in needed or live is None:
            continue
        left = with_block(live, None, at(root, path)) if block else None
        if live != left:
            changes.append(Change(path=path, before=live, after=left))
    return tuple(sorted(changes, key=lambda change: change.path))


def differing(files: Sequence[ConfigFile], root: Path) -> tuple[Change, ...]:
    """Return which of the files differ under `root`. Raises as `compare` does."""
    changes = []
    for file in files:
        live = read_text(root, file.path)
        after = wanted(root, file, live)
        if live != after:
            changes.append(Change(path=file.path, before=live, after=after))
    return tuple(changes)


def apply(files: Sequence[ConfigFile], root: Path, *, servers: Servers | None = None) -> Applied:
    """Make the files under `root` what they should be, and tell the servers which changed.

    Without `servers` nobody is told, and a checker that is not installed is passed over. Nothing is changed when
    something is not installed or a checker refuses; when telling fails, the old files are put back and those told are
    told again. Raises VerdictError, HostError, InputError, OSError, and what `servers` raise.
    """
    from builder.services.check import check_files  # noqa: PLC0415 - a comparison does without

    if servers is not None:
        servers.require()
    with locked(root):
        interrupted = recover(root)
        if interrupted:
            console.note(f"an apply was interrupted; put back what was there before: {len(interrupted)} files")
        changes = compare(files, root)
        untold = tuple(path for path in interrupted if path not in {change.path for change in changes})
        new: dict[PurePosixPath, Path] = {}
        try:
            for change in changes:
                if change.after is not None:
                    new[change.path] = stage(root, change.path, change.after)
            checked = check_files(new, everything=servers is not None)
            backup = _back_up(root, changes) if changes else None
            if backup is not None:
                _write_journal(root, changes, backup, untold)
                write_written(root, {**read_written(root), **record_of(files)})
                _swap(root, changes, new, servers, untold)
            elif servers is not None:
                _start(servers, untold)
            drop_journal(root)
            write_written(root, record_of(files))
            _drop_old_backups(root, backup)
        finally:
            for path in {*(file.path for file in files), *(change.path for change in changes)}:
                staged(root, path).unlink(missing_ok=True)
        return Applied(changes=changes, checked=checked, backup=backup)


def recover(root: Path) -> tuple[PurePosixPath, ...]:
    """Put back what an interrupted apply was replacing; return the files that servers have to be told of.

    The journal stays until they were. Raises HostError when what was there before has been deleted since.
    """
    noted = read_journal(root)
    if noted is None:
        return ()
    kept = {path: noted.backup / path.relative_to("/") for path in noted.replaced}
    lost = [str(path) for path, copy in kept.items() if not at(root, copy).is_file()]
    if lost:
        hint = f"put them in order by hand, then: sudo rm {journal_path(root)}; sudo pibuild services apply"
        raise HostError(
            f"an apply was interrupted, and {at(root, noted.backup)} no longer has {', '.join(lost)}", hint=hint
        )
    for path in noted.paths:
        staged(root, path).unlink(missing_ok=True)
        if path in kept:
            put(root, path, read(root, kept[path]) or b"", like=at(root, kept[path]))
        else:
            at(root, path).unlink(missing_ok=True)
    write_written(root, noted.written)
    return tuple(sorted([*noted.paths, *noted.untold]))


def _start(servers: Servers, untold: Sequence[PurePosixPath]) -> None:
    """Start servers that do not run, where no file changes; stop those that are not wanted."""
    try:
        servers.retire(untold)
        servers.update(untold)
    except BaseException:
        servers.halt()
        servers.undo()
        raise


def _swap(
    root: Path,
    changes: Sequence[Change],
    new: Mapping[PurePosixPath, Path],
    servers: Servers | None,
    untold: Sequence[PurePosixPath],
) -> None:
    """Rename the new files into place and tell the servers; undo both when anything fails."""
    paths = tuple(change.path for change in changes)
    try:
        if servers is not None:
            servers.retire((*paths, *untold))
        for path in paths:
            live = at(root, path)
            if path in new:
                swap(new[path], live)
            else:
                live.unlink()
                sync(live.parent)
        if servers is not None:
            servers.update((*paths, *untold))
    except BaseException as error:
        failed = servers.halt() if servers is not None else []
        recover(root)
        failed += servers.undo() if servers is not None else []
        if isinstance(error, PibuildError):
            error.message += "\nundone: the files are as they were before"
            error.message += f"; this failed all the same: {'; '.join(failed)}" if failed else ""
        drop_journal(root)
        raise


def _shown(text: str | None) -> list[str]:
    """Return a text's lines as a terminal can show them."""
    lines = (text or "").split("\n")
    return [
        line.encode(errors="surrogateescape").decode(errors="replace")
        for line in lines[: -1 if lines[-1] == "" else None]
    ]


# ------------------------------------------------------------------------------------------------------------- backups


def _back_up(root: Path, changes: Sequence[Change]) -> Path:
    """Copy what will be replaced; return the directory that holds it."""
    backup = at(root, BACKUPS) / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup.mkdir(parents=True, mode=0o700)
    for change in changes:
        if change.before is not None:
            kept = backup / change.path.relative_to("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            write(kept, change.before.encode(errors="surrogateescape"), like=at(root, change.path))
    return backup


def _drop_old_backups(root: Path, newest: Path | None) -> None:
    """Remove the oldest beyond KEPT, never the newest: a board without a battery may have begun in an earlier year."""
    backups = at(root, BACKUPS)
    others = sorted(path for path in backups.iterdir() if path != newest) if backups.is_dir() else []
    for old in others[: max(0, len(others) + 1 - KEPT)]:
        shutil.rmtree(old)


def _write_journal(root: Path, changes: Sequence[Change], backup: Path, untold: Sequence[PurePosixPath]) -> None:
    """Note what is being replaced; `untold` are files of an interrupted apply that are as they should be."""
    journal = Journal(
        backup=BACKUPS / backup.name,
        replaced=tuple(change.path for change in changes if change.before is not None),
        new=tuple(change.path for change in changes if change.before is None),
        untold=tuple(untold),
        written=read_written(root),
    )
    write_journal(root, journal)

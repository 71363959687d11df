"""Compare the servers' files with what is live, and replace them all or none.

New files are written beside the old ones, checked there, and renamed into place. What was there is kept under
/var/backups/pibuild. A journal names it from before the first rename until the servers run with the new files: a run
that finds a journal (its predecessor was killed) first puts the old files back, so that it tells the servers of every
change and not only of those its predecessor did not get to.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from builder import console
from builder.errors import HostError, PibuildError
from builder.locks import take
from builder.services import NAT, NAT_UNIT, PARALLEL, SSH, SYSCTL
from builder.services_check import Checked, check_files
from builder.services_dhcp import DNSMASQ, RESERVATIONS
from builder.services_files import CONFIG, ConfigFile, ServerRole
from builder.services_nfs import EXPORTS, NFS_CONF

BEGIN, END = "# pibuild: begin (written from the inventory; changes belong there)", "# pibuild: end"
STATE = PurePosixPath("/var/lib/pibuild/services")
BACKUPS = PurePosixPath("/var/backups/pibuild/services")
KEPT = 10  # backups
_STAGED = ".dpkg-new"  # dnsmasq reads every file in its directory but those of such names
_OWN = (DNSMASQ, RESERVATIONS, EXPORTS, NFS_CONF, SSH, PARALLEL, NAT, NAT_UNIT, SYSCTL)  # nobody else writes them


class Servers(Protocol):
    """Who is told of new files."""

    def update(self, changed: Sequence[PurePosixPath]) -> None:
        """Let the servers know of new files. Raises PibuildError when one does not take them."""

    def undo(self, changed: Sequence[PurePosixPath]) -> list[str]:
        """Let the servers know that the old files are back; return what failed even so."""


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
        before, after = (text.splitlines() if text else [] for text in (self.before, self.after))
        old, new = ("/dev/null" if text is None else str(self.path) for text in (self.before, self.after))
        return list(difflib.unified_diff(before, after, old, new, lineterm=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an apply did; `backup` holds what was there before, None when nothing changed."""

    changes: tuple[Change, ...]
    checked: tuple[Checked, ...]
    backup: Path | None


def compare(files: Sequence[ConfigFile], root: Path) -> tuple[Change, ...]:
    """Return what differs under `root`, sorted by path; files that only pibuild writes and no longer needs go."""
    changes = []
    for file in files:
        live = _live(root, file.path)
        after = with_block(live or "", file.text) if file.block else file.text
        if live != after:
            changes.append(Change(path=file.path, before=live, after=after))
    needed = {file.path for file in files}
    lists = {CONFIG / path.name for path in _at(root, CONFIG).glob("hosts-*.txt")}
    for path in {*_OWN, *lists} - needed:
        live = _live(root, path)
        if live is not None:
            changes.append(Change(path=path, before=live, after=None))
    return tuple(sorted(changes, key=lambda change: change.path))


def with_block(live: str, block: str) -> str:
    """Return a text with pibuild's marked part replaced, or added at its end; all other lines stay as they are."""
    lines = live.splitlines()
    marked = [BEGIN, *block.splitlines(), END]
    if BEGIN in lines and END in lines[lines.index(BEGIN) :]:
        first = lines.index(BEGIN)
        last = lines.index(END, first)
        return "\n".join([*lines[:first], *marked, *lines[last + 1 :]]) + "\n"
    return "\n".join([*lines, *marked]) + "\n"


def apply(files: Sequence[ConfigFile], root: Path, *, servers: Servers | None = None) -> Applied:
    """Make the files under `root` what they should be, and tell the servers which changed.

    Without `servers` nobody is told, and a checker that is not installed is passed over. Nothing is changed when a
    checker refuses; when telling fails, the old files are put back and the servers told again. Raises VerdictError,
    HostError, OSError, and what `servers.update` raises.
    """
    with _locked(root):
        interrupted = recover(root)
        if interrupted:
            console.note(f"an apply was interrupted; put back what was there before: {len(interrupted)} files")
        changes = compare(files, root)
        untold = tuple(path for path in interrupted if path not in {change.path for change in changes})
        staged: dict[PurePosixPath, Path] = {}
        try:
            for change in changes:
                if change.after is not None:
                    staged[change.path] = _stage(root, change.path, change.after)
            checked = check_files(staged, everything=servers is not None)
            backup = _back_up(root, changes) if changes else None
            if backup is not None:
                _write_journal(root, changes, backup, untold)
                _swap(root, changes, staged, servers, untold)
            elif servers is not None:
                servers.update(untold)  # a server that does not run is started all the same
            _journal(root).unlink(missing_ok=True)
            _drop_old_backups(root, backup)
        finally:
            for path in {*_OWN, *(file.path for file in files)}:
                _staged(root, path).unlink(missing_ok=True)
        return Applied(changes=changes, checked=checked, backup=backup)


def recover(root: Path) -> tuple[PurePosixPath, ...]:
    """Put back what an interrupted apply was replacing; return the files that servers have to be told of.

    The journal stays until they were. Raises HostError when what was there before has been deleted since.
    """
    if not _journal(root).is_file():
        return ()
    noted = json.loads(_journal(root).read_text())
    backup = _at(root, PurePosixPath(noted["backup"]))
    lost = [path for path in noted["replaced"] if not (backup / path.lstrip("/")).is_file()]
    if lost:
        hint = f"put them in order by hand, then: sudo rm {_journal(root)}; sudo pibuild services apply"
        raise HostError(f"an apply was interrupted, and {backup} no longer has {', '.join(lost)}", hint=hint)
    for path in map(PurePosixPath, [*noted["replaced"], *noted["new"]]):
        live = _at(root, path)
        _staged(root, path).unlink(missing_ok=True)
        if str(path) in noted["replaced"]:
            kept = backup / path.relative_to("/")
            _put(live, kept.read_bytes(), like=kept)
        else:
            live.unlink(missing_ok=True)
    return tuple(sorted(map(PurePosixPath, [*noted["replaced"], *noted["new"], *noted["untold"]])))


def is_interrupted(root: Path) -> bool:
    """Return whether an apply was killed, and nobody has tidied up after it."""
    return _journal(root).is_file()


def note_role(root: Path, role: ServerRole) -> None:
    """Note which server this machine is, for `served_as`."""
    _write(_at(root, STATE / "role"), f"{role}\n".encode(), like=None)


def served_as(root: Path) -> ServerRole | None:
    """Return which server an apply has made of this machine, None for one that is none."""
    path = _at(root, STATE / "role")
    said = path.read_text().strip() if path.is_file() else ""
    roles: dict[str, ServerRole] = {"login": "login", "backup": "backup"}
    return roles.get(said)


def _swap(
    root: Path,
    changes: Sequence[Change],
    staged: dict[PurePosixPath, Path],
    servers: Servers | None,
    untold: Sequence[PurePosixPath],
) -> None:
    """Rename the new files into place and tell the servers; undo both when anything fails."""
    paths = tuple(change.path for change in changes)
    try:
        for path in paths:
            if path in staged:
                staged[path].replace(_at(root, path))
            else:
                _at(root, path).unlink()
            _sync(_at(root, path).parent)
        if servers is not None:
            servers.update((*paths, *untold))
    except BaseException as error:
        recover(root)
        failed = servers.undo((*paths, *untold)) if servers is not None else []
        if isinstance(error, PibuildError):
            error.message += "\nundone: the files are as they were before"
            error.message += f"; this failed all the same: {'; '.join(failed)}" if failed else ""
        _journal(root).unlink()
        raise


# -------------------------------------------------------------------------------------------------------------- files


def _at(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _staged(root: Path, path: PurePosixPath) -> Path:
    """Return where a new file waits, beside the one it replaces."""
    return _at(root, path).with_name(path.name + _STAGED)


def _live(root: Path, path: PurePosixPath) -> str | None:
    try:
        return _at(root, path).read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _stage(root: Path, path: PurePosixPath, text: str) -> Path:
    """Write the new file beside the old one, with its owner and mode."""
    live = _at(root, path)
    live.parent.mkdir(parents=True, exist_ok=True)
    staged = _staged(root, path)
    _write(staged, text.encode(errors="surrogateescape"), like=live if live.exists() else None)
    return staged


def _put(live: Path, content: bytes, *, like: Path) -> None:
    """Replace a file by rename."""
    staged = live.with_name(live.name + _STAGED)
    _write(staged, content, like=like)
    staged.replace(live)
    _sync(live.parent)


def _write(path: Path, content: bytes, *, like: Path | None) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)
    if like is not None:
        shutil.copymode(like, path)
        owner = like.stat()
        with contextlib.suppress(PermissionError):  # only root gives files away
            os.chown(path, owner.st_uid, owner.st_gid)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _back_up(root: Path, changes: Sequence[Change]) -> Path:
    """Copy what will be replaced; return the directory that holds it."""
    backups = _at(root, BACKUPS)
    backup = backups / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup.mkdir(parents=True, mode=0o700)
    for change in changes:
        if change.before is not None:
            kept = backup / change.path.relative_to("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            _write(kept, _at(root, change.path).read_bytes(), like=_at(root, change.path))
    return backup


def _drop_old_backups(root: Path, newest: Path | None) -> None:
    """Remove the oldest beyond KEPT, never the newest: a board without a battery may have begun in an earlier year."""
    backups = _at(root, BACKUPS)
    others = sorted(path for path in backups.iterdir() if path != newest) if backups.is_dir() else []
    for old in others[: max(0, len(others) + 1 - KEPT)]:
        shutil.rmtree(old)


def _journal(root: Path) -> Path:
    return _at(root, STATE / "journal.json")


def _write_journal(root: Path, changes: Sequence[Change], backup: Path, untold: Sequence[PurePosixPath]) -> None:
    """Note what is being replaced; `untold` are files of an interrupted apply that are as they should be."""
    noted = {
        "backup": str(BACKUPS / backup.name),
        "replaced": [str(change.path) for change in changes if change.before is not None],
        "new": [str(change.path) for change in changes if change.before is None],
        "untold": [str(path) for path in untold],
    }
    staged = _journal(root).with_suffix(".new")
    _write(staged, json.dumps(noted).encode(), like=None)
    staged.replace(_journal(root))
    _sync(_journal(root).parent)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep a second apply out; the lock ends with the process that holds it. Raises HostError."""
    state = _at(root, STATE)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        take(lock.fileno(), state / "lock", busy="another apply is running here", wait=False, hint="wait for it to end")
        yield

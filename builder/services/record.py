"""The records of an apply in /var/lib/pibuild/services: the files that it wrote, the server's role, a journal.

The record is why what an apply wrote and a later one does not want can go. While an apply runs, it names the files of
both, so that none is forgotten by a kill. It may lie in an image: a file it names is removed below /etc alone.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import HostError
from builder.host.dirmode import let_in
from builder.host.files import sync
from builder.host.locks import take
from builder.services.files import CONFIG, ConfigFile, ServerRole
from builder.services.place import at, put, read

STATE = PurePosixPath("/var/lib/pibuild/services")
_WRITTEN, _JOURNAL, _ROLE = STATE / "written.json", STATE / "journal.json", STATE / "role"
_ETC = PurePosixPath("/etc")

Written = Mapping[PurePosixPath, bool]  # a file's path; whether pibuild has only a marked part of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What an apply is replacing; `untold` are files of an earlier one that servers have yet to hear of.

    `backup` holds what was there of `replaced`; `written` is the record as it was.
    """

    backup: PurePosixPath
    replaced: tuple[PurePosixPath, ...]
    new: tuple[PurePosixPath, ...]
    untold: tuple[PurePosixPath, ...]
    written: Written

    @property
    def paths(self) -> tuple[PurePosixPath, ...]:
        """Every file that is being changed."""
        return (*self.replaced, *self.new)


def read_written(root: Path) -> Written:
    """Return what the last apply wrote. Raises HostError when the record cannot be read."""
    content = read(root, _WRITTEN)
    if content is None:
        return {}
    try:
        noted = json.loads(content)
        return {_path(name): _flag(block) for name, block in noted.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        hint = f"sudo rm {at(root, _WRITTEN)}; what earlier inventories had written then stays"
        raise HostError(f"{at(root, _WRITTEN)} is not what an apply writes: {error}", hint=hint) from error


def write_written(root: Path, written: Written) -> None:
    """Note what an apply wrote."""
    noted = {str(path): block for path, block in sorted(written.items())}
    content = json.dumps(noted, indent=1).encode() + b"\n"
    if read(root, _WRITTEN) != content:
        put(root, _WRITTEN, content)


def record_of(files: Sequence[ConfigFile]) -> Written:
    """Return the record of an apply that writes these files."""
    return {file.path: file.block for file in files}


def read_journal(root: Path) -> Journal | None:
    """Return the journal of an apply that was killed, None where none was. Raises HostError."""
    content = read(root, _JOURNAL)
    if content is None:
        return None
    try:
        noted = json.loads(content)
        replaced, new, untold = (tuple(map(_path, noted.pop(name))) for name in ("replaced", "new", "untold"))
        written = {_path(name): _flag(block) for name, block in noted.pop("written", {}).items()}
        backup = _path(noted.pop("backup"), PurePosixPath("/var/backups"))
        _nothing_more(noted)
        return Journal(backup=backup, replaced=replaced, new=new, untold=untold, written=written)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        journal = at(root, _JOURNAL)
        hint = f"put the files in order by hand, then: sudo rm {journal}; sudo pibuild services apply"
        raise HostError(f"an apply was interrupted, and {journal} cannot be read", hint=hint) from error


def write_journal(root: Path, journal: Journal) -> None:
    """Note what is about to be replaced."""
    noted = {
        "backup": str(journal.backup),
        "replaced": list(map(str, journal.replaced)),
        "new": list(map(str, journal.new)),
        "untold": list(map(str, journal.untold)),
        "written": {str(path): block for path, block in journal.written.items()},
    }
    put(root, _JOURNAL, json.dumps(noted).encode())


def drop_journal(root: Path) -> None:
    """Note that nothing is being replaced any more."""
    journal = at(root, _JOURNAL)
    journal.unlink(missing_ok=True)
    sync(journal.parent)


def is_interrupted(root: Path) -> bool:
    """Return whether an apply was killed, and nobody has tidied up after it."""
    return at(root, _JOURNAL).is_file()


def journal_path(root: Path) -> Path:
    """Return where the journal lies."""
    return at(root, _JOURNAL)


def note_role(root: Path, role: ServerRole) -> None:
    """Note which server this machine is, for `served_as`."""
    put(root, _ROLE, f"{role}\n".encode())


def served_as(root: Path) -> ServerRole | None:
    """Return which server an apply has made of this machine, None for one that is none."""
    said = (read(root, _ROLE) or b"").strip()
    roles: dict[bytes, ServerRole] = {b"login": "login", b"backup": "backup"}
    return roles.get(said)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second apply out; the lock ends with the process that holds it. Raises HostError."""
    at(root, STATE).mkdir(parents=True, exist_ok=True)
    for own in (STATE, CONFIG):
        let_in(at(root, own))
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(at(root, STATE / "lock"), flags, 0o644), "r+b") as lock:
        path = at(root, STATE / "lock")
        take(lock.fileno(), path, busy="another apply is running here", wait=False, hint="wait for it to end")
        yield


def _path(name: str, below: PurePosixPath = _ETC) -> PurePosixPath:
    """Return a path that a record names. Raises ValueError for one where no apply writes."""
    path = PurePosixPath(name)
    if not path.is_relative_to(below) or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} is not below {below}")
    return path


def _nothing_more(noted: Mapping[str, object]) -> None:
    if noted:
        raise ValueError(f"nobody knows {', '.join(noted)}")


def _flag(block: object) -> bool:
    if not isinstance(block, bool):
        raise ValueError(f"{block!r} is neither true nor false")  # noqa: TRY004 - of a file's content
    return block

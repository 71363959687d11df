"""Writing into the root of a step's target: never outside of it, every owner and mode explicit.

Files are replaced, not written into: a hard link elsewhere, an old file's extended attributes and a running program's
text are not touched.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from builder.documents.spelling import did_you_mean
from builder.errors import InputError, Mark, StepError
from builder.host.confine import resolve_in
from builder.host.named_file import read_named
from builder.image.passwd import parse_id
from builder.recipe.steps.base import Place, Target

ROOT_OWNER = (0, 0)
_MAGIC = frozenset("*?[")
_MOUNT_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}  # proc(5), mountinfo


class RootFiles:
    """The files of a target's root, for one step. Paths are absolute inside the root; every failure is a StepError."""

    def __init__(self, target: Target, at: Place) -> None:
        self.root: Path = target.root
        self.mark: Mark = at.mark

    def error(self, message: str, *, hint: str = "") -> StepError:
        """Return a StepError that says where the step stands."""
        return StepError(f"{self.mark}: {message}", hint=hint)

    def resolve(self, path: str, *, follow: bool = True) -> Path:
        """Return the host's path of a path in the root; `follow=False` leaves a link in the last place as it is."""
        with self._doing(path):
            return resolve_in(self.root, path, follow=follow)

    def exists(self, path: str) -> bool:
        """Say whether something, be it a broken link, stands at a path."""
        return os.path.lexists(self.resolve(path, follow=False))

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None where there is none. Links are followed inside the root."""
        found = self.resolve(path)
        with self._doing(path):
            return read_named(found) if found.exists() else None

    def owner(self, owner: str) -> tuple[int, int]:
        """Return the uid and gid of `user:group` by the root's own account files."""
        user, group = owner.split(":")
        return self._id("/etc/passwd", "user", user), self._id("/etc/group", "group", group)

    def write(self, path: str, content: bytes | IO[bytes], *, owner: tuple[int, int] = ROOT_OWNER, mode: int) -> None:
        """Put a file in place of whatever file or link is there; missing directories are made root's, 0755."""
        with self._doing(path):
            self._replace(self._place(path), content, owner, mode)

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        """Change a text file as a function says, links followed; it keeps its owner and mode. It need not exist."""
        with self._doing(path):
            place = self.resolve(path)
            if place.exists():
                status, text = place.stat(), read_named(place).decode("utf-8", "surrogateescape")
                owner, mode = (status.st_uid, status.st_gid), status.st_mode & 0o7777
            else:
                text, owner, mode = "", ROOT_OWNER, 0o644
                self.make_directory(os.path.dirname(path))  # noqa: PTH120 - a path in the root
            changed = change(text)
            if changed != text:
                self._replace(place, changed.encode("utf-8", "surrogateescape"), owner, mode)

    def make_directory(self, path: str, *, owner: tuple[int, int] | None = None, mode: int | None = None) -> None:
        """Have a directory, a link to one counting as one.

        What exists keeps what is not given; new ones are 0755, root's.
        """
        place = self.resolve(path)
        with self._doing(path):
            self._make_directories(place)
            if owner is not None:
                os.chown(place, *owner)
            if mode is not None:
                place.chmod(mode)

    def make_link(self, path: str, target: str, *, owner: tuple[int, int] = ROOT_OWNER) -> None:
        """Put a symbolic link in place of whatever file or link is there."""
        with self._doing(path):
            place = self._place(path)
            with self._beside(place) as temporary:
                temporary.unlink()
                temporary.symlink_to(target)
                os.lchown(temporary, *owner)
                temporary.replace(place)

    def make_hard_link(self, path: str, existing: str) -> None:
        """Put another name of a file in place of whatever file or link is there."""
        with self._doing(path):
            place = self._place(path)
            with self._beside(place) as temporary:
                temporary.unlink()
                temporary.hardlink_to(self.resolve(existing, follow=False))
                temporary.replace(place)

    def remove(self, path: str) -> None:
        """Remove a file, link or whole directory; a directory that something is mounted on or under is refused."""
        place = self.resolve(path, follow=False)
        with self._doing(path):
            if place.is_symlink() or not place.is_dir():
                place.unlink()
                return
            mounted = next((point for point in _mount_points() if point.is_relative_to(place.resolve())), None)
            if mounted or place == self.root:
                raise self.error(f"{path}: a file system is mounted there; it is not removed")
            shutil.rmtree(place)

    def find(self, pattern: str) -> list[str]:
        """Return the paths in the root that a pattern names, sorted: `*`, `?` and `[…]` within a name, `**` any depth.

        Names that begin with a dot match as any others. Links to directories are followed, but not by `**`.
        """
        paths = [""]
        for part in PurePosixPath(pattern).parts[1:]:
            paths = [f"{path}{name}" for path in paths for name in self._matching(path, part)]
        return sorted(set(paths))

    def _matching(self, path: str, part: str) -> Iterator[str]:
        place = self.resolve(path or "/")
        if part == "**":
            yield ""
            for directory, names, _ in os.walk(place):
                inner = Path(directory).relative_to(place)
                yield from (f"/{inner / name}" for name in names if not Path(directory, name).is_symlink())
        elif _MAGIC.isdisjoint(part):
            yield from [f"/{part}"] if place.is_dir() and os.path.lexists(place / part) else []
        elif place.is_dir():
            yield from (f"/{entry.name}" for entry in place.iterdir() if fnmatch.fnmatchcase(entry.name, part))

    def _id(self, file: str, what: str, name: str) -> int:
        number = parse_id(name)
        if number is not None:
            return number
        entries = [line.split(":") for line in (self.read(file) or b"").decode(errors="replace").splitlines()]
        ids = {entry[0]: entry[2] for entry in entries if len(entry) > 2}  # noqa: PLR2004 - name:password:id
        if name not in ids:
            near = did_you_mean(name, ids).removeprefix("; ")
            hint = near or "a package or a user step before this one has to bring it"
            raise self.error(f"the root has no {what} '{name}' ({file})", hint=hint)
        known = parse_id(ids[name])
        if known is None:
            raise self.error(f"{file} gives the {what} '{name}' no number")
        return known

    def _place(self, path: str) -> Path:
        place = self.resolve(path, follow=False)
        self._make_directories(place.parent)
        if place.is_dir() and not place.is_symlink():
            raise self.error(f"{path} is a directory in the root", hint="remove it first, or choose another path")
        return place

    def _make_directories(self, place: Path) -> None:
        missing = []
        while not place.exists():
            missing.append(place)
            place = place.parent
        if not place.is_dir():
            raise self.error(f"/{place.relative_to(self.root)} is no directory in the root", hint="remove it first")
        for directory in reversed(missing):
            directory.mkdir()
            os.chown(directory, *ROOT_OWNER)
            directory.chmod(0o755)

    def _replace(self, place: Path, content: bytes | IO[bytes], owner: tuple[int, int], mode: int) -> None:
        with self._beside(place) as temporary:
            with temporary.open("wb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    shutil.copyfileobj(content, stream, 1 << 20)
            os.chown(temporary, *owner)
            temporary.chmod(mode)
            temporary.replace(place)

    @contextlib.contextmanager
    def _beside(self, place: Path) -> Iterator[Path]:
        handle, name = tempfile.mkstemp(prefix=".pibuild-", dir=place.parent)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _doing(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.error(f"{path}: {(error.strerror or str(error)).lower()}") from error
        except InputError as error:  # what lies there is no file, or far too long
            raise self.error(error.message) from error


def matches(pattern: str, path: str) -> bool:
    """Say whether a path is one that a pattern (as of `RootFiles.find`) names."""
    return _match(PurePosixPath(pattern).parts, PurePosixPath(path).parts)


def _match(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_match(pattern[1:], names[skipped:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _match(pattern[1:], names[1:])


def is_pattern(path: str) -> bool:
    """Say whether a path has wildcards."""
    return not _MAGIC.isdisjoint(path)


def _mount_points() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        for escape, character in _MOUNT_ESCAPES.items():
            point = point.replace(escape, character)
        yield Path(point)

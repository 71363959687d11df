"""Say what changed between two images: `pibuild diff`. Packages, files, units, boot configuration."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from builder.image.filesystem import Entry, FileSystem
from builder.image.open import Image
from builder.packages.dpkg_status import Package
from builder.printable import one_line
from builder.verify.inspect import packages_of, text_of, units_of

_BOOT_TEXTS = ("/config.txt", "/cmdline.txt", "/usercfg.txt", "/syscfg.txt", "/tryboot.txt")
_IN_MEMORY = 16 << 20  # bytes up to which two files are compared as a whole; hashing is slower
_FILES_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageChange:
    """A package that came (`before` empty), went (`after` empty) or changed its version."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file in both images that differs: `aspects` in words, such as `content` or `mode 0644 -> 0755`."""

    path: str
    aspects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesDiff:
    """Differences of one file system. `added` and `removed` are paths; a whole directory stands for all it holds."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDiff:
    """What changed from image `before` to image `after`. Modification times are no change.

    `units` has lines such as `enabled ssh.service`; `boot_texts` unified diffs of config.txt, cmdline.txt and the like;
    `partitions` lines about labels, sizes and ids.
    """

    before: str
    after: str
    partitions: tuple[str, ...]
    packages: tuple[PackageChange, ...]
    units: tuple[str, ...]
    boot_texts: tuple[str, ...]
    boot: FilesDiff
    root: FilesDiff

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        nothing = FilesDiff(added=(), removed=(), changed=())
        lists = (self.partitions, self.packages, self.units, self.boot_texts)
        return not any(lists) and self.boot == nothing and self.root == nothing


def diff(before: Image, after: Image) -> ImageDiff:
    """Compare two images; contents are compared byte by byte where sizes are the same."""
    return ImageDiff(
        before=str(before.given),
        after=str(after.given),
        partitions=_partitions(before, after),
        packages=_packages(packages_of(before.root), packages_of(after.root)),
        units=_units(before.root, after.root),
        boot_texts=_boot_texts(before.boot, after.boot),
        boot=compare(before.boot, after.boot),
        root=compare(before.root, after.root),
    )


def to_dict(changes: ImageDiff) -> dict[str, Any]:
    """Return a diff as JSON has it."""
    return dataclasses.asdict(changes)


def compare(before: FileSystem | None, after: FileSystem | None) -> FilesDiff:
    """Compare two file systems; one that is missing holds nothing."""
    old = {entry.path: entry for entry in before.walk()} if before else {}
    new = {entry.path: entry for entry in after.walk()} if after else {}
    changed = []
    same: set[tuple[int, int]] = set()
    for path in sorted(old.keys() & new.keys()):
        assert before is not None  # noqa: S101 - it holds the path
        assert after is not None  # noqa: S101
        one, two = old[path], new[path]
        aspects = _aspects(one, two) + _attributes(before, one, after, two)
        if one.kind == two.kind == "file":
            pair = (one.inode, two.inode)
            if one.inode == 0 or pair not in same:
                if _content_differs(before, one, after, two):
                    aspects.insert(0, "content" if one.size == two.size else f"content {one.size} -> {two.size} bytes")
                else:
                    same.add(pair)
        if aspects:
            changed.append(FileChange(path=path, aspects=tuple(aspects)))
    return FilesDiff(
        added=_tops(new, new.keys() - old.keys()), removed=_tops(old, old.keys() - new.keys()), changed=tuple(changed)
    )


def _tops(entries: dict[str, Entry], paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths without those in a directory that is among them; directories end in a slash."""
    chosen = set(paths)
    tops = sorted(path for path in chosen if path.rpartition("/")[0] not in chosen)
    return tuple(f"{path}/" if entries[path].directory else path for path in tops)


def _aspects(one: Entry, two: Entry) -> list[str]:
    if one.kind != two.kind:
        return [f"{one.kind} -> {two.kind}"]
    aspects = []
    if one.mode != two.mode and one.kind != "symlink":
        aspects.append(f"mode {one.mode:04o} -> {two.mode:04o}")
    if (one.uid, one.gid) != (two.uid, two.gid):
        aspects.append(f"owner {one.uid}:{one.gid} -> {two.uid}:{two.gid}")
    if one.target != two.target:
        aspects.append(f"link {one.target} -> {two.target}")
    if one.device != two.device:
        aspects.append(f"device {one.device} -> {two.device}")
    return aspects


def _attributes(before: FileSystem, one: Entry, after: FileSystem, two: Entry) -> list[str]:
    old, new = before.xattrs(one), after.xattrs(two)
    return [f"attribute {name}" for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _content_differs(before: FileSystem, one: Entry, after: FileSystem, two: Entry) -> bool:
    if one.size != two.size:
        return True
    if one.size <= _IN_MEMORY:
        return b"".join(before.chunks(one)) != b"".join(after.chunks(two))
    return before.sha256(one) != after.sha256(two)


def _packages(before: tuple[Package, ...], after: tuple[Package, ...]) -> tuple[PackageChange, ...]:
    old, new = ({f"{each.name}:{each.architecture}": each.version for each in side} for side in (before, after))
    return tuple(
        PackageChange(name=name, before=old.get(name, ""), after=new.get(name, ""))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def _units(before: FileSystem, after: FileSystem) -> tuple[str, ...]:
    old, new = units_of(before), units_of(after)
    lines = []
    for word, one, two in (
        ("enabled", old.enabled, new.enabled),
        ("no longer enabled", new.enabled, old.enabled),
        ("masked", old.masked, new.masked),
        ("no longer masked", new.masked, old.masked),
    ):
        lines += [f"{word} {name}" for name in sorted(set(two) - set(one))]
    return tuple(lines)


def _boot_texts(before: FileSystem | None, after: FileSystem | None) -> tuple[str, ...]:
    lines: list[str] = []
    for path in _BOOT_TEXTS:
        old, new = (text_of(side, path).splitlines() if side else [] for side in (before, after))
        lines += difflib.unified_diff(old, new, f"before{path}", f"after{path}", lineterm="", n=1)
    return tuple(lines)


def _partitions(before: Image, after: Image) -> tuple[str, ...]:
    lines = [] if before.table == after.table else [f"table {before.table} -> {after.table}"]
    old, new = ({each.number: each for each in side.partitions} for side in (before, after))
    for number in sorted(old.keys() | new.keys()):
        if number not in old or number not in new:
            lines.append(f"partition {number} {'added' if number in new else 'removed'}")
            continue
        for name in ("start", "size", "type", "partuuid", "filesystem", "label", "uuid"):
            one, two = getattr(old[number], name), getattr(new[number], name)
            if one != two:
                lines.append(f"partition {number} {name} {one} -> {two}")
    return tuple(lines)


def render(changes: ImageDiff) -> list[str]:
    """Return the changes as lines for people; of very many files the first ones and a count."""
    if changes.empty:
        return ["no difference"]
    packages = [
        f"{'+' if not each.before else '-' if not each.after else '~'} {each.name} "
        + " -> ".join(version for version in (each.before, each.after) if version)
        for each in changes.packages
    ]
    sections = (
        ("partitions", list(changes.partitions)),
        ("packages", packages),
        ("units", list(changes.units)),
        ("boot configuration", list(changes.boot_texts)),
        ("boot partition", _file_lines(changes.boot)),
        ("files", _file_lines(changes.root)),
    )
    lines = []
    for title, body in sections:
        if body:
            lines += [f"{title} ({len(body)})", *(f"  {one_line(line)}" for line in body[:_FILES_SHOWN])]
            if len(body) > _FILES_SHOWN:
                lines.append(f"  … and {len(body) - _FILES_SHOWN} more; --json has them all")
    return lines


def _file_lines(files: FilesDiff) -> list[str]:
    return [
        *(f"+ {path}" for path in files.added),
        *(f"- {path}" for path in files.removed),
        *(f"~ {each.path}: {', '.join(each.aspects)}" for each in files.changed),
    ]

"""Which programs of a target may native builds stand in for now: files that are their package's own, same version.

A program's file must be what its package's list of checksums says. What a recipe's author, a diversion or another
version put in its place is emulated as what it is. Within a step the launcher goes on comparing modification times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.emulation.tools_tree import merged_path, read_programs, source_version
from builder.host.confine import resolve_in

_INFO = "var/lib/dpkg/info"
_Identity = tuple[int, int, int, int]  # inode, size, modification and change time (ns)


@dataclass(slots=True, kw_only=True)
class StandIns:
    """The stand-ins for one layer's root.

    `versions` are the packages that the root holds while the layer is made; `fresh` means that a first set of
    packages is unpacked and not yet known to dpkg, so that every file there is a package's own.
    """

    tools: Path | None
    root: Path
    versions: Mapping[str, str]
    _programs: dict[str, tuple[str, str]] = field(default_factory=dict)
    _sums: dict[Path, tuple[_Identity, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tools is not None:
            self._programs = {
                path: (package, version)
                for path, (package, version) in read_programs(self.tools).items()
                if source_version(self.versions.get(package, "")) == source_version(version)
            }

    def paths(self, *, without: Sequence[str] = (), fresh: bool = False) -> dict[str, int]:
        """Return the paths that may stand in, each with the modification time (ns) of its file, 0 where there is none.

        `without` are beginnings of program names (`perl`) that must not, because a recipe's author could see the
        difference.
        """
        owned: dict[str, dict[str, str] | None] = {}
        diverted = self._diverted()
        found = {}
        for path, (package, _) in self._programs.items():
            if path in diverted or path.rpartition("/")[2].startswith(tuple(without) or ("\0",)):
                continue
            if package not in owned:
                owned[package] = self._listed(package)
            modified = self._modified(path, owned[package], fresh=fresh)
            if modified is not None:
                found[path] = modified
        return found

    def _modified(self, path: str, sums: Mapping[str, str] | None, *, fresh: bool) -> int | None:
        """Return a file's modification time, 0 when it is still to come, None when it is not its package's own."""
        file = resolve_in(self.root, path)
        if not file.is_file():
            return 0
        if (
            sums is None
        ):  # the package is not installed: only the unpacking of a first root puts a file of its own there
            return file.stat().st_mtime_ns if fresh else None
        return file.stat().st_mtime_ns if self._md5(file) == sums.get(path) else None

    def _md5(self, file: Path) -> str:
        status = file.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._sums.get(file)
        if known is None or known[0] != identity:
            known = (identity, hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
            self._sums[file] = known
        return known[1]

    def _listed(self, package: str) -> dict[str, str] | None:
        """Return the checksums of an installed package's files by path below /usr; None when it is not installed."""
        info = resolve_in(self.root, _INFO)
        if not any((info / f"{name}.list").exists() for name in (package, f"{package}:arm64")):
            return None
        sums = {}
        for name in (package, f"{package}:arm64"):
            if (info / f"{name}.md5sums").exists():
                for line in (info / f"{name}.md5sums").read_text(errors="replace").splitlines():
                    digest, _, path = line.partition("  ")
                    sums[f"/{merged_path(path)}"] = digest
        return sums

    def _diverted(self) -> frozenset[str]:
        """Return the paths that dpkg-divert has a say in: path, other path and package in a line each."""
        file = resolve_in(self.root, "var/lib/dpkg/diversions")
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        return frozenset(f"/{merged_path(line.lstrip('/'))}" for n, line in enumerate(lines) if n % 3 != 2)  # noqa: PLR2004

"""What this machine's own apt is configured to, remembered until a file of its configuration or its lists changes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.host.cache import Cache, read_json, write_json
from builder.host.hashing import digest_of
from builder.run import find_tool, run

_CONFIGURATION = Path("/etc/apt")
_LISTS = Path("/var/lib/apt/lists")
_ELSEWHERE = re.compile(r"Dir::(Etc|State)|^\s*Dir\s*\{|#include", re.IGNORECASE | re.MULTILINE)


def asked(cache: Cache, tool: str, words: Sequence[str]) -> str:
    """Return what a tool of apt's prints about the machine's configuration. Raises HostError, CommandError."""
    stamps = _stamps()
    memo = cache.resolutions / f"machine-{digest_of([tool, *words])[:16]}.json"
    known = read_json(memo)
    if stamps and known and known["stamps"] == stamps:
        return str(known["said"])
    said = run([find_tool(tool, package="apt"), *words]).stdout
    if stamps:
        write_json(memo, {"stamps": stamps, "said": said})
    return said


def _stamps() -> list[list[object]]:
    """Return what changes when the configuration does; nothing where it may lie in other places than usual."""
    files = sorted(_files())
    told = [path for path in files if path.name == "apt.conf" or path.parent.name == "apt.conf.d"]
    if any(_ELSEWHERE.search(path.read_text(errors="replace")) for path in told if path.is_file()):
        return []
    return [_stamp(path) for path in [*files, _LISTS] if path.exists()]


def _files() -> Iterator[Path]:
    for directory in ("apt.conf.d", "sources.list.d"):
        place = _CONFIGURATION / directory
        if place.is_dir():
            yield place
            yield from place.iterdir()
    yield from (_CONFIGURATION / name for name in ("apt.conf", "sources.list"))


def _stamp(path: Path) -> list[object]:
    facts = os.stat(path)  # noqa: PTH116 - of what a link leads to, too
    return [str(path), facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size]

"""Check, before dpkg-deb unpacks packages as the host's root, that none leads out of the directory.

`dpkg-deb -x` follows links that an earlier package made. One package with a link `x -> /etc`, another with a file
`x/y`, from an archive that a recipe names: that would be a file of the host. Later dpkg runs in the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import FetchError
from builder.run import find_tool, run

_MOST_LINKS = 40  # MAXSYMLINKS of linux/namei.h
_ARROW, _LINK_TO = " -> ", " link to "


def require_contained(debs: Sequence[Path], *, links: Mapping[str, str]) -> None:
    """Raise FetchError where unpacking package files one over another could write outside the directory.

    `links` are those that are in the directory already, by path.
    """
    dpkg_deb = find_tool("dpkg-deb", package="dpkg")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        listings = list(pool.map(lambda deb: run([dpkg_deb, "--contents", deb]).stdout, debs))
    made = dict(links)
    for listing in listings:
        made |= {
            name: target for kind, line in _lines(listing) if kind == "l" for name, target in _splits(line, _ARROW)
        }
    for deb, listing in zip(debs, listings, strict=True):
        for kind, line in _lines(listing):
            names = (
                [line]
                if kind not in "lh"
                else [
                    end
                    for split in _splits(line, _ARROW if kind == "l" else _LINK_TO)
                    for end in split[: 2 if kind == "h" else 1]
                ]
            )
            for name in names:
                if not _stays(name.rpartition("/")[0], made):
                    hint = "do not use this archive: no distribution's packages write through links out of the root"
                    raise FetchError(f"{deb.name}: {name} lies behind a link that leads out of the root", hint=hint)


def _lines(listing: str) -> Iterator[tuple[str, str]]:
    """Yield kind and name, with what follows it, of each line: `-rw-r--r-- root/root 12 2025-01-01 10:00 ./usr/x`."""
    for line in listing.splitlines():
        words = line.split(maxsplit=5)
        if len(words) > 5:  # noqa: PLR2004 - the name is the sixth
            yield words[0][0], words[5].removeprefix("./").rstrip("/")


def _splits(line: str, between: str) -> Iterator[tuple[str, str]]:
    """Yield every way to read a line as a name and a target: a name may hold the words between."""
    at = line.find(between)
    while at >= 0:
        yield (
            line[:at],
            line[at + len(between) :].removeprefix("./") if between == _LINK_TO else line[at + len(between) :],
        )
        at = line.find(between, at + 1)


def _stays(path: str, links: Mapping[str, str]) -> bool:
    """Return whether a directory lies within the root whatever links are made on the way to it."""
    pending, done, followed = [part for part in path.split("/") if part][::-1], list[str](), 0
    while pending:
        part = pending.pop()
        if part == "..":
            if not done:
                return False
            done.pop()
            continue
        target = links.get("/".join([*done, part]))
        if target is None:
            done.append(part)
            continue
        followed += 1
        if target.startswith("/") or followed > _MOST_LINKS:
            return False
        pending += [piece for piece in target.split("/") if piece not in ("", ".")][::-1]
    return True

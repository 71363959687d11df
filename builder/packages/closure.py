"""Cut package lists down to the wanted packages and all that they may need.

apt reads all of Debian for each question, two seconds' work. Its answer depends on the packages named, on those that
are installed, on the essential ones, and on whatever these may come to need: every alternative, every provider of it,
in every version. Lists cut down to those give the same answer; they keep their order, by which apt settles ties.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

_PACKAGE = re.compile(rb"^Package: (\S+)$", re.MULTILINE)
_PROVIDES = re.compile(rb"^Provides: (.*(?:\n[ \t].*)*)", re.MULTILINE)
_KEPT = re.compile(rb"^(?:Essential|Important|Protected): yes$", re.MULTILINE)
_NEEDS = re.compile(rb"^(?:Pre-)?Depends: (.*(?:\n[ \t].*)*)", re.MULTILINE)
_RECOMMENDS = re.compile(rb"^Recommends: (.*(?:\n[ \t].*)*)", re.MULTILINE)
_NAME = re.compile(rb"(?:^|[,|])\s*([A-Za-z0-9][A-Za-z0-9+.-]*)")  # deb822 relations, without versions and `:any`
_PLAIN = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9]")  # a name that apt takes for nothing else
_ESSENTIAL = "?essential"  # the one pattern whose packages are always kept


class Lists:
    """The package lists of a set of sources, in memory."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.texts = {path: path.read_bytes() for path in paths}
        self._places: dict[str, list[tuple[Path, int, int]]] = {}
        self._providers: dict[str, set[str]] = {}
        self._essential: set[str] = set()
        for path, text in self.texts.items():
            self._note(path, text)

    def _note(self, path: Path, text: bytes) -> None:
        found = [(match.start(), match[1].decode()) for match in _PACKAGE.finditer(text)]
        begins = [begin for begin, _ in found]
        for (begin, name), end in zip(found, [*begins[1:], len(text)], strict=True):
            self._places.setdefault(name, []).append((path, begin, end))
        for match in _PROVIDES.finditer(text):
            for provided in _names(match[1]):
                self._providers.setdefault(provided, set()).add(found[bisect_right(begins, match.start()) - 1][1])
        self._essential |= {found[bisect_right(begins, match.start()) - 1][1] for match in _KEPT.finditer(text)}

    def stanzas(self, name: str) -> list[bytes]:
        """Return what the lists say of a package, one stanza a version."""
        return [self.texts[path][begin:end] for path, begin, end in self._places.get(name, ())]

    def can_be_cut(self, words: Iterable[str]) -> bool:
        """Return whether all that is asked for are names of packages here, which apt reads as nothing else."""
        return all(word == _ESSENTIAL or (_PLAIN.fullmatch(word) and word in self._places) for word in words)

    def cut(self, words: Sequence[str], status: str, *, recommends: bool) -> Mapping[Path, bytes]:
        """Return the lists with those packages alone that matter where `words` are asked for.

        `status` is a dpkg status text: what is installed.
        """
        patterns = (_NEEDS, _RECOMMENDS) if recommends else (_NEEDS,)
        installed = status.encode()
        pending = {*words, *self._essential, *(match[1].decode() for match in _PACKAGE.finditer(installed))}
        pending |= set(_needed(installed, patterns))
        kept: set[str] = set()
        while pending:
            name = pending.pop()
            kept.add(name)
            needed = {other for stanza in self.stanzas(name) for other in _needed(stanza, patterns)}
            pending |= (needed | self._providers.get(name, set())) - kept
        places = sorted(place for name in kept for place in self._places.get(name, ()))
        return {
            path: b"".join(text[begin:end] for where, begin, end in places if where == path)
            for path, text in self.texts.items()
        }


def _needed(text: bytes, patterns: Iterable[re.Pattern[bytes]]) -> Iterator[str]:
    return (name for pattern in patterns for match in pattern.finditer(text) for name in _names(match[1]))


def _names(relations: bytes) -> list[str]:
    return [match.decode() for match in _NAME.findall(relations)]

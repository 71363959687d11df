"""The Pi firmware's `config.txt`, edited as text.

Source of the format: Raspberry Pi documentation, "config.txt" and "Conditional filters". A line `[filter]` restricts
what follows. A filter takes the place of an earlier one of its own type (a model's of a model's), adds to those of
other types, and `[all]` ends them all. So a line stands under a set of filters; here, "section pi4" means the lines
under `[pi4]` and nothing else, "section all" those under no filter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MOST_CHARACTERS = 98  # of a line; the firmware drops the rest
REPEATED = frozenset({"dtoverlay", "dtparam", "gpio", "include", "device_tree_overlay", "device_tree_param"})
_SPACED = frozenset({"initramfs", "include"})  # commands: `initramfs initrd.img followkernel`, no `=`
_FILTER = re.compile(r"\s*\[([^\]]*)\]")
_SETTING = re.compile(r"\s*([A-Za-z][\w.:-]*)\s*(?:=|\s|$)")
_MODEL = re.compile(r"(pi|cm)\d.*")
_NO_FILTER: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEdit:
    """What to change in one section: keys or whole lines to take away, keys to set, lines to have."""

    section: str = "all"
    remove: Sequence[str] = ()
    set: Mapping[str, str] = field(default_factory=dict)
    add: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line as it stands in the file, without its end, and the filters over it (a filter line: those it leads to)."""

    text: str
    filters: frozenset[str]

    @property
    def is_filter(self) -> bool:
        """Whether the line is a `[filter]`."""
        return _FILTER.match(self.text) is not None

    @property
    def key(self) -> str:
        """The key the line sets; nothing for comments, filters and empty lines."""
        return key_of(self.text)


def key_of(line: str) -> str:
    """Return the key that a line sets, `""` where it sets none."""
    found = _SETTING.match(line)
    return found[1] if found else ""


def setting(key: str, value: str) -> str:
    """Return the line that sets a key."""
    return f"{key} {value}" if key in _SPACED else f"{key}={value}"


def lines_of(change: ConfigEdit) -> list[str]:
    """Return the lines that an edit writes."""
    return [*(setting(key, value) for key, value in change.set.items()), *change.add]


def parse(text: str) -> list[Line]:
    """Return the lines of a file with the filters over each."""
    texts = text.split("\n")
    return list(_under_filters(texts[:-1] if texts[-1] == "" else texts))


def settings(text: str, section: str = "all") -> dict[str, list[str]]:
    """Return a section's settings: every value of every key, in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in parse(text):
        if line.key and line.filters == _filters_of(section):
            value = line.text.strip()[len(line.key) :].strip().removeprefix("=").strip()
            found.setdefault(line.key, []).append(value)
    return found


def edit(text: str, change: ConfigEdit) -> str:
    """Return the edited text. Comments, the other sections and the order of what is there stay as they are.

    First `remove` (a bare key: all lines that set it, but for those to be added; with `=` or a blank: that line), then
    `set` (the key's last line in the section is replaced, earlier ones go; a new key comes at the section's end), then
    `add` (at the section's end, unless the line is there). A missing section comes at the end of the file. Editing
    twice is editing once, as long as no key is both set and removed or added.
    """
    section = _filters_of(change.section)
    lines = [line for line in parse(text) if not (line.filters == section and _is_removed(line, change))]
    for key, value in change.set.items():
        lines = _set(lines, section, change.section, key, setting(key, value))
    for added in change.add:
        if not any(_same(line.text, added) for line in lines if line.filters == section and not line.is_filter):
            lines = _append(lines, section, change.section, added)
    return "".join(line.text + "\n" for line in lines)


def _under_filters(texts: Sequence[str]) -> Iterator[Line]:
    active: dict[str, str] = {}
    for text in texts:
        found = _FILTER.match(text)
        if found:
            name = _plain(found[1])
            if name == "all":
                active.clear()
            else:
                active[_type_of(name)] = name
        yield Line(text=text, filters=frozenset(active.values()))


def _plain(name: str) -> str:
    return name.strip().casefold()


def _type_of(name: str) -> str:
    """Return a filter's type; two of one type replace each other."""
    if _MODEL.fullmatch(name):
        return "model"
    if name.startswith("0x"):
        return "serial"
    return re.split(r"[=:]", name)[0].rstrip("0123456789")


def _filters_of(section: str) -> frozenset[str]:
    name = _plain(section)
    return _NO_FILTER if name == "all" else frozenset({name})


def _is_removed(line: Line, change: ConfigEdit) -> bool:
    if not line.key or any(_same(line.text, added) for added in change.add):
        return False
    return any(
        line.key == removed if key_of(removed) == removed else _same(line.text, removed) for removed in change.remove
    )


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def _set(lines: list[Line], section: frozenset[str], name: str, key: str, text: str) -> list[Line]:
    places = [index for index, line in enumerate(lines) if line.filters == section and line.key == key]
    if not places:
        return _append(lines, section, name, text)
    kept = [line for index, line in enumerate(lines) if index not in places[:-1]]
    last = places[-1] - (len(places) - 1)
    kept[last] = Line(text=text, filters=section)
    return kept


def _append(lines: list[Line], section: frozenset[str], name: str, text: str) -> list[Line]:
    """Return the lines with one more at the end of the section, begun at the file's end if it is missing."""
    new = Line(text=text, filters=section)
    places = [index for index, line in enumerate(lines) if line.filters == section]
    if not places and (section or lines):
        return [*lines, *_begin_section(lines, section, name), new]
    end = places[-1] + 1 if places else 0
    while end and not lines[end - 1].text.strip() and lines[end - 1].filters == section:
        end -= 1
    return [*lines[:end], new, *lines[end:]]


def _begin_section(lines: list[Line], section: frozenset[str], name: str) -> Iterator[Line]:
    if lines:
        yield Line(text="", filters=lines[-1].filters)
    if not section or (lines and lines[-1].filters):
        yield Line(text="[all]", filters=_NO_FILTER)
    if section:
        yield Line(text=f"[{name.strip()}]", filters=section)

"""Where every value of a node comes from: its own entry, a group, its role, the defaults, or built in."""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import Mark
from builder.inventory.nodes import Node
from builder.inventory.read import ADDING, Reading, inherits, set_in
from builder.inventory.schema import BUILT_IN

_OWN = ("name", "aliases", "serial", "mac", "address", "port", "role", "groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A field, its value, why it is so, and where that is written (None: built in, or not set)."""

    field: str
    value: object
    why: str
    mark: Mark | None


def explain(read: Reading, node: Node) -> list[Explained]:
    """Return a row for each field; for what adds up over the levels, such as labels, one for each part."""
    own = [_explain_own(read, node, field) for field in _OWN]
    return own + [row for field in BUILT_IN for row in _explain_setting(read, node, field)]


def _explain_own(read: Reading, node: Node, field: str) -> Explained:
    index = read.inventory.nodes.index(node)
    entry = read.file.nodes[index]
    value = getattr(node, field)
    if field == "aliases" and node.aliases and not entry.aliases:
        mark = read.document.mark(("nodes", index, "name"))
        return Explained(field=field, value=value, why="the name as written", mark=mark)
    if field not in entry.model_fields_set:
        return Explained(field=field, value=value, why="not set", mark=None)
    written = getattr(entry, field)
    changed = field in {"name", "serial", "mac"} and value != written
    why = f"made of '{written}'" if changed else "its entry"
    return Explained(field=field, value=value, why=why, mark=read.document.mark(("nodes", index, field)))


def _explain_setting(read: Reading, node: Node, field: str) -> list[Explained]:
    index = read.inventory.nodes.index(node)
    entry = read.file.nodes[index]
    levels: list[tuple[tuple[str | int, ...], object]] = [(("nodes", index), set_in(entry).get(field))]
    levels += [(path, set_in(settings).get(field)) for path, settings in inherits(read.file, entry)]
    written = [(path, value) for path, value in levels if value is not None]
    if not written:
        return [Explained(field=field, value=getattr(node, field), why="built in", mark=None)]
    if field in ADDING:
        rows = [row for path, value in written for row in _parts(read, field, path, value)]
        return list({(row.field, row.value if field == "cmdline" else ""): row for row in reversed(rows)}.values())[
            ::-1
        ]
    path = written[0][0]
    mark = read.document.mark((*path, field))
    return [Explained(field=field, value=getattr(node, field), why=_level(path), mark=mark)]


def _parts(read: Reading, field: str, path: tuple[str | int, ...], value: object) -> list[Explained]:
    """Return a row for each label or word that a level adds."""
    if isinstance(value, dict):
        keys: list[tuple[str, str | int, object]] = [(f"{field}.{key}", key, label) for key, label in value.items()]
    else:
        keys = [(field, place, word) for place, word in enumerate(value if isinstance(value, list) else [])]
    return [
        Explained(field=name, value=part, why=_level(path), mark=read.document.mark((*path, field, key)))
        for name, key, part in keys
    ]


def _level(path: tuple[str | int, ...]) -> str:
    """Name a level of the file for people."""
    if path[0] == "nodes":
        return "its entry"
    return "defaults" if path[0] == "defaults" else f"{str(path[0]).removesuffix('s')} {path[1]}"

"""Edits of cluster.yaml: adding, removing and renaming nodes in the text, so that comments and layout stay.

An edit changes the lines it is about and nothing else. Its result is read back, must hold exactly what was meant, and
may have no problem that the file did not have before; only then it takes the file's place, in one rename.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from builder.documents.document import load, validate
from builder.documents.spelling import did_you_mean
from builder.documents.yaml12 import compose, node_mark
from builder.errors import InputError, Problem
from builder.inventory.names import hostname
from builder.inventory.pi_info import NewNode
from builder.inventory.read import read_inventory
from builder.inventory.schema import InventoryFile

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[0-9]+(\.[0-9]+){3}")
_NOT_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off"})  # to YAML 1.2, or to older readers
_QUOTED = frozenset({"serial", "mac"})
_BY_HAND = "edit the file by hand; commands can edit nodes written as a list of '- ' items"


def add_nodes(path: Path, nodes: Sequence[NewNode], *, dry_run: bool = False) -> None:
    """Add nodes after the last one, written as the last one is. Raises InputError, and the file stays as it was.

    So it does in a dry run of this and of the other edits, which are checked as ever.
    """
    editing = _Editing(path)
    items = editing.items()
    entries = [node.entry() for node in nodes]
    if items:
        flow = isinstance(items[-1], CollectionNode) and bool(items[-1].flow_style)
        indent = " " * editing.dash(items[-1])[1]
        at = editing.end_of(items[-1])
        written = "".join(_written(entry, indent, flow=flow) for entry in entries)
        text = editing.text[:at] + ("" if editing.text[:at].endswith("\n") else "\n") + written + editing.text[at:]
    else:
        text = editing.without_empty_list() + "".join(_written(entry, "  ", flow=True) for entry in entries)
    expected = {**editing.value, "nodes": [*(editing.value.get("nodes") or []), *entries]}
    editing.finish(text, expected, dry_run=dry_run)


def remove_node(path: Path, name: str, *, dry_run: bool = False) -> None:
    """Remove a node's lines; comments beside them stay. Raises InputError, and the file stays as it was."""
    editing = _Editing(path)
    index = editing.find(name)
    item = editing.items()[index]
    for role, server in editing.servers():
        if editing.same(server.value, index):
            hint = f"name another node under cluster.servers.{role} first"
            raise InputError(Problem(message=f"{name} is the {role} server", mark=node_mark(path, server), hint=hint))
    start = editing.text.rfind("\n", 0, editing.dash(item)[0]) + 1
    end = editing.end_of(item)
    nodes = [entry for place, entry in enumerate(editing.value["nodes"]) if place != index]
    text = editing.text[:start] + editing.text[end:]
    editing.finish(text, {**editing.value, "nodes": nodes}, dry_run=dry_run)


def rename_node(path: Path, name: str, new: str, *, dry_run: bool = False) -> None:
    """Give a node another name, where the servers are named too. Raises InputError, and the file stays as it was."""
    editing = _Editing(path)
    index = editing.find(name)
    scalars = [_entry(editing.items()[index], "name")]
    value = {**editing.value, "nodes": [dict(entry) for entry in editing.value["nodes"]]}
    value["nodes"][index]["name"] = new
    for role, server in editing.servers():
        if editing.same(server.value, index):
            scalars.append(server)
            cluster = value["cluster"]
            servers = {**cluster["servers"], role: {**cluster["servers"][role], "node": new}}
            value["cluster"] = {**cluster, "servers": servers}
    text = editing.text
    for scalar in sorted(scalars, key=lambda scalar: -int(scalar.start_mark.index)):
        text = text[: scalar.start_mark.index] + _scalar(new) + text[scalar.end_mark.index :]
    editing.finish(text, value, dry_run=dry_run)


class _Editing:
    """The file as text, nodes and value. Raises InputError when it cannot be read, or is no inventory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        document = load(path)
        written = document.value if isinstance(document.value, dict) else {}
        shaped = changed(document, value={**written, "nodes": written.get("nodes") or []}) if written else document
        validate(InventoryFile, shaped)  # what follows counts on its shape; a list of nodes may still be empty
        self.value: Any = document.value
        self.newline = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
        self.text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        self.root = compose(path, self.text)

    def items(self) -> list[Node]:
        """Return the nodes' entries."""
        nodes = _entry(self.root, "nodes", missing_ok=True)
        if isinstance(nodes, ScalarNode) or nodes is None:
            return []
        if not isinstance(nodes, SequenceNode) or (nodes.flow_style and nodes.value):
            raise InputError(
                Problem(message="nodes is not a list of '- ' items", mark=node_mark(self.path, nodes), hint=_BY_HAND)
            )
        return list(nodes.value)

    def servers(self) -> list[tuple[str, ScalarNode]]:
        """Return the scalars that name servers, with their roles."""
        servers = _entry(_entry(self.root, "cluster"), "servers")
        return [
            (role.value, _entry(server, "node")) for role, server in servers.value if isinstance(server, MappingNode)
        ]

    def names(self, index: int) -> set[str]:
        """Return everything that a node is called."""
        entry = self.value["nodes"][index]
        return {entry["name"], _hostname(entry["name"]), *(entry.get("aliases") or [])}

    def find(self, name: str) -> int:
        """Return the place of the node of a name. Raises InputError."""
        for index in range(len(self.items())):
            if name in self.names(index):
                return index
        known = [called for index in range(len(self.items())) for called in self.names(index)]
        message = f"no node '{name}' in {self.path}{did_you_mean(name, sorted(known))}"
        raise InputError(Problem(message=message, hint="pibuild node list"))

    def same(self, name: str, index: int) -> bool:
        """Return whether a name is that of a node."""
        return name in self.names(index)

    def dash(self, item: Node) -> tuple[int, int]:
        """Return index and column of the dash before an item. Raises InputError where text stands between."""
        at = int(item.start_mark.index)
        before = self.text[:at].rstrip()
        if not before.endswith("-"):
            raise InputError(
                Problem(message="a node that cannot be edited", mark=node_mark(self.path, item), hint=_BY_HAND)
            )
        index = len(before) - 1
        return index, index - (self.text.rfind("\n", 0, index) + 1)

    def end_of(self, item: Node) -> int:
        """Return the index after the last line of an item, without the blank lines and comments that follow it."""
        end = self.text.find("\n", len(self.text[: _content_end(item)].rstrip()))
        return len(self.text) if end < 0 else end + 1

    def without_empty_list(self) -> str:
        """Return the text up to and with an empty `nodes:`, which must be the file's last entry."""
        nodes = _entry(self.root, "nodes", missing_ok=True)
        if nodes is None:
            return self.text.rstrip("\n") + "\n\nnodes:\n"
        rest = self.text[nodes.end_mark.index :]
        if any(line.strip() and not line.lstrip().startswith("#") for line in rest.splitlines()):
            raise InputError(Problem(message="nodes is empty", mark=node_mark(self.path, nodes), hint=_BY_HAND))
        return self.text[: nodes.start_mark.index].rstrip() + "\n" + rest.lstrip("\n")

    def finish(self, text: str, expected: object, *, dry_run: bool) -> None:
        """Check the new text and let it take the file's place, unless this is a dry run."""
        known = _problems(self.path)
        target = self.path.resolve()
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            new = Path(file.name)
            try:
                file.write(text.replace("\n", self.newline).encode())
                file.flush()
                os.fsync(file.fileno())
                if load(new).value != expected:
                    raise InputError(
                        Problem(message=f"{self.path} cannot be edited without changing more", hint=_BY_HAND)
                    )
                told = {_told(problem) for problem in known}
                fresh = [problem for problem in _problems(new) if _told(problem) not in told]
                if fresh:
                    raise InputError(*(_in_file(problem, self.path) for problem in fresh))
                if not dry_run:
                    _like(target, new)
                    new.replace(target)
            finally:
                new.unlink(missing_ok=True)


def _problems(path: Path) -> Sequence[Problem]:
    """Return what is wrong with an inventory."""
    try:
        read_inventory(path)
    except InputError as error:
        return error.problems
    return ()


def _told(problem: Problem) -> str:
    """Return what a problem is, whatever lines it is in."""
    return re.sub(r"\bline [0-9]+", "line", problem.message)


def _in_file(problem: Problem, path: Path) -> Problem:
    """Return a problem of the new text as one of the file."""
    return changed(problem, mark=changed(problem.mark, file=path)) if problem.mark else problem


def _like(original: Path, new: Path) -> None:
    """Give the new file the old one's mode and owner."""
    facts = original.stat()
    new.chmod(facts.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(new, facts.st_uid, facts.st_gid)


def _hostname(name: str) -> str:
    try:
        return hostname(name)
    except ValueError:
        return name


def _entry(mapping: Any, key: str, *, missing_ok: bool = False) -> Any:
    """Return the node of a mapping's value."""
    found = next((value for name, value in mapping.value if name.value == key), None)
    if found is None and not missing_ok:
        raise KeyError(key)
    return found


def _content_end(node: Node) -> int:
    """Return the index after a node's last character; a block's own end lies beyond the comments after it."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _content_end(last[1] if isinstance(node, MappingNode) else last)


def _written(entry: Mapping[str, object], indent: str, *, flow: bool) -> str:
    """Return an entry as text, a line in flow style or one a field."""
    fields = [(key, _flow(value, quoted=key in _QUOTED)) for key, value in entry.items()]
    if flow:
        return f"{indent}- {{{', '.join(f'{key}: {value}' for key, value in fields)}}}\n"
    return f"{indent}- " + f"\n{indent}  ".join(f"{key}: {value}" for key, value in fields) + "\n"


def _flow(value: object, *, quoted: bool = False) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, str):
        return _scalar(value, quoted=quoted)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    return json.dumps(value)


def _scalar(text: str, *, quoted: bool = False) -> str:
    """Return a text as a scalar that is a text to every reader of YAML."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if plain and not quoted else json.dumps(text, ensure_ascii=False)

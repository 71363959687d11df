"""YAML files as people write them, with the place of every value. Nothing here knows what a recipe is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from builder.documents.messages import YamlPath, complaints
from builder.documents.yaml12 import TAG, compose, mark_at, node_mark, scalar
from builder.errors import InputError, Mark, Problem
from builder.host.named_file import read_named

_MAX_VALUES = 500_000  # what aliases may unfold to
_MAX_DEPTH = 50  # lists and mappings within each other; what reads them calls itself for each
_HALF = (
    "half a character (a surrogate without the other)",
    "write the character itself, or \\U and its eight hex digits",
)
_SURROGATE = re.compile("[\ud800-\udfff]")

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A value and the places of its parts.

    `marks` has the place of every value by its path, for a mapping's entry that of its key; `()` is the whole.
    """

    value: Any
    marks: Mapping[YamlPath, Mark]

    def mark(self, path: YamlPath = ()) -> Mark:
        """Return the place of `path`, or of the nearest thing around it that was written."""
        while path not in self.marks:
            path = path[:-1]
        return self.marks[path]

    def at(self, *path: str | int) -> Document:
        """Return the part at `path`. Raises KeyError, IndexError where there is none."""
        value = self.value
        for step in path:
            value = value[step]
        length = len(path)
        marks = {key[length:]: mark for key, mark in self.marks.items() if key[:length] == path}
        return Document(value=value, marks={(): self.mark(path), **marks})

    def marks_under(self, *path: str | int) -> dict[YamlPath, Mark]:
        """Return the marks as they are when this document stands at `path` of a larger one."""
        return {(*path, *key): mark for key, mark in self.marks.items()}

    def without(self, *keys: str) -> Document:
        """Return the document, a mapping, without some of its keys."""
        return Document(
            value={key: value for key, value in self.value.items() if key not in keys},
            marks={path: mark for path, mark in self.marks.items() if not path or path[0] not in keys},
        )


def load(path: Path) -> Document:
    """Return what a file holds. Raises InputError with every problem found."""
    document, problems = read(path)
    if problems:
        raise InputError(*problems)
    return document


def read(path: Path) -> tuple[Document, tuple[Problem, ...]]:
    """Return what a file holds as far as it can be read, and the problems beside it (duplicate keys, unknown tags).

    Raises InputError when there is nothing to go on with: no such file, wrong syntax, an empty file.
    """
    node = compose(path, _read_text(path))
    builder = _Builder(path=path, marks={(): node_mark(path, node)})
    value = builder.build(node, ())
    return Document(value=value, marks=builder.marks), tuple(in_file_order(builder.problems))


def validate(model: type[Model], document: Document, *, where: str = "") -> Model:
    """Return a model's instance made of a document.

    `where` names the document's value in messages where it is part of a larger one. Raises InputError with every
    problem, each at its place, in the order of the file.
    """
    error: ValidationError | None = None
    instance: Model | None = None
    try:
        instance = model.model_validate(document.value)
    except ValidationError as raised:
        error = raised
    found = complaints(model, document.value, error, where)
    if found or instance is None:
        problems = (Problem(message=one.message, mark=document.mark(one.path), hint=one.hint) for one in found)
        raise InputError(*in_file_order(problems)) from error
    return instance


def merge(base: Document, over: Document) -> Document:
    """Lay a document over another: mappings are merged key by key, all else is replaced; values keep their marks."""
    replaced: set[YamlPath] = set()
    value = _merge(base.value, over.value, (), replaced)
    kept = {
        path: mark
        for path, mark in base.marks.items()
        if not any(path[:length] in replaced for length in range(len(path) + 1))
    }
    return Document(value=value, marks={**kept, **over.marks})


def _merge(base: Any, over: Any, path: YamlPath, replaced: set[YamlPath]) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        replaced.add(path)
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base[key], value, (*path, key), replaced) if key in base else value
    return merged


def in_file_order(problems: Iterable[Problem], *, files: Iterable[Path] = ()) -> list[Problem]:
    """Sort problems by line within their file; placeless ones first.

    Files come in the order of `files`, then in that of their first problems.
    """
    listed = list(dict.fromkeys(problems))
    order = list(dict.fromkeys([*files, *(problem.mark.file for problem in listed if problem.mark)]))

    def place(problem: Problem) -> tuple[int, int, int]:
        mark = problem.mark
        return (order.index(mark.file), mark.line, mark.column) if mark else (-1, 0, 0)

    return sorted(listed, key=place)


def _read_text(path: Path) -> str:
    try:
        data = read_named(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        raise InputError(Problem(message=f"{path}: {reason}")) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        mark = mark_at(path, before, len(before))
        raise InputError(Problem(message="not UTF-8 text", mark=mark, hint="save the file as UTF-8")) from error
    if not text.strip():
        raise InputError(Problem(message="the file is empty", mark=Mark(file=path, line=1, column=1)))
    return text


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Turns nodes into values and notes where each stands."""

    path: Path
    marks: dict[YamlPath, Mark]
    problems: list[Problem] = field(default_factory=list)
    open: set[int] = field(default_factory=set)

    def build(self, node: Node, path: YamlPath) -> Any:
        if id(node) in self.open:
            return self.complain(node, "an alias that contains itself")
        if len(self.marks) > _MAX_VALUES:
            raise InputError(Problem(message="aliases unfold to too many values", mark=node_mark(self.path, node)))
        if len(path) > _MAX_DEPTH:
            raise InputError(Problem(message="nested too deeply", mark=node_mark(self.path, node)))
        self.open.add(id(node))
        value = self.construct(node, path)
        self.open.discard(id(node))
        return value

    def construct(self, node: Node, path: YamlPath) -> Any:
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self.item(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, MappingNode) and kind == "map":
            return dict(self.entries(node, path))
        if isinstance(node, ScalarNode) and _SURROGATE.search(node.value):
            return self.complain(node, *_HALF)
        try:
            return scalar(kind, node.value) if isinstance(node, ScalarNode) else self.unknown_tag(node)
        except KeyError:
            return self.unknown_tag(node)
        except ValueError:
            return self.complain(node, f"'{node.value}' does not fit its tag !!{kind}")

    def item(self, node: Node, path: YamlPath) -> Any:
        self.marks[path] = node_mark(self.path, node)
        return self.build(node, path)

    def entries(self, node: MappingNode, path: YamlPath) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            mark = node_mark(self.path, key)
            if not isinstance(key, ScalarNode):
                self.complain(key, "a key must be text", hint='a value that starts with {{ needs quotes: "{{ name }}"')
            elif _SURROGATE.search(key.value):
                self.complain(key, *_HALF)
            elif key.value in seen:
                self.complain(key, f"key '{key.value}' is given twice; the first is in line {seen[key.value]}")
            elif key.value == "<<" and not key.style:
                self.complain(key, "merge keys ('<<') are not part of YAML 1.2", hint="write the keys out")
            else:
                seen[key.value] = mark.line
                self.marks[*path, key.value] = mark
                yield key.value, self.build(value, (*path, key.value))

    def unknown_tag(self, node: Node) -> None:
        tag = node.tag.replace(TAG, "!!")
        self.complain(node, f"unknown tag {tag}", hint="put the value in quotes if it starts with !")

    def complain(self, node: Node, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message=message, mark=node_mark(self.path, node), hint=hint))

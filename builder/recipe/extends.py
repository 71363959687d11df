"""A recipe and the recipes that it extends, as one document.

The files are stacked, each once, extended ones before those that extend them: mappings merge key by key, lists are
replaced, and of `layers` each is added at the end, or takes the place of the one with its name. `drop` takes layers
of extended recipes away, before the file's own are added. A `base` of another kind, and an image, replace the base as
a whole: an image and its checksum belong together. A recipe's name and description are its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.documents.document import Document, merge, read, validate
from builder.documents.messages import YamlPath, written
from builder.documents.spelling import did_you_mean
from builder.errors import InputError, Mark, Problem
from builder.host.confine import exists, is_file
from builder.host.data import is_name, shipped_recipes
from builder.recipe.schema import Inheritance

_OWN = ("name", "description")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A recipe's document and the files it came from, extended ones first, with problems that left it readable.

    `complete` says that every file could be read.
    """

    document: Document
    files: tuple[Path, ...]
    problems: tuple[Problem, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    document: Document
    drop: tuple[str, ...]


@dataclass(slots=True)
class _Reader:
    """Reads files in the order in which they are stacked."""

    files: dict[Path, _File] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True

    def read(self, path: Path, chain: tuple[Path, ...]) -> None:
        real = path.resolve()
        if real in self.files:
            return
        try:
            document, problems = read(path)
        except InputError as error:
            self.give_up(*error.problems)
            return
        self.problems += problems
        if not isinstance(document.value, dict):
            message = f"a recipe is a mapping (key: value), not {written(document.value)}"
            self.give_up(Problem(message=message, mark=document.mark()))
            return
        inheritance = self.inheritance(document)
        for index, name in enumerate(inheritance.extends):
            self.extended(path, name, (*chain, real), document.mark(("extends", index)))
        self.files[real] = _File(path=path, document=document, drop=inheritance.drop)

    def extended(self, path: Path, name: str, chain: tuple[Path, ...], mark: Mark) -> None:
        """Read the recipe that the one at `path` calls `name`: a file, or a recipe of pibuild's by its name."""
        other = shipped_recipes().get(name) if is_name(name) else None
        other = other or Path(os.path.normpath(path.parent / name))
        real = other.resolve()
        if real in chain:
            circle = " → ".join(one.name for one in (*chain[chain.index(real) :], real))
            self.give_up(Problem(message=f"recipes that extend each other: {circle}", mark=mark))
        elif not is_file(other):
            near = did_you_mean(name, shipped_recipes() if is_name(name) else _recipes_beside(path, other))
            hint = "" if near else f"paths start from the recipe's own directory; looked for {other}"
            self.give_up(Problem(message=f"no such recipe: {name}{near}", mark=mark, hint=hint))
        else:
            self.read(other, chain)

    def give_up(self, *problems: Problem) -> None:
        self.problems += problems
        self.complete = False

    def inheritance(self, document: Document) -> Inheritance:
        keys = [key for key in document.value if key not in Inheritance.model_fields]
        try:
            return validate(Inheritance, document.without(*keys))
        except InputError as error:
            self.give_up(*error.problems)
            return Inheritance()


def _recipes_beside(path: Path, missing: Path) -> list[str]:
    """Return the recipes in a missing one's directory, as the recipe at `path` would call them."""
    there = sorted(missing.parent.glob("*.yaml")) if exists(missing.parent) else []
    return [os.path.relpath(one, path.parent) for one in there if one.resolve() != path.resolve()]


def read_stack(path: Path) -> Stack:
    """Read a recipe with all that it extends. Raises InputError where a file cannot be read at all."""
    reader = _Reader()
    reader.read(path, ())
    if path.resolve() not in reader.files:
        raise InputError(*reader.problems)
    stacked, *others = reader.files.values()
    problems = reader.problems
    document = _laid(Document(value={}, marks=stacked.document.marks), stacked, problems)
    for one in others:
        document = _laid(document, one, problems)
    return Stack(
        document=document,
        files=tuple(one.path for one in reader.files.values()),
        problems=tuple(dict.fromkeys(problems)),
        complete=reader.complete,
    )


def _laid(below: Document, file: _File, problems: list[Problem]) -> Document:
    """Lay a file over the document of those before it."""
    over = file.document
    layers = _layers(below, over, file.drop, problems)
    below = below.without(*_OWN, "layers")
    if _replaces_base(below.value.get("base"), over.value.get("base")):
        below = below.without("base")
    document = merge(below, over.without("layers", *Inheritance.model_fields))
    if layers is None:
        written_layers = over.at("layers")
        return Document(
            value={**document.value, "layers": written_layers.value},
            marks={**document.marks, **written_layers.marks_under("layers")},
        )
    marks: dict[YamlPath, Mark] = {("layers",): over.mark(("layers",))} if layers else {}
    for index, layer in enumerate(layers):
        marks |= layer.marks_under("layers", index)
    value = {**document.value, "layers": [layer.value for layer in layers]} if layers else document.value
    return Document(value=value, marks={**document.marks, **marks})


def _replaces_base(below: Any, over: Any) -> bool:
    return (
        isinstance(below, dict)
        and isinstance(over, dict)
        and ("image" in over or ("bootstrap" in over) != ("bootstrap" in below))
    )


def _layers(below: Document, over: Document, drop: tuple[str, ...], problems: list[Problem]) -> list[Document] | None:
    """Return the layers of both; None when the file's own are no list, which is found wrong later."""
    own = over.value.get("layers", [])
    if not isinstance(own, list):
        return None
    inherited = below.value.get("layers", [])
    listed = [below.at("layers", index) for index in range(len(inherited))] if isinstance(inherited, list) else []
    listed = _without_dropped(listed, over, drop, problems)
    names = [_name(layer.value) for layer in listed]
    first_here: dict[str, Mark] = {}
    for index in range(len(own)):
        layer = over.at("layers", index)
        name = _name(layer.value)
        if name and name in first_here:
            message = f"layer '{name}' is given twice; the first is in line {first_here[name].line}"
            problems.append(Problem(message=message, mark=layer.mark(("name",))))
        elif name and name in names:
            listed[names.index(name)] = layer
        else:
            listed.append(layer)
            names.append(name)
        if name:
            first_here.setdefault(name, layer.mark(("name",)))
    return listed


def _without_dropped(
    listed: list[Document], over: Document, drop: tuple[str, ...], problems: list[Problem]
) -> list[Document]:
    names = [_name(layer.value) for layer in listed]
    for index, name in enumerate(drop):
        if name not in names:
            near = did_you_mean(name, [one for one in names if one])
            inherited = ", ".join(one for one in names if one)
            hint = "" if near else f"the inherited layers are {inherited}" if inherited else "no layer is inherited"
            message = f"cannot drop layer '{name}': no extended recipe has it{near}"
            problems.append(Problem(message=message, mark=over.mark(("drop", index)), hint=hint))
    return [layer for layer, name in zip(listed, names, strict=True) if name is None or name not in drop]


def _name(layer: object) -> str | None:
    name = layer.get("name") if isinstance(layer, dict) else None
    return name if isinstance(name, str) else None

"""What a person writes, read and checked: `load_recipe`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from builder.documents.document import Document, in_file_order, validate
from builder.documents.messages import YamlPath, written
from builder.documents.spelling import did_you_mean
from builder.errors import InputError, Mark, Problem
from builder.host.confine import is_file
from builder.recipe.extends import Stack, read_stack
from builder.recipe.schema import BaseImage, Bootstrap, Disk, RecipeDocument
from builder.recipe.steps.base import Place, Step
from builder.recipe.steps.registry import STEP_KINDS
from builder.recipe.variables import Variable, Variables, resolve, substitute

Kinds = Mapping[str, type[Step]]

_FILES = (  # paths in a recipe outside its steps: they start from the directory of the file they stand in
    ("base", "bootstrap", "keyring"),
    ("base", "image", "path"),
    ("base", "image", "checksums", "keyring"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStep:
    """One step of a layer, and where it stands."""

    kind: str
    step: Step
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLayer:
    """A named list of steps, cached as one."""

    name: str
    mark: Mark
    steps: tuple[RecipeStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe with all that it extends, its variables in place.

    `epoch` in seconds since 1970, None where the recipe has none; `files` are all files read, extended ones first.
    """

    name: str
    description: str
    path: Path
    files: tuple[Path, ...]
    epoch: int | None
    variables: Mapping[str, object]
    base: Bootstrap | BaseImage
    boards: tuple[str, ...]
    disk: Disk
    layers: tuple[RecipeLayer, ...]


class _Declarations(NamedTuple):
    declared: dict[str, Variable]
    document: Document


class _Findings:
    """Problems as they are found. What only follows from others is left out.

    That is what is wrong with a string that could not be rendered, and with a line that could not be read.
    """

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.problems = list(problems)
        self.failed: set[Mark] = set()
        self.unread = {(problem.mark.file, problem.mark.line) for problem in self.problems if problem.mark}

    def add(self, problems: Iterable[Problem]) -> None:
        self.problems += [problem for problem in problems if not problem.mark or self._is_new(problem.mark)]

    def _is_new(self, mark: Mark) -> bool:
        return mark not in self.failed and (mark.file, mark.line) not in self.unread


def load_recipe(path: Path, settings: Mapping[str, str] | None = None, *, kinds: Kinds = STEP_KINDS) -> Recipe:
    """Read a recipe and all that it extends. `settings` are variables' values from the command line.

    Raises InputError with every problem found, in the order of the files, the recipe's own first.
    """
    stack = read_stack(path)
    if not stack.complete:  # what is missing would be found wrong all over
        raise InputError(*in_file_order(stack.problems, files=[path]))
    found = _Findings(stack.problems)
    variables, document = _with_variables(stack.document, settings or {}, kinds, found)
    document = _with_paths(document, found)
    written_recipe = _checked(document.without("variables"), found)
    layers = _layers(document, variables, kinds, found)
    if found.problems or written_recipe is None:
        order = [path, *(file for file in stack.files if file != path)]
        raise InputError(*in_file_order(found.problems, files=order))
    return _recipe(path, stack, written_recipe, variables, layers)


def _recipe(
    path: Path, stack: Stack, document: RecipeDocument, variables: Variables, layers: tuple[RecipeLayer, ...]
) -> Recipe:
    return Recipe(
        name=document.name,
        description=document.description,
        path=path,
        files=stack.files,
        epoch=document.epoch,
        variables=variables.values,
        base=document.base.chosen,
        boards=document.boards,
        disk=document.disk,
        layers=layers,
    )


def _checked(document: Document, found: _Findings) -> RecipeDocument | None:
    try:
        return validate(RecipeDocument, document)
    except InputError as error:
        found.add(error.problems)
        return None


def _with_variables(
    document: Document, settings: Mapping[str, str], kinds: Kinds, found: _Findings
) -> tuple[Variables, Document]:
    """Return the variables, and the document with their values in its strings."""
    declarations = _declarations(document, found)
    variables = resolve(declarations.declared, declarations.document, settings)
    # a declaration found wrong is reported once, not again at every use
    names = declarations.document.value
    variables.broken |= set(names) - set(variables.values) if isinstance(names, dict) else set()
    found.problems += variables.problems

    def leave(path: YamlPath) -> bool:
        match path:
            case ("variables", *_) | ("layers", int(), "name"):
                return True
            case ("layers", int(), "steps", int(), str(kind), *inside) if kind in kinds:
                raw: frozenset[str] = getattr(kinds[kind], "raw_fields", frozenset())
                return any(step in raw for step in inside)
            case _:
                return False

    rendered, problems, failed = substitute(document, variables, leave=leave)
    found.problems += problems
    found.failed |= failed
    return variables, rendered


def _declarations(document: Document, found: _Findings) -> _Declarations:
    """Return the declarations of variables that can be used; the others' problems are added."""
    if "variables" not in document.value:
        return _Declarations({}, Document(value={}, marks={(): document.mark()}))
    written_ones = document.at("variables")
    if not isinstance(written_ones.value, dict):
        message = f"variables: expected a mapping (key: value), not {written(written_ones.value)}"
        found.problems.append(Problem(message=message, mark=written_ones.mark()))
        return _Declarations({}, Document(value={}, marks={(): document.mark()}))
    declared: dict[str, Variable] = {}
    for name, value in written_ones.value.items():
        one = written_ones.at(name)
        if not name.isidentifier() or not name.isascii():
            message = f"'{name}' is not a variable's name"
            hint = "letters, digits and _, and no digit first"
            found.problems.append(Problem(message=message, mark=one.mark(), hint=hint))
        elif not isinstance(value, dict):
            message = f"variable '{name}': expected a mapping (key: value), not {written(value)}"
            hint = f"write {name}: {{default: {value}}}" if isinstance(value, str | int | float) else ""
            found.problems.append(Problem(message=message, mark=one.mark(), hint=hint))
        else:
            try:
                declared[name] = validate(Variable, one, where=f"variables.{name}")
            except InputError as error:
                found.add(error.problems)
    return _Declarations(declared, written_ones)


def _with_paths(document: Document, found: _Findings) -> Document:
    """Return the document with the paths outside its steps resolved. A file that does not exist is a problem."""
    value = document.value
    for path in _FILES:
        text = _text_at(value, path)
        if text is None or document.mark(path) in found.failed:
            continue
        mark = document.mark(path)
        resolved = mark.file.parent.absolute() / text  # once and for all: whoever reads it counts from nowhere
        if not is_file(resolved):
            hint = f"paths start from the recipe's own directory; looked for {resolved}"
            found.problems.append(Problem(message=f"{'.'.join(path)}: no such file: {text}", mark=mark, hint=hint))
        value = _replaced(value, path, str(resolved))
    return Document(value=value, marks=document.marks)


def _text_at(value: Any, path: Sequence[str]) -> str | None:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _replaced(value: Any, path: Sequence[str], text: str) -> Any:
    return {**value, path[0]: _replaced(value[path[0]], path[1:], text)} if path else text


def _layers(document: Document, variables: Variables, kinds: Kinds, found: _Findings) -> tuple[RecipeLayer, ...]:
    layers = document.value.get("layers")
    listed = layers if isinstance(layers, list) else []
    return tuple(
        _layer(document.at("layers", index), variables, kinds, found)
        for index, layer in enumerate(listed)
        if isinstance(layer, dict) and isinstance(layer.get("steps"), list)
    )


def _layer(document: Document, variables: Variables, kinds: Kinds, found: _Findings) -> RecipeLayer:
    name = str(document.value.get("name", ""))
    lead = f"layer '{name}': " if name else ""
    steps = []
    for index, entry in enumerate(document.value["steps"]):
        if not isinstance(entry, dict):
            continue  # found wrong with the recipe's own shape
        one = document.at("steps", index)
        if len(entry) != 1:
            given = ", ".join(f"'{kind}'" for kind in entry) or "none"
            message = f"{lead}a step has exactly one key, its kind, not {len(entry)} ({given})"
            hint = "begin each step with its own '- '; a step's fields are indented below its kind"
            found.add([Problem(message=message, mark=one.mark(), hint=hint)])
            continue
        kind = next(iter(entry))
        if kind not in kinds:
            near = did_you_mean(kind, kinds)
            hint = "" if near else f"the kinds of step are {', '.join(kinds)}"
            message = f"{lead}unknown kind of step '{kind}'{near}"
            found.add([Problem(message=message, mark=one.mark((kind,)), hint=hint)])
            continue
        step = _step(one.at(kind), kind, kinds[kind], variables, found)
        steps += [step] if step else []
    return RecipeLayer(name=name, mark=document.mark(("name",)), steps=tuple(steps))


def _step(
    document: Document, kind: str, model: type[Step], variables: Variables, found: _Findings
) -> RecipeStep | None:
    place = Place(directory=document.mark().file.parent, mark=document.mark(), variables=variables.values)
    shape = _wrong_shape(document.value, kind, model)
    if shape:
        found.add([replace(shape, mark=place.mark)])
        return None
    try:
        step = _validated(document, kind, model)
    except InputError as error:
        found.add(error.problems)
        return None
    if found.failed.isdisjoint(document.marks.values()):
        found.add(problem if problem.mark else replace(problem, mark=place.mark) for problem in step.check(place))
    return RecipeStep(kind=kind, step=step, place=place)


def _wrong_shape(value: Any, kind: str, model: type[Step]) -> Problem | None:
    """Return what is wrong with a step that is not even of the shape that its kind has."""
    list_field: str | None = getattr(model, "list_field", None)
    if value is None:
        return Problem(message=f"{kind}: nothing is given")
    only_list = list_field is not None and set(model.model_fields) == {list_field}
    if only_list and not isinstance(value, list) and not (isinstance(value, dict) and list_field in value):
        return Problem(message=f"{kind}: expected a list, not {written(value)}", hint="begin each entry with '- '")
    return None


def _validated(document: Document, kind: str, model: type[Step]) -> Step:
    list_field: str | None = getattr(model, "list_field", None)
    if list_field is None or not isinstance(document.value, list):
        return validate(model, document, where=kind)
    marks = {(): document.mark(), **document.marks_under(list_field)}
    try:
        return validate(model, Document(value={list_field: document.value}, marks=marks), where=kind)
    except InputError as error:  # nobody wrote the name of the field
        plain = (replace(one, message=one.message.replace(f"{kind}.{list_field}", kind, 1)) for one in error.problems)
        raise InputError(*plain) from error

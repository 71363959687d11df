"""What pydantic found wrong, in words for the person who wrote the file.

A model is compared with the plain value (of mappings, lists and scalars) that it was given. pydantic converts the text
`no` to False and `1` to True; what is written here has YAML's own types, so that is refused.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic.functional_validators import AfterValidator
from pydantic_core import ErrorDetails

from builder.documents.spelling import did_you_mean, nearest

YamlPath = tuple[str | int, ...]

_EXPECTED = {  # pydantic's error type up to its first "_": what it wanted
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen": "a list",
    "dict": "a mapping (key: value)",
    "mapping": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "none": "nothing",
    "path": "a path",
}
_SHORT = 60  # characters of a text that a message repeats
_TYPE_ERRORS = ("_type", "_parsing", "_from_float", "none_required", "model_attributes_type", "frozen_set_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """One thing wrong with the value at `path`.

    `expected` stands alone when the value is of another type than this; `meant` is the known key nearest to an unknown.
    """

    path: YamlPath
    message: str = ""
    expected: str = ""
    hint: str = ""
    meant: str = ""


def complaints(model: type[BaseModel], value: object, error: ValidationError | None, where: str) -> list[Complaint]:
    """Return everything wrong with a value, each path's once. `where` names what the value is, for people: `disk`."""
    details = [one for one in (error.errors() if error else ()) if not _is_counted_without_wrong_ones(one)]
    found = [_complaint(model, value, one, where) for one in details]
    found += [Complaint(path=path, expected=expected) for path, expected in _misread(model, value, ())]
    meant = {(*complaint.path[:-1], complaint.meant) for complaint in found if complaint.meant}
    found = [one for one in found if one.path not in meant or _is_given(value, one.path)]
    by_path: dict[YamlPath, list[Complaint]] = {}
    for complaint in found:
        by_path.setdefault(complaint.path, []).append(complaint)
    return [one for path, several in by_path.items() for one in _settled(value, path, several, where, set(by_path))]


def subject(value: object, path: YamlPath, where: str = "") -> str:
    """Name a part of a value for people: `disk.root.size`, `layer 'monitoring'`, `files entry, mode`."""
    name, dotted = where, True
    for depth, step in enumerate(path):
        inner = _value_at(value, path[: depth + 1])
        if isinstance(step, str):
            name = f"{name}.{step}" if name and dotted else f"{name}, {step}" if name else step
            dotted = True
        elif isinstance(inner, dict) and isinstance(inner.get("name"), str) and depth:
            name, dotted = f"{str(path[depth - 1]).removesuffix('s')} '{inner['name']}'", False
        else:
            name, dotted = f"{name} entry".lstrip(), False
    return name


def written(value: object) -> str:  # noqa: PLR0911 - one for each type
    """Return a value with its type, for people: `the number 3`, `the text 'no'`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str() if len(value) < _SHORT and "\n" not in value:
            return f"the text '{value}'"
        case str():
            return f"a text of {len(value)} characters"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"


def quoted(value: object) -> str:
    """Return a value for a message in which its type is no question: `'no'`, `the number 3`."""
    return written(value).removeprefix("the text ")


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a person may write for a model."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _is_counted_without_wrong_ones(details: ErrorDetails) -> bool:
    """Say whether a list is called too short only because pydantic does not count the entries that are wrong."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _complaint(model: type[BaseModel], value: object, details: ErrorDetails, where: str) -> Complaint:
    path, kind = _real_path(value, details), details["type"]
    if kind == "extra_forbidden":
        return _unknown_key(model, value, path, where)
    if kind == "missing":
        around = subject(value, path[:-1], where)
        return Complaint(path=path, message=f"missing key '{path[-1]}'" + (f" in {around}" if around else ""))
    if kind.endswith(_TYPE_ERRORS):
        return Complaint(path=path, expected=_EXPECTED.get(kind.split("_")[0], kind.split("_")[0]))
    name = subject(value, path, where)
    message, hint = _wording(details, [str(option) for option in _options(model, path)])
    return Complaint(path=path, message=f"{name}: {message}" if name else message, hint=hint)


def _wording(details: ErrorDetails, allowed: Sequence[str]) -> tuple[str, str]:
    """Return message and hint of an error about a value of the right type."""
    kind, context, given = details["type"], details.get("ctx", {}), quoted(details["input"])
    if kind in {"literal_error", "enum"}:
        near = did_you_mean(str(details["input"]), allowed)
        return f"{given} is not one of {', '.join(allowed) or context.get('expected', '')}{near}", ""
    if kind in {"value_error", "assertion_error"}:
        message, _, hint = str(context.get("error", details["msg"])).partition("\nhint: ")
        return message, hint
    if kind in {"too_short", "string_too_short"} and not details["input"]:
        return f"the {'text' if kind.startswith('string') else 'list'} is empty", ""
    if kind == "string_pattern_mismatch":
        return f"{given} does not match {context['pattern']}", ""
    message = re.sub(r"^\w+ should", "should", details["msg"]).replace(" after validation", "")
    return (message if ", not " in message else f"{message}, not {given}"), ""


def _unknown_key(model: type[BaseModel], value: object, path: YamlPath, where: str) -> Complaint:
    name, around = str(path[-1]), subject(value, path[:-1], where)
    known = [key for owner in _models_at(model, path[:-1]) for key in keys_of(owner)]
    near = nearest(name, known)
    hint = "" if near or not known else f"the keys here: {', '.join(dict.fromkeys(known))}"
    message = f"unknown key '{name}'" + (f" in {around}" if around else "") + did_you_mean(name, known)
    return Complaint(path=path, message=message, hint=hint, meant=near)


def _settled(
    value: object, path: YamlPath, several: Sequence[Complaint], where: str, paths: set[YamlPath]
) -> Iterator[Complaint]:
    """Yield one path's complaints; those of a union's branches that differ in type alone become one."""
    worded = list(dict.fromkeys(one for one in several if one.message))
    if worded:
        yield from worded
        return
    if any(len(other) > len(path) and other[: len(path)] == path for other in paths):
        return  # another branch of a union fits the type, and says more
    given = _value_at(value, path)
    name = subject(value, path, where)
    expected = " or ".join(dict.fromkeys(one.expected for one in several))
    yield Complaint(
        path=path,
        message=f"{name}: expected {expected}, not {written(given)}"
        if name
        else f"expected {expected}, not {written(given)}",
        hint=_type_hint(expected, given, str(path[-1]) if path else "key"),
    )


def _type_hint(expected: str, given: object, key: str) -> str:  # noqa: PLR0911 - one for each case
    if given is None:
        return "give it a value, or remove the key"
    if "text" in expected.split(" or ") and isinstance(given, bool | int | float):
        return f'put it in quotes: "{str(given).lower()}"'
    if expected == "true or false" and isinstance(given, str):
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(given.lower())
        return f"write {meant}" if meant else "write true or false, without quotes"
    if expected in {"a whole number", "a number"} and isinstance(given, str) and given.isdigit():
        return "write it without quotes" + (" and without leading zeros" if given.startswith("0") else "")
    if expected == "a list" and isinstance(given, dict):
        return "begin each entry with '- '"
    if expected == "a list" and isinstance(given, str | int | float):
        return f"write {key}: [{given}]" if "\n" not in str(given) else ""
    return ""


def _value_at(value: Any, path: YamlPath) -> object:
    for step in path:
        if not _has(value, step):
            return None
        value = value[step]
    return value


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)


def _is_given(value: Any, path: YamlPath) -> bool:
    return not path or _has(_value_at(value, path[:-1]), path[-1])


def _real_path(value: Any, details: ErrorDetails) -> YamlPath:
    """Return the path in the value: pydantic puts the names of union members and validators between."""
    path: list[str | int] = []
    for step in details["loc"]:
        if _has(value, step):
            value = value[step]
            path.append(step)
    return (*path, details["loc"][-1]) if details["type"] == "missing" else tuple(path)


def _branches(annotation: Any) -> list[Any]:
    """Return the plain types of an annotation: those of a union each, without Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _branches(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [branch for one in get_args(annotation) for branch in _branches(one)]
    return [annotation]


def _inside(annotation: Any, step: str | int) -> list[Any]:
    """Return the types that the part `step` of an annotated value may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        named = [info for name, info in annotation.model_fields.items() if step in (name, info.alias)]
        return [branch for info in named for branch in _branches(info.annotation)]
    arguments, origin = get_args(annotation), get_origin(annotation)
    if not isinstance(origin, type) or not arguments:
        return []
    if issubclass(origin, Mapping):
        return _branches(arguments[1])
    if issubclass(origin, Sequence | set | frozenset):
        chosen = arguments[0] if arguments[-1] is ... or len(arguments) == 1 else None
        return _branches(chosen) if chosen is not None else []
    return []


def _types_at(model: type[BaseModel], path: YamlPath) -> list[Any]:
    found: list[Any] = [model]
    for step in path:
        found = [inner for annotation in found for inner in _inside(annotation, step)]
    return found


def _models_at(model: type[BaseModel], path: YamlPath) -> list[type[BaseModel]]:
    return [one for one in _types_at(model, path) if isinstance(one, type) and issubclass(one, BaseModel)]


def _options(model: type[BaseModel], path: YamlPath) -> list[object]:
    return [option for one in _types_at(model, path) if get_origin(one) is Literal for option in get_args(one)]


def _misread(annotation: Any, value: object, path: YamlPath) -> Iterator[tuple[YamlPath, str]]:
    """Yield the scalars that pydantic would convert from another type: their path and the type wanted."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if isinstance(value, dict):
            for name, info in annotation.model_fields.items():
                key = info.alias or name
                if key in value and not _converts(annotation, name, info):
                    yield from _misread_branches(_branches(info.annotation), value[key], (*path, key))
    elif isinstance(value, dict | list) and get_args(annotation):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _misread_branches(_inside(annotation, step), inner, (*path, step))


def _misread_branches(branches: Sequence[Any], value: object, path: YamlPath) -> Iterator[tuple[YamlPath, str]]:
    if isinstance(value, dict | list):
        if len(branches) == 1 or (branches and all(branch is type(None) for branch in branches[1:])):
            yield from _misread(branches[0], value, path)
        return
    wanted = [branch for branch in branches if branch is not type(None)]
    if not wanted or value is None or any(branch not in {bool, int, float} for branch in wanted):
        return
    if type(value) not in wanted and not (float in wanted and type(value) is int):
        yield path, " or ".join(_EXPECTED[branch.__name__] for branch in wanted)


def _converts(model: type[BaseModel], name: str, info: FieldInfo) -> bool:
    """Say whether a field has a validator of its own that sees the value before its type does."""
    decorators = model.__pydantic_decorators__.field_validators.values()
    if any(name in one.info.fields and one.info.mode != "after" for one in decorators):
        return True
    return any(hasattr(one, "func") and not isinstance(one, AfterValidator) for one in info.metadata)

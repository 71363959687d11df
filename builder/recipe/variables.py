"""Variables of a recipe: their values, and `{{ name }}` in the strings of a document.

Only `{{ … }}` is special in a string, so that shell's `${#x}` and printf's `{%s}` are what they look like; two literal
braces are written `{{ '{{' }}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from builder.documents.document import Document
from builder.documents.messages import YamlPath, written
from builder.documents.spelling import did_you_mean
from builder.errors import Mark, Problem

VariableType = Literal["string", "integer", "boolean", "list"]

_WHOLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_WANTED: Mapping[str, tuple[type, str]] = {
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "boolean": (bool, "true or false"),
    "list": (list, "a list"),
}


class Variable(BaseModel):
    """A variable as a recipe declares it. One without a default must be set, by a later recipe or the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: VariableType = "string"
    default: str | int | bool | list[str | int | bool] | None = None
    description: str = ""


class _CannotRenderError(Exception):
    """A string cannot be rendered; `hint` mends it. `quiet` when the cause has been reported elsewhere."""

    def __init__(self, message: str = "", *, hint: str = "", quiet: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.quiet = quiet


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        raise _CannotRenderError("a list inside a text", hint="write {{ name | join(' ') }}")
    return value


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=_as_text,
        block_start_string="\0{%",
        block_end_string="%}\0",
        comment_start_string="\0{#",
        comment_end_string="#}\0",
    )
    environment.globals.clear()
    return environment


_ENVIRONMENT = _environment()


@dataclass(slots=True, kw_only=True)
class Variables:
    """The values of variables, and the names of those whose value was found wrong (and reported)."""

    values: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def resolve(declared: Mapping[str, Variable], document: Document, settings: Mapping[str, str]) -> Variables:
    """Return the values of declared variables, each with the problems of its default or its setting.

    `document` is the mapping of declarations, for their places; `settings` is what the command line says, as text. A
    default may use other variables.
    """
    found = Variables()
    for name, text in settings.items():
        if name not in declared:
            near = did_you_mean(name, declared)
            hint = "" if near else f"the variables are {', '.join(sorted(declared)) or 'none'}"
            found.problems.append(Problem(message=f"--set {name}={text}: unknown variable '{name}'{near}", hint=hint))
    for name in declared:
        _resolve_one(name, (), declared=declared, document=document, settings=settings, found=found)
    return found


def _resolve_one(
    name: str,
    chain: tuple[str, ...],
    *,
    declared: Mapping[str, Variable],
    document: Document,
    settings: Mapping[str, str],
    found: Variables,
) -> None:
    if name in found.values or name in found.broken:
        return
    mark = document.mark((name, "default"))
    variable = declared[name]
    if name in chain:
        circle = " → ".join((*chain[chain.index(name) :], name))
        found.problems.append(Problem(message=f"variables that need each other: {circle}", mark=mark))
        found.broken.add(name)
        return
    if name in settings:
        _set(
            name,
            _from_text(variable.type, settings[name]),
            found,
            Problem(
                message=f"--set {name}={settings[name]}: '{name}' wants {_WANTED[variable.type][1]}",
                hint=f"--set {name}={_example(variable.type)}",
            ),
        )
        return
    default = variable.default
    for needed in sorted(_names(default) & set(declared)):
        _resolve_one(needed, (*chain, name), declared=declared, document=document, settings=settings, found=found)
    if name in found.broken:
        return
    rendered, problems = _render_all(default, mark, found)
    found.problems += problems
    _set(
        name,
        None if problems else _of_type(variable.type, rendered),
        found,
        _wrong_default(name, variable, mark, problems),
    )


def _set(name: str, value: object, found: Variables, problem: Problem | None) -> None:
    if value is not None:
        found.values[name] = value
        return
    found.broken.add(name)
    if problem:
        found.problems.append(problem)


def _wrong_default(name: str, variable: Variable, mark: Mark, problems: list[Problem]) -> Problem | None:
    if problems:
        return None
    if variable.default is None:
        hint = f"give it a default, or --set {name}={_example(variable.type)}"
        return Problem(message=f"variable '{name}' has no value", mark=mark, hint=hint)
    given, wanted = variable.default, _WANTED[variable.type][1]
    hint = f'put it in quotes: "{str(given).lower()}"' if wanted == "text" and not isinstance(given, list) else ""
    return Problem(message=f"variable '{name}' wants {wanted}, not {written(given)}", mark=mark, hint=hint)


def _from_text(kind: str, text: str) -> object:
    match kind:
        case "integer":
            return int(text) if _INTEGER.fullmatch(text) else None
        case "boolean":
            return {"true": True, "false": False}.get(text)
        case "list":
            return [part.strip() for part in text.split(",")] if text.strip() else []
        case _:
            return text


def _example(kind: str) -> str:
    return {"integer": "3", "boolean": "true", "list": "a,b"}.get(kind, "…")


def _of_type(kind: str, value: object) -> object:
    return value if type(value) is _WANTED[kind][0] else None


def _names(value: object) -> set[str]:
    """Return the variables that the strings of a value use, as far as they can be parsed."""
    if isinstance(value, list):
        return {name for item in value for name in _names(item)}
    if not isinstance(value, str) or "{{" not in value:
        return set()
    try:
        return meta.find_undeclared_variables(_ENVIRONMENT.parse(value))
    except jinja2.TemplateSyntaxError:
        return set()


def _render(text: str, variables: Variables) -> object:
    """Return a string with its variables put in. Raises _CannotRenderError."""
    if "{{" not in text:
        return text
    try:
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except jinja2.TemplateSyntaxError as error:
        hint = "two braces that stand for themselves are written {{ '{{' }}"
        raise _CannotRenderError(f"cannot read {{{{ … }}}}: {error.message}", hint=hint) from error
    unknown = sorted(used - set(variables.values) - variables.broken)
    if unknown:
        near = did_you_mean(unknown[0], {*variables.values, *variables.broken})
        hint = "" if near else f"declare it: variables: {{{unknown[0]}: {{default: …}}}}"
        raise _CannotRenderError(f"undefined variable '{unknown[0]}'{near}", hint=hint)
    if used & variables.broken:
        raise _CannotRenderError(quiet=True)
    whole = _WHOLE.fullmatch(text)
    if whole:
        return variables.values[whole[1]]
    try:
        return _ENVIRONMENT.from_string(text).render(variables.values)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise _CannotRenderError(f"cannot work out {{{{ … }}}}: {error}") from error


def _render_all(value: Any, mark: Mark, variables: Variables) -> tuple[Any, list[Problem]]:
    rendered, problems, _ = substitute(Document(value=value, marks={(): mark}), variables)
    return rendered.value, problems


def substitute(
    document: Document, variables: Variables, *, leave: Callable[[YamlPath], bool] = lambda _path: False
) -> tuple[Document, list[Problem], set[Mark]]:
    """Put the variables into every string of a document but those that `leave` says to leave.

    Returns the new document, the problems, and the places of the strings that stay as they were because of one. A
    string that is only one `{{ name }}` becomes the variable's value with its type.
    """
    problems: list[Problem] = []
    failed: set[Mark] = set()

    def walk(value: Any, path: YamlPath) -> Any:
        if leave(path):
            return value
        if isinstance(value, dict):
            return {key: walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return _render(value, variables)
        except _CannotRenderError as error:
            mark = document.mark(path)
            failed.add(mark)
            if not error.quiet:
                problems.append(Problem(message=str(error), mark=mark, hint=error.hint))
            return value

    return Document(value=walk(document.value, ()), marks=document.marks), problems, failed

"""YAML text to nodes, and plain scalars to values.

Scalars follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3), so that `no`, `on` and `12:34:56` are text. One
thing differs: a number with a leading zero, such as `0755`, stays text, since it means different numbers to different
readers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.nodes import Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from builder.errors import InputError, Mark, Problem

TAG = "tag:yaml.org,2002:"
_LARGE = 100_000  # characters from which speed counts: an inventory of some 600 nodes
_BOUND = "{1,80}"  # Python prints no number of thousands of digits
_NUMBER = r"(0|[1-9][0-9]{0,99})"
_PLAIN = (  # core schema: tag, what a plain scalar looks like
    ("null", re.compile(r"|~|null|Null|NULL")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(rf"[-+]?{_NUMBER}|0o[0-7]{_BOUND}|0x[0-9a-fA-F]{_BOUND}")),
    ("float", re.compile(rf"[-+]?({_NUMBER}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
_CONSTRUCT: Mapping[str, Callable[[str], object]] = {
    "null": lambda _text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    "str": lambda text: text,
}
_SYNTAX = (  # what PyYAML says, what it means, what to do
    (r"'\\t' that cannot start any token", "a tab character", "YAML is indented with spaces; replace the tab"),
    (
        r"mapping values are not allowed",
        "a second ': ' in one line",
        "put the value in quotes if the colon is part of it",
    ),
    (r"but found '<scalar>'", "text after the end of a value", "an apostrophe in 'single quotes' is written twice: ''"),
    (
        r"expected <block end>",
        "this line does not fit what stands above",
        "check its indentation, and quotes before it",
    ),
    (
        r"could not find expected ':'",
        "a line without 'key: value'",
        "check its indentation, and the colon after the key",
    ),
    (r"unknown escape character", "an unknown escape in double quotes", "'single quotes' keep a backslash as it is"),
    (r"undefined alias", "an alias (*name) without its anchor (&name)", "put the value in quotes if it starts with *"),
    (r"cannot start any token", "a value cannot start with this character", "put the value in quotes"),
    (r"another document", "a second document ('---') in one file", "one file holds one document"),
    (r"expected ',' or '\]'", "a list in [ ] that is not closed, or lacks a comma", ""),
    (r"expected ',' or '\}'", "a mapping in { } that is not closed, or lacks a comma", ""),
)


_DEEPEST = 100  # twice what a document may be; the reader says where


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's composer with the scalars of YAML 1.2."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Refuse [ and { within each other at once: looking ahead costs the square of their depth."""
        if self.flow_level > _DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none; `implicit[0]` says that a scalar is plain."""
        if kind is ScalarNode:
            plain = implicit[0]
            return TAG + next((tag for tag, shape in _PLAIN if plain and shape.fullmatch(value)), "str")
        return TAG + ("seq" if kind is SequenceNode else "map")


class _FastLoader(Composer, CParser, BaseResolver):
    """The same on libyaml's parser, twice as fast. Nodes are composed here: libyaml's own way crashes where deep."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    resolve = _Loader.resolve

    def descend_resolver(self, *_: object) -> None:
        """Do nothing: tags depend on no path here."""

    def ascend_resolver(self) -> None:
        """Do nothing."""


def _get_node(text: str) -> Node | None:
    """Return the root node; a large text goes through libyaml, unless something is wrong with it and is to be named."""
    if len(text) >= _LARGE:
        with contextlib.suppress(yaml.YAMLError):
            return _FastLoader(text).get_single_node()
    return _Loader(text).get_single_node()


def compose(path: Path, text: str) -> Node:
    """Return the root node of a text. Raises InputError where it is no YAML, or holds nothing."""
    start = Mark(file=path, line=1, column=1)
    try:
        node = _get_node(text)
    except ReaderError as error:
        character = text[error.position]
        problem = Problem(
            message=f"a control character (#x{ord(character):02x})", mark=mark_at(path, text, error.position)
        )
        raise InputError(problem) from error
    except yaml.MarkedYAMLError as error:
        raise InputError(_syntax_problem(path, text, error)) from error
    except RecursionError as error:
        raise InputError(Problem(message="nested too deeply", mark=start)) from error
    if node is None:
        raise InputError(Problem(message="the file holds nothing but comments", mark=start))
    return node


def scalar(kind: str, text: str) -> object:
    """Return the value of a scalar of the kind null, bool, int, float or str.

    Raises ValueError when a written tag does not fit the text, KeyError for another kind.
    """
    construct = _CONSTRUCT[kind]
    shapes = [shape for tag, shape in _PLAIN if tag == kind]
    if shapes and not any(shape.fullmatch(text) for shape in shapes):
        raise ValueError(text)
    return construct(text)


def mark_at(path: Path, text: str, position: int) -> Mark:
    """Return the place of a character of a text, by its index."""
    before = text[:position].split("\n")
    return Mark(file=path, line=len(before), column=len(before[-1]) + 1)


def node_mark(path: Path, node: Node) -> Mark:
    """Return where a node starts."""
    return _mark_of(path, node.start_mark)


def _mark_of(path: Path, mark: Any) -> Mark:
    return Mark(file=path, line=mark.line + 1, column=mark.column + 1)


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    said = error.problem or "not YAML"
    at = error.problem_mark or error.context_mark
    if error.context == "while scanning a quoted scalar" and error.context_mark and "unexpected" in said:
        return Problem(message="a quote that is never closed", mark=_mark_of(path, error.context_mark))
    mark = _mark_of(path, at) if at else Mark(file=path, line=1, column=1)
    message, hint = next(((what, hint) for shape, what, hint in _SYNTAX if re.search(shape, said)), (said, ""))
    lines = text.split("\n")
    written = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if re.search(r"(^|[:-])\s*\{\{", written):
        return Problem(message="a value that starts with {{ is not in quotes", mark=mark, hint='write "{{ name }}…"')
    return Problem(message=message, mark=mark, hint=hint)

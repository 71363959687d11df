"""What the documentation has a person type and write: commands are commands, recipes load, links lead somewhere."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from builder.cli.main import pibuild
from builder.recipe.load import load_recipe

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`((?:sudo )?(?:\.venv/bin/)?pibuild [^`]+)`")
_LEFT_OUT = {"…", "..."}


def _blocks(text: str, kind: str) -> Iterator[str]:
    yield from (found[2] for found in _BLOCK.finditer(text) if found[1] == kind)


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `pibuild` of each command line: in blocks, and quoted in a sentence."""
    lines = [line for block in _blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *_QUOTED.findall(_BLOCK.sub("", text))]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words = [word for word in lexer if word not in _LEFT_OUT]
        for is_between, piece in itertools.groupby(words, lambda word: set(word) <= set("|&;>")):
            command = [] if is_between else list(piece)
            while command and (command[0] == "sudo" or "=" in command[0]):
                command = command[1:]
            if command and command[0].removeprefix(".venv/bin/") == "pibuild":
                yield command[1:]


def _parse(words: list[str]) -> None:
    """Take a command line apart as click does. Raises UsageError for a command or an option that is none."""
    command: click.Command = pibuild
    context = click.Context(pibuild, info_name="pibuild")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


def _wrong(text: str) -> list[str]:
    wrong = []
    for words in _commands(text):
        try:
            _parse(words)
        except click.UsageError as error:
            wrong.append(f"pibuild {' '.join(words)}: {error.format_message()}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page: Path) -> None:
    assert _wrong(page.read_text()) == []


def test_what_is_no_command_is_seen() -> None:
    text = "`pibuild frobnicate` and\n\n```sh\nsudo pibuild explode --nodes yellow3 | less  # all\n```\n"
    assert [line.split(":")[0] for line in _wrong(text)] == [
        "pibuild explode --nodes yellow3",
        "pibuild frobnicate",
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "architecture.md"], ids=lambda page: page.name)
def test_every_recipe_loads(page: Path, tmp_path: Path) -> None:
    """Blocks that begin with a name, whole recipes and parts; each may extend the others of its page.

    Architecture shows the form of all keys instead.
    """
    recipes = [block for block in _blocks(page.read_text(), "yaml") if re.match(r"(#.*\n)*name: ", block)]
    found: dict[str, Path] = {}
    for block in recipes:
        own = re.findall(r"^name: (\S+)", block, re.MULTILINE)[0]
        found[own] = tmp_path / f"{own}.yaml"
        found[own].write_text(block)
    for name, path in found.items():
        text = path.read_text()
        if "base:" not in text and "extends:" not in text:
            path = tmp_path / f"with-{name}.yaml"  # noqa: PLW2901 - a part has no base of its own
            path.write_text(f"name: with-{name}\nextends: [debian, ./{name}.yaml]\n")
        assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in linked if not (page.parent / link).exists()] == []
    if page.parent.name == "docs" and page.name != "README.md":
        assert f"]({page.name})" in (PROJECT / "docs/README.md").read_text(), "not in the index"

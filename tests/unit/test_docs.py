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
from builder.errors import PibuildError
from builder.firmware.boards import BOARDS
from builder.inventory.load import load_inventory
from builder.recipe.load import load_recipe
from tests.pictures import PICTURES

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
INDEX = PROJECT / "docs/README.md"
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
def test_every_whole_inventory_loads(page: Path, tmp_path: Path) -> None:
    """Blocks with a cluster and its nodes; others show a part."""
    for block in _blocks(page.read_text(), "yaml"):
        if re.search(r"^cluster:", block, re.MULTILINE) and re.search(r"^nodes:", block, re.MULTILINE):
            (tmp_path / "cluster.yaml").write_text(block)
            assert load_inventory(tmp_path / "cluster.yaml").nodes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link, _, heading in (found.partition("#") for found in re.findall(r"\]\(([^):]+)\)", page.read_text())):
        target = page.parent / link if link else page
        if not target.exists() or (heading and heading not in map(_anchor, _headings(target.read_text()))):
            lost.append(f"{link}#{heading}")
    assert lost == []
    if page.is_relative_to(INDEX.parent) and page != INDEX:
        assert re.search(rf"\]\({page.relative_to(INDEX.parent)}[)#]", INDEX.read_text()), "not in the index"


def _headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def _anchor(heading: str) -> str:
    """Return what a link to a heading says after the #, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_picture_is_made_by_a_command_and_shown() -> None:
    """`python -m tests.pictures` makes them; none loads anything from elsewhere."""
    drawn = {path.stem: path.read_text() for path in (PROJECT / "docs/pictures").iterdir()}
    assert set(drawn) == set(PICTURES)
    shown = "".join(page.read_text() for page in PAGES)
    for name, picture in PICTURES.items():
        assert f"![{picture.command}](../pictures/{name}.svg)" in shown
        assert not re.search(r"(?<!xmlns=\")https?://|@import|<script", drawn[name])
        _parse([word for word in shlex.split(picture.command) if word != "sudo"][1:])


@pytest.mark.parametrize(
    "asked",
    [
        *("log in to a flashed SD card", "build Ubuntu", "Wi-Fi", "CI", "add a node", "replace a board", "go back"),
        *("hold a version", "own part", "who may reach what"),
    ],
)
def test_one_search_answers(asked: str) -> None:
    """Whoever looks for these words in the index, or in the headings, comes to a heading that has them."""
    words = re.compile(rf"\b{re.escape(asked)}\b", re.IGNORECASE)
    rows = [line for line in INDEX.read_text().splitlines() if words.search(line)]
    assert rows
    pages = [INDEX.parent / link for row in rows for link in re.findall(r"\]\(([^)#]+)", row)]
    assert any(words.search(heading) for page in pages for heading in _headings(page.read_text()))


def test_every_metric_that_a_page_names_is_written_by_a_part() -> None:
    """A part or a rule has the name; the fetcher of models puts `edge_model_` before what it counts."""
    files = [path for at in ("overlays", "builder/monitoring") for path in (PROJECT / at).rglob("*") if path.is_file()]
    written = "\n".join(path.read_text(errors="replace") for path in files)
    named = {name for page in PAGES for name in re.findall(r"\bedge_[a-z_]+[a-z]", page.read_text())}
    assert len(named) > 30
    short = {name: name.removeprefix("edge_model_") for name in named}
    assert [name for name in sorted(named) if not re.search(rf"\b({name}|{short[name]})\b", written)] == []


@pytest.mark.parametrize("page", [PROJECT / "README.md", PROJECT / "docs/terminal.md"], ids=lambda page: page.name)
def test_the_exit_codes_are_those_of_the_kinds_of_failure(page: Path) -> None:
    table = page.read_text().split("## Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for code in row.split(",")}
    kinds = [kind for kind in PibuildError.__subclasses__() if kind.__module__ == "builder.errors"]
    raised = {kind.exit_code for kind in kinds}
    assert codes - {1} == {0, 130, 143} | raised


def test_the_page_of_boards_has_each_with_its_ways() -> None:
    table = (INDEX.parent / "boards.md").read_text().split("| `board` |")[1].split("\n\n")[0]
    said = {
        name: ways
        for names, ways in re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert sorted(said) == sorted(BOARDS)
    words = {"sd": "SD card", "usb": "USB disk", "nvme": "NVMe disk", "network": "network"}
    for name, board in BOARDS.items():
        assert {way for way, word in words.items() if word in said[name]} == set(board.ways), name


def test_the_readme_names_every_command() -> None:
    table = (PROJECT / "README.md").read_text().split("## Commands")[1].split("## Exit codes")[0]
    named = " ".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE))
    assert [name for name in pibuild.commands if not re.search(rf"\b{name}\b", named)] == []

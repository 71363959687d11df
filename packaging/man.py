"""`man.py DIRECTORY`: write a manual page for every command, from the commands themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from builder import __version__
from builder.cli.main import pibuild


def pages(command: click.Command, *words: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the page of a command and of those below it."""
    context = click.Context(command, info_name=" ".join(words))
    yield "-".join(words), _page(context, words)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from pages(command.commands[name], *words, name)


def _page(context: click.Context, words: tuple[str, ...]) -> str:
    command = context.command
    summary, _, rest = (command.help or "").partition("\n")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f'.TH "{"-".join(words).upper()}" 1 "" "pibuild {__version__}" "pibuild"',
        ".SH NAME",
        f"{_text('-'.join(words))} \\- {_text(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_text(' '.join(words))}\n{_text(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(rest.strip() or summary),
    ]
    given = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    options = [record for option in given if (record := option.get_help_record(context))]
    if options:
        parts.append(".SH OPTIONS")
        parts += [f".TP\n\\fB{_text(names)}\\fR\n{_text(told)}" for names, told in options]
    if isinstance(command, click.Group):
        parts.append(".SH COMMANDS")
        for name in command.list_commands(context):
            told = _text(command.commands[name].get_short_help_str(limit=200))
            parts.append(f".TP\n\\fB{_text('-'.join([*words, name]))}\\fR(1)\n{told}")
    for block in filter(None, (command.epilog or "").split("\b\n")):
        title, _, lines = block.strip().partition(":\n")
        parts += [f".SH {_text(title).upper()}", ".nf", *(_text(line) for line in lines.splitlines()), ".fi"]
    return "\n".join(parts) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Return paragraphs; what click does not rewrap is not rewrapped here either."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        kept = block.lstrip().startswith("\b")
        lines = [_text(line.strip() if not kept else line) for line in block.strip("\b\n ").splitlines()]
        found += [".PP", *([".nf", *lines, ".fi"] if kept else lines)]
    return found[1:]


def _text(text: str) -> str:
    """Return text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(directory: Path) -> None:
    """Write all pages."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages(pibuild, "pibuild"):
        (directory / f"{name}.1").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

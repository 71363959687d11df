"""Pictures of a terminal for docs/pictures: a command runs on a terminal of its own, and rich draws what it printed.

    python -m tests.pictures --in DIRECTORY NAME…        without NAME: all

DIRECTORY is the place to work of docs/tutorials/lab.md, with `pibuild` on the PATH; pictures whose command needs root
need the nodes and the lab of that page.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import re
import shlex
import struct
import termios
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console  # noqa: TID251 - it draws
from rich.terminal_theme import MONOKAI  # noqa: TID251
from rich.text import Text  # noqa: TID251

from builder.run import spawn

DIRECTORY = Path(__file__).parents[1] / "docs/pictures"
PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Picture:
    """What is typed, how wide the terminal is, and how many lines of the answer are shown; the others are […]."""

    command: str
    columns: int = 90
    lines: int = 30


PICTURES = {
    "node-list": Picture("pibuild node list"),
    "plan": Picture("pibuild plan node.yaml", columns=80),
    "explode": Picture("sudo pibuild explode --all --dry-run", columns=90),
    "services-check": Picture("sudo pibuild services check", columns=100),
    "lab-status": Picture("sudo pibuild lab status", columns=90),
    "netboot-verdict": Picture("sudo pibuild boot --node yellow3 --netboot", columns=100, lines=16),
}

# Without a font from elsewhere: a page of the docs loads nothing from another place.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px;
 line-height: {line_height}px; white-space: pre; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def printed(command: str, columns: int, directory: Path) -> str:
    """Return what a command writes to a terminal that is so wide; progress goes elsewhere."""
    own, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    words = [word for word in shlex.split(command) if word != "sudo"]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    text = b""
    with spawn(words, cwd=directory, env=env, stdout=its) as running, contextlib.suppress(OSError):
        os.close(its)
        while got := os.read(own, 65536):  # an OSError when nobody has the terminal any more
            text += got
        running.wait()
    os.close(own)
    return last_shown(text.decode())


def last_shown(text: str) -> str:
    """Return lines as they stand in the end: a line of progress that was written over is gone."""
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return re.sub(r"\x1b\[[0-9;?]*[A-HJKhl]", "", "\n".join(lines)).strip("\n")


def drawn(name: str, answer: str) -> str:
    """Return the picture of a command and its answer."""
    picture = PICTURES[name]
    lines = answer.split("\n")
    if len(lines) > picture.lines:
        lines = [*lines[: picture.lines], "[…]"]
    console = Console(width=picture.columns, record=True, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text(PROMPT + picture.command, style="bold"))
    console.print(Text.from_ansi("\n".join(lines)), overflow="fold")
    svg = console.export_svg(title=picture.command, theme=MONOKAI, code_format=_SVG, unique_id=name)
    return re.sub(r' clip-path="url\(#[a-z-]+-line-[0-9]+\)"', "", svg)


def main() -> None:
    """Draw the pictures that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures")
    parser.add_argument("--in", dest="directory", type=Path, default=Path())
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], metavar="NAME")
    given = parser.parse_args()
    DIRECTORY.mkdir(exist_ok=True)
    for name in given.names or PICTURES:
        picture = PICTURES[name]
        answer = printed(picture.command, picture.columns, given.directory)
        (DIRECTORY / f"{name}.svg").write_text(drawn(name, answer))


if __name__ == "__main__":
    main()

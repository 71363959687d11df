"""Jinja2 as every template of ours is rendered: whoever wrote it reaches nothing of the program that renders it."""

from __future__ import annotations

from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def environment(directory: Path | None = None) -> jinja2.Environment:
    """Return an environment for configuration files; `{% include %}` finds what lies in a directory.

    An undefined name is an error, lines that hold a block alone leave no empty line, and the last line keeps its end.
    """
    return ImmutableSandboxedEnvironment(  # not HTML: nothing is escaped
        loader=jinja2.FileSystemLoader(directory) if directory else None,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )

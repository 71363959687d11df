"""The program `pibuild`, also as `python -m builder`."""

from __future__ import annotations

import sys

from builder import __version__


def main() -> None:
    """Be the program. The version is said at once; everything else is the command line's."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"pibuild {__version__}\n")
        return
    from builder.cli.main import main as command_line  # noqa: PLC0415 - a version needs none of it

    command_line()


if __name__ == "__main__":
    main()

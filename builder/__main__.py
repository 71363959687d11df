"""The program `pibuild`, also as `python -m builder`."""

from __future__ import annotations

import gc
import sys

from builder import __version__

_BETWEEN_COLLECTIONS = 50_000  # objects: Python's 700 are a tenth of a start, in which nothing becomes garbage


def main() -> None:
    """Be the program. The version is said at once; everything else is the command line's."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"pibuild {__version__}\n")
        return
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    from builder.cli.main import main as command_line  # noqa: PLC0415 - a version needs none of it

    command_line()


if __name__ == "__main__":
    main()

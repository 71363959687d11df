r"""Text that others wrote, for a terminal: what is no letter stands there as an escape, `\x1b`, and orders nothing.

A node, an image, a server choose the names of their files: one may hold an order to the terminal, a newline and the
line that should follow it, letters that run from right to left. Escaped rather than dropped, two names stay two.
"""

from __future__ import annotations

import re

_BYTES = range(0xDC80, 0xDD00)  # of a file name that is no UTF-8, as os.fsdecode has them
_NOT_LETTERS = re.compile(r"[^\x20-\x7e]")


def printable(text: str) -> str:
    """Return a text as it may be printed, its lines and tabs kept."""
    return text if text.isprintable() else _NOT_LETTERS.sub(_escaped_but_space, text)


def one_line(name: object) -> str:
    """Return a name or a path as it may be printed within a line."""
    text = str(name)
    return text if text.isprintable() else _NOT_LETTERS.sub(_escaped, text)


def _escaped_but_space(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else _escaped(found)


def _escaped(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    number = ord(found[0])
    if number in _BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()

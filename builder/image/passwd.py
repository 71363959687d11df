"""The numbers of users and groups in passwd(5) and group(5) files, which an image wrote."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"[0-9]{1,10}")
_LARGEST = (1 << 32) - 2  # (uid_t)-1 means "no change" to chown(2)


def parse_id(written: str) -> int | None:
    """Return a number of a user or group; None for what is none, as in NIS lines (`+::::::`) and damaged ones."""
    return number if _DIGITS.fullmatch(written) and (number := int(written)) <= _LARGEST else None

"""One thing that a check of files found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was checked, whether it holds, what was seen; for a failure, `hint` is what mends it."""

    check: str
    ok: bool
    detail: str
    hint: str = ""

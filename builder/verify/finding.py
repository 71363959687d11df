"""One thing that a check of files found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was checked, whether it holds, what was seen; for a failure, `hint` is what mends it.

    `note`: it is no check, but what a person should know of what boots.
    """

    check: str
    ok: bool
    detail: str
    hint: str = ""
    note: bool = False

    @property
    def said(self) -> str:
        """The word for tables."""
        return "note" if self.note else "ok" if self.ok else "FAILED"

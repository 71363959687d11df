"""What a check found: one form for the boot chain, the verdict, servers and nodes, on a terminal and in JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "broken", "unknown", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was checked, its result, what was seen; `hint` is what mends it. In JSON it has these four keys.

    `unknown`: it could not be seen, which is not ok. `note`: no check, but what a person should know.
    """

    check: str
    result: Result
    seen: str
    hint: str = ""

    @property
    def broken(self) -> bool:
        """Whether the check failed."""
        return self.result == "broken"


def judge(*, check: str, ok: bool, seen: str, hint: str = "") -> Finding:
    """Return what a check found that either holds or does not; `hint` is kept for one that does not."""
    return Finding(check=check, result="ok" if ok else "broken", seen=seen, hint="" if ok else hint)


def holds(findings: Iterable[Finding]) -> bool:
    """Whether no check failed."""
    return not any(finding.broken for finding in findings)


def rows(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """Return the rows of the table for people: check, result, what was seen."""
    return [(finding.check, finding.result, finding.seen) for finding in findings]


def reasons(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each check that failed."""
    return [f"{finding.check}: {finding.seen}" for finding in findings if finding.broken]

"""What each group of tests takes, as the suite's end prints it: seconds on the clock, and of processors.

A group is a file of tests; the folders of unit tests are one each. A group with far less processor time than time on
the clock waits: more of them can run side by side.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_SHOWN = 1.0  # seconds; groups below are summed up


@dataclass(slots=True)
class _Spent:
    seconds: float = 0.0
    processor: float = 0.0
    tests: int = 0


_spent: dict[str, _Spent] = defaultdict(_Spent)


def _processor() -> float:
    """Return the seconds of processors that this process and its ended children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _group(path: Path) -> str:
    relative = path.relative_to(TESTS)
    return str(relative.parent) if relative.parts[0] == "unit" else str(relative)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    begun, used = time.monotonic(), _processor()
    try:
        return (yield)
    finally:
        spent = _spent[_group(item.path)]
        spent.seconds += time.monotonic() - begun
        spent.processor += _processor() - used
        spent.tests += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    shown = {group: spent for group, spent in _spent.items() if spent.seconds >= _SHOWN}
    if not shown:
        return
    terminalreporter.section("seconds of each group, on the clock and of processors")
    for group, spent in sorted(shown.items(), key=lambda pair: -pair[1].seconds):
        terminalreporter.line(f"{spent.seconds:8.1f} {spent.processor:8.1f}  {group} ({spent.tests})")
    seconds, processor = (sum(getattr(spent, name) for spent in _spent.values()) for name in ("seconds", "processor"))
    terminalreporter.line(f"{seconds:8.1f} {processor:8.1f}  together")

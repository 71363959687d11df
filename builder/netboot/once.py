"""What one run reads for many nodes, read once: templates, an image's files, where its links lead.

It holds for one run and no longer: a person edits templates between two, and each run asks anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Once:
    """Answers of functions that give the same for the same arguments while a run lasts."""

    answers: dict[tuple[object, ...], object] = field(default_factory=dict)

    def __call__(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what a function returns, called the first time alone."""
        key = (function, args, *sorted(options.items()))
        if key not in self.answers:
            self.answers[key] = function(*args, **options)
        return cast("T", self.answers[key])

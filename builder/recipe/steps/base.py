"""What every kind of step is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from builder.errors import Mark, Problem
from builder.host.hashing import Artifact
from builder.run import Argv, Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a step stands: the directory its relative paths start from, its mark, and the variables in force there."""

    directory: Path
    mark: Mark
    variables: Mapping[str, object]


class Target(Protocol):
    """The root a step works on, as the engine hands it out."""

    @property
    def root(self) -> Path:
        """The merged root as the host sees it; the boot partition's content lies at its mount point."""

    def run(
        self,
        argv: Argv,
        *,
        network: bool = False,
        input: bytes | None = None,  # noqa: A002 - subprocess's own word
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program inside the root. Raises StepError with the place, the command and its last lines."""

    def fetched(self, sha256: str) -> Path | None:
        """Return the verified file of an artifact; None where it is optional and could not be had."""


class Step(BaseModel, ABC):
    """A step as a person writes it. Subclasses carry the kind's reference in their docstring.

    `version` is raised whenever the implementation's result changes for the same fields and inputs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[int] = 1

    def check(self, at: Place) -> list[Problem]:  # noqa: ARG002 - most kinds have nothing to add
        """Return what types alone cannot find wrong."""
        return []

    @abstractmethod
    def inputs(self, at: Place) -> object:
        """Return, JSON-able, everything beyond the fields that can change the result; None where that is nothing."""

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return the files from outside that the step needs."""
        return ()

    @abstractmethod
    def apply(self, target: Target, at: Place) -> None:
        """Do the step's work on the target. Raises StepError."""

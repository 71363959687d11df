"""What several files of system tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.engine import Engine, first_engine
from tests.system.lab import NetLab, netlab_of, pibuild


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """The small recipe, built once: with which engine, what it reported, what it printed on stderr."""

    engine: Engine
    report: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.report["published"]["digest"])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    engine = first_engine(tmp_path_factory.mktemp("engine"))
    return Small(engine=engine, report=engine.build())


@pytest.fixture(scope="session")
def golden_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default recipe's image, from the cache where it has been built before: the directory that has it."""
    output = tmp_path_factory.mktemp("golden")
    pibuild("build", "recipes/golden.yaml", "--output", output)
    return output / "golden" / "latest"


@pytest.fixture(scope="session")
def netlab(golden_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetLab]:
    """A login node's network and servers, and nodes that boot from it when a test asks for them."""
    with netlab_of(golden_image, tmp_path_factory.mktemp("netlab") / "netboot") as running:
        yield running

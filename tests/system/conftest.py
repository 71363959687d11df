"""What several files of system tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.system.engine import Engine, first_engine


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

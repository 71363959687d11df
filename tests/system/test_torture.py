"""The short form of `make torture`: forty trials that repeat."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder.run import run

pytestmark = [pytest.mark.root, pytest.mark.network]
PROJECT = Path(__file__).parents[2]


def test_forty_trials_lose_nothing_and_leave_nothing() -> None:
    number, seed = os.environ.get("PIBUILD_TORTURE", "40"), os.environ.get("PIBUILD_SEED", "40")
    done = run([sys.executable, "-m", "tests.torture", number, "--seed", seed], cwd=PROJECT, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

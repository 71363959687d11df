"""Inputs that a parser did not survive once: each is answered or refused now. `make fuzz` keeps what it finds there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from builder.errors import PibuildError
from tests.fuzz.__main__ import CRASHES, shares
from tests.fuzz.targets import TARGETS

_TARGETS = {target.name: target for target in TARGETS}
_TOOLS = {"partition-table", "fat", "ext4"}  # read through mtools, laid over an image that mke2fs makes
_FILES = sorted(path for path in CRASHES.glob("*/*") if path.is_file())


def _marked(path: Path) -> object:
    marks = [pytest.mark.tools] if path.parent.name in _TOOLS else []
    return pytest.param(path, id=f"{path.parent.name}-{path.name}", marks=marks)


@pytest.mark.parametrize("path", [_marked(path) for path in _FILES])
def test_a_kept_input_is_survived(path: Path, tmp_path: Path) -> None:
    target = _TARGETS[path.parent.name]
    with contextlib.suppress(PibuildError, *target.refuses):
        target.feed(path.read_bytes(), tmp_path)


def test_every_kept_input_belongs_to_a_target() -> None:
    assert {path.parent.name for path in _FILES} <= _TARGETS.keys()


def test_inputs_are_shared_out_by_weight() -> None:
    parts = shares(list(TARGETS), 10000)
    assert parts.keys() == _TARGETS.keys()
    assert 9900 <= sum(parts.values()) <= 10100
    assert parts["recipe"] == pytest.approx(3 * parts["pi-info"], abs=2)

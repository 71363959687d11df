"""Damaged inputs for every parser of foreign input, and a harness that would notice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fuzz.__main__ import run_all
from tests.fuzz.engine import Kind, Target, fuzz
from tests.fuzz.targets import TARGETS

_SEEDS = (b"one", b"two", b"three")


def test_ten_thousand_inputs_are_survived() -> None:
    results = run_all(list(TARGETS), 10000, seed=1)
    assert [result.crash for result in results if result.crash] == []
    assert sum(result.inputs for result in results) >= 9000  # small parsers have no more that are new


def _falls(data: bytes, _: Path) -> None:
    if b"[" in data:
        raise IndexError(data)


def _hangs(data: bytes, _: Path) -> None:
    while b"[" in data:
        time.sleep(0.01)


def _grows(data: bytes, _: Path) -> None:
    if b"[" in data:
        bytearray(2 << 30)


def _escapes(data: bytes, scratch: Path) -> None:
    if b"[" in data:
        (scratch / "../../../escaped").write_bytes(data)


def _stays(data: bytes, scratch: Path) -> None:
    (scratch / "inside").write_bytes(data)
    (scratch / "inside").rename(scratch / "moved")


@pytest.mark.parametrize(
    ("feed", "kind"), [(_falls, "traceback"), (_hangs, "hang"), (_grows, "memory"), (_escapes, "write outside")]
)
def test_what_a_target_must_not_do_is_found(feed: object, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.engine.SECONDS", 0.2)
    result = fuzz(Target(name="bad", seeds=lambda: list(_SEEDS), feed=feed), 400, seed=1)  # type: ignore[arg-type]
    assert result.crash is not None
    assert result.crash.kind == kind
    assert b"[" in result.crash.data


def test_a_target_that_ends_its_process_is_found() -> None:
    result = fuzz(Target(name="bad", seeds=lambda: list(_SEEDS), feed=lambda *_: os._exit(3)), 10, seed=1)
    assert result.crash is not None
    assert result.crash.kind == "died"


def test_a_target_that_writes_in_its_scratch_directory_is_sound() -> None:
    assert fuzz(Target(name="good", seeds=lambda: list(_SEEDS), feed=_stays), 100, seed=1).crash is None

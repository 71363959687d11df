"""gc on a cache made up for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from builder.build.gc import collect
from builder.cli import main as cli
from builder.errors import HostError
from builder.host.cache import Cache

DAY = 86400


def _age(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with, of each kind, an old entry and a new one, and work of a dead process."""
    made = Cache(tmp_path / "cache")
    made.prepare()
    for name, days in (("old", 40), ("new", 2)):
        layer = made.layers / name
        (layer / "fs/etc").mkdir(parents=True)
        (layer / "fs/etc/motd").write_bytes(b"x" * 10_000)
        (made.archives / f"{name}.deb").write_bytes(b"x" * 100_000)
        (made.tools / name / "root").mkdir(parents=True)
        for path in (layer, made.archives / f"{name}.deb", made.tools / name):
            _age(path, days)
    (made.tmp / "layer-of-a-dead-process").mkdir()
    return made


def _left(cache: Cache) -> set[str]:
    return {
        path.relative_to(cache.root).as_posix()
        for directory in (cache.layers, cache.archives, cache.tools, cache.tmp)
        for path in directory.iterdir()
    }


def test_what_was_not_used_goes_and_the_rest_stays(cache: Cache) -> None:
    removed = collect(cache, keep_days=30, dry_run=False)
    assert {entry.path for entry in removed} == {cache.layers / "old", cache.archives / "old.deb", cache.tools / "old"}
    assert _left(cache) == {"layers/new", "archives/new.deb", "tools/new"}


def test_a_dry_run_says_the_same_and_removes_nothing_however_often(cache: Cache) -> None:
    before = _left(cache)
    first = collect(cache, keep_days=30, dry_run=True)
    assert collect(cache, keep_days=30, dry_run=True) == first
    assert _left(cache) == before
    assert collect(cache, keep_days=30, dry_run=False) == first


def test_sizes_are_what_is_freed_and_the_oldest_comes_first(cache: Cache) -> None:
    _age(cache.archives / "old.deb", 90)
    removed = collect(cache, keep_days=30, dry_run=True)
    assert removed[0].path == cache.archives / "old.deb"
    assert removed[0].size >= 100_000
    assert removed[0].used == time.strftime("%Y-%m-%d", time.localtime(time.time() - 90 * DAY))
    layer = next(entry for entry in removed if entry.path == cache.layers / "old")
    assert layer.size >= 10_000


def test_reading_a_file_is_a_use_of_it(cache: Cache) -> None:
    old = cache.archives / "old.deb"
    os.utime(old, (time.time(), old.stat().st_mtime))
    assert old not in {entry.path for entry in collect(cache, keep_days=30, dry_run=True)}


def test_nothing_is_kept_when_no_day_is(cache: Cache) -> None:
    collect(cache, keep_days=0, dry_run=False)
    assert _left(cache) == set()


def test_a_cache_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    assert collect(Cache(tmp_path / "none"), keep_days=0, dry_run=False) == ()
    assert not (tmp_path / "none").exists()


def test_a_cache_of_somebody_else_s_is_a_message(cache: Cache) -> None:
    cache.archives.chmod(0o555)
    try:
        with pytest.raises(HostError, match=r"the cache .* cannot be written"):
            collect(cache, keep_days=30, dry_run=False)
    finally:
        cache.archives.chmod(0o755)


def test_the_command_says_what_was_freed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIBUILD_CACHE", str(cache.root))
    assert cli.run_command(["gc", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {entry["path"] for entry in told} >= {str(cache.layers / "old")}
    assert cli.run_command(["gc"]) == 0
    assert " freed" in capsys.readouterr().out
    assert not (cache.layers / "old").exists()


def test_nothing_is_collected_while_a_build_runs(cache: Cache) -> None:
    before = _left(cache)
    with cache.in_use(), cache.in_use(), pytest.raises(HostError, match="a build is using"):
        collect(cache, keep_days=0, dry_run=False)
    assert before - _left(cache) <= {"tmp/layer-of-a-dead-process"}
    collect(cache, keep_days=0, dry_run=False)
    assert _left(cache) == set()

"""Work in progress is swept when its process is gone, and a final name means a whole result."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.host.cache import Cache, commit, read_json, write_json
from builder.host.scratch import remove_tree


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.prepare()
    return made


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_the_default_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIBUILD_CACHE", "mine")
    assert Cache.default().root == tmp_path / "mine"
    monkeypatch.delenv("PIBUILD_CACHE")
    assert Cache.default().root == Path("/var/cache/pibuild")


def test_scratch_is_there_in_the_block_and_gone_after_it(cache: Cache) -> None:
    with cache.scratch("layer") as path:
        assert path.parent == cache.tmp
        assert path.name.startswith("layer-")
        (path / "fs").mkdir()
        with cache.scratch("layer") as other:
            assert other != path
    assert list(cache.tmp.iterdir()) == []


def test_scratch_is_gone_after_a_failure_too(cache: Cache) -> None:
    with pytest.raises(FileNotFoundError), cache.scratch("layer") as path:
        (path / "half").rename(path / "whole")
    assert list(cache.tmp.iterdir()) == []


def test_a_sweep_takes_what_nobody_holds_and_leaves_the_rest(cache: Cache) -> None:
    stale, held = cache.tmp / "layer-stale", cache.tmp / "layer-held"
    for path in (stale, held):
        (path / "fs").mkdir(parents=True)
    (cache.tmp / "a-file").write_text("left by somebody")
    with _lock(held), cache.scratch("mine") as mine:
        cache.sweep()
        assert set(cache.tmp.iterdir()) == {held, mine}
    cache.sweep()
    assert list(cache.tmp.iterdir()) == []


def test_preparing_sweeps(cache: Cache) -> None:
    (cache.tmp / "layer-stale").mkdir()
    cache.prepare()
    assert list(cache.tmp.iterdir()) == []


def test_a_scratch_that_was_swept_before_its_lock_is_made_anew(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []
    flock = fcntl.flock

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.extend(cache.tmp.iterdir())
            swept[0].rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with cache.scratch("layer") as path:
        assert path.is_dir()
        assert path not in swept


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, cache: Cache) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(HostError, match="cannot be written: Permission denied") as caught:
        Cache(closed / "cache").prepare()
    assert "PIBUILD_CACHE" in caught.value.hint
    cache.layers.chmod(0o555)
    with pytest.raises(HostError, match="cannot be written: Permission denied"):
        cache.prepare()
    cache.layers.chmod(0o755)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be written: Not a directory"):
        Cache(tmp_path / "file").prepare()


def test_a_result_gets_its_name_and_the_second_of_two_is_dropped(cache: Cache) -> None:
    final = cache.layers / "KEY"
    for content in ("first", "second"):
        with cache.scratch("layer") as work:
            (work / "layer").mkdir()
            (work / "layer" / "meta.json").write_text(content)
            commit(work / "layer", final)
            assert not (work / "layer").exists()
    assert (final / "meta.json").read_text() == "first"


def test_a_file_is_replaced(cache: Cache) -> None:
    for content in ("first", "second"):
        (cache.tmp / "file").write_text(content)
        commit(cache.tmp / "file", cache.resolutions / "x.json")
    assert (cache.resolutions / "x.json").read_text() == "second"


def test_a_commit_that_cannot_be_is_an_error_and_leaves_the_source(cache: Cache) -> None:
    (cache.tmp / "file").write_text("x")
    cache.layers.chmod(0o555)
    with pytest.raises(PermissionError):
        commit(cache.tmp / "file", cache.layers / "KEY")
    cache.layers.chmod(0o755)
    assert (cache.tmp / "file").exists()


def test_trees_go_whatever_their_modes_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "work" / "deep").mkdir(parents=True)
    (tree / "work" / "deep" / "file").write_text("")
    (tree / "link").symlink_to(outside)
    (tree / "work" / "deep").chmod(0)
    (tree / "work").chmod(0)
    tree.chmod(0o500)
    remove_tree(tree)
    assert not tree.exists()
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "nothing")
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert not (tmp_path / "link").is_symlink()


def test_json_is_read_as_it_was_written_and_nothing_partial_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, "é"]})
    assert read_json(path) == {"a": [1, "é"]}
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]

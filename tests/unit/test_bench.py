"""The benchmarks measure what they say."""

import os
import sys
from pathlib import Path

import pytest

from bench import emulation
from bench.builds import BENCHMARKS, Bench, results
from bench.measure import measure, occupied

# Stands for pibuild: makes what a build makes, in no time.
FAKE_BUILD = """
import os, pathlib, sys
arguments = sys.argv[1:]
assert arguments[0] == "build" and pathlib.Path(arguments[1]).read_text().startswith("name: bench")
layers = pathlib.Path(os.environ["PIBUILD_CACHE"]) / "layers"
layers.mkdir(parents=True, exist_ok=True)
pathlib.Path(arguments[arguments.index("--output") + 1]).mkdir(exist_ok=True)
"""


@pytest.mark.tools
def test_memory_is_that_of_the_children_without_files() -> None:
    held = 64 << 20
    script = f"import time; block = bytearray({held}); block[::4096] = b'x' * len(block[::4096]); time.sleep(0.5)"
    measured = measure(["sh", "-c", f'"$0" -c "{script}"; :', sys.executable])
    assert held <= measured.memory < 3 * held
    assert 0.5 <= measured.seconds < 30


def test_occupied_counts_blocks_and_hard_links_once(tmp_path: Path) -> None:
    empty = occupied(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "file", tmp_path / "link")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert 1 << 20 <= occupied(tmp_path) - empty < 2 << 20


@pytest.mark.tools
def test_every_benchmark_runs_and_has_a_row(tmp_path: Path) -> None:
    bench = Bench(
        directory=tmp_path / "work", recipe=Path("recipes/golden.yaml"), command=(sys.executable, "-c", FAKE_BUILD)
    )
    rows = list(results(bench, tuple(BENCHMARKS)))
    assert [row.name for row in rows][:2] == ["cold build", "no-change build"]
    assert len(rows) == len(BENCHMARKS)
    assert all(row.seconds is not None for row in rows if row.name != "disk used")


@pytest.mark.tools
def test_a_benchmark_alone_has_its_cold_build_first(tmp_path: Path) -> None:
    bench = Bench(directory=tmp_path, recipe=Path("recipes/golden.yaml"), command=(sys.executable, "-c", FAKE_BUILD))
    assert [row.name for row in results(bench, ("publish",))] == ["publish alone"]


def test_the_packages_of_a_lock_for_another_architecture() -> None:
    lock = f"""\
base:
  debs:
  - sed 4.9-2 arm64 {"0" * 64} 300 pool/sed.deb
steps:
  kernel/0:
    debs:
    - linux-image-arm64 6.12 arm64 {"1" * 64} 300 pool/linux.deb
    - raspi-firmware 1:1 all {"2" * 64} 300 pool/raspi.deb
    - less 668-1 arm64 {"3" * 64} 300 pool/less.deb
"""
    assert emulation.packages_of(lock) == ["less", "sed", "linux-image-amd64"]


@pytest.mark.tools
def test_both_ways_have_a_row_a_layer(tmp_path: Path) -> None:
    report = '{"layers": [{"name": "base", "seconds": 2.5}], "publish_seconds": 1.5}'
    fake = FAKE_BUILD.replace('.startswith("name: bench")', "") + f"print('{report}')\n"
    bench = Bench(directory=tmp_path, recipe=Path("recipes/golden.yaml"), command=(sys.executable, "-c", fake))
    bench.prepare()
    rows = list(emulation.both_ways(bench, tmp_path / "bench.yaml"))
    assert [row.name for row in rows] == [
        name for way in ("native-tools", "full") for name in (f"bench, {way}", "  base", "  publish")
    ]
    assert rows[1].seconds == 2.5

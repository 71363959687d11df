"""The benchmarks measure what they say."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import boot, emulation, explode
from bench.__main__ import ALWAYS, results
from bench.builds import Bench, phases, shares
from bench.measure import measure, occupied
from bench.results import COLUMNS, Result, ratio
from bench.start import start
from builder.errors import HostError, PibuildError
from builder.inventory.load import load_inventory
from builder.run import spawn
from builder.services.render import render

REPORT = """{"layers": [{"name": "base", "key": "k", "made": true, "seconds": 2.5, "full_seconds": 20.0}],
"seconds": 5.0, "publish_seconds": 1.5, "differences": []}"""
# Stands for pibuild: makes what a build makes, in no time.
FAKE_BUILD = f"""
import os, pathlib, sys
arguments = sys.argv[1:]
assert arguments[0] == "build" and pathlib.Path(arguments[1]).is_file()
(pathlib.Path(os.environ["PIBUILD_CACHE"]) / "layers/k/fs").mkdir(parents=True, exist_ok=True)
(pathlib.Path(arguments[arguments.index("--output") + 1]) / "bench/latest").mkdir(parents=True, exist_ok=True)
print('''{REPORT}''')
"""
BUILDS = tuple(name for name in ALWAYS if name not in {"explode", "fleet", "boot", "start", "resolving", "initramfs"})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    command = (sys.executable, "-c", FAKE_BUILD)
    return Bench(directory=tmp_path / "work", recipe=Path("recipes/golden.yaml"), command=command)


@pytest.mark.tools
def test_memory_is_that_of_the_children_without_files() -> None:
    held = 64 << 20
    script = f"import time; block = bytearray({held}); block[::4096] = b'x' * len(block[::4096]); time.sleep(0.5)"
    with spawn([sys.executable, "-c", f"{script}; time.sleep(60)"]):  # was there before: is not counted
        time.sleep(0.5)
        measured = measure(["sh", "-c", f'"$0" -c "{script}"; :', sys.executable])
    assert held <= measured.memory < 1.5 * held
    assert 0.5 <= measured.seconds < 30


def test_occupied_counts_blocks_and_hard_links_once(tmp_path: Path) -> None:
    empty = occupied(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "file", tmp_path / "link")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert 1 << 20 <= occupied(tmp_path) - empty < 2 << 20


@pytest.mark.tools
def test_every_benchmark_of_builds_has_its_rows(bench: Bench) -> None:
    rows = list(results(bench, BUILDS, []))
    assert [row.name for row in rows][:3] == ["cold build", "no-change build", "in the image: base"]
    assert [row.name for row in rows][-2:] == ["disk: cache", "disk: published images"]
    assert all(row.seconds is not None or row.disk is not None for row in rows)


@pytest.mark.tools
def test_starts_are_measured_beside_the_interpreter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.start._TIMES", 1)
    rows = list(start(Bench(directory=tmp_path, recipe=Path("recipes/golden.yaml"))))
    assert [row.name for row in rows][::4] == ["python -c pass", "pibuild services diff"]
    assert all(row.cpu is not None and row.cpu > 0 for row in rows)


@pytest.mark.tools
def test_a_benchmark_alone_builds_first(bench: Bench) -> None:
    assert [row.name for row in results(bench, ("publish",), [])] == ["publish alone"]


def test_a_benchmark_that_fails_is_a_row_and_the_next_one_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Bench) -> Iterator[Result]:
        yield Result(name="before", seconds=1)
        raise HostError("no such thing\nin detail")

    monkeypatch.setattr("bench.__main__.BENCHMARKS", {"a": fails, "b": lambda _: [Result(name="after")]})
    failed: list[PibuildError] = []
    rows = [(row.name, row.note) for row in results(bench, ("b", "a"), failed)]
    assert rows == [("before", ""), ("a", "failed: no such thing"), ("after", "")]
    assert [error.message for error in failed] == ["no such thing\nin detail"]


@pytest.mark.parametrize(
    ("row", "target", "met"),
    [
        (Result(name="a", seconds=4, most=5), "<= 5", True),
        (Result(name="a", seconds=6, most=5), "<= 5, missed", False),
        (ratio("a", 60, 10, least=6), ">= 6", True),
        (ratio("a", 59, 10, least=6), ">= 6, missed", False),
        (ratio("a", 60, 10, most=1.5), "<= 1.5, missed", False),
        (Result(name="a", seconds=9, cpu=7.5, most_cpu=8), "<= 8 cpu", True),
        (Result(name="a", seconds=9, cpu=8.5, most=10, most_cpu=8), "<= 10 <= 8 cpu, missed", False),
        (Result(name="a", disk=13_102_781, most_disk=10_000_000), "<= 10 MB, missed", False),
        (Result(name="a", disk=9_960_170, most_disk=10_000_000), "<= 10 MB", True),
        (ratio("a", 60, 10), "", None),
        (Result(name="a", note="failed: x", most=5), "<= 5", None),
    ],
)
def test_a_target_is_that_of_the_ratio_else_of_the_seconds(row: Result, target: str, *, met: bool | None) -> None:
    assert (row.target, row.met) == (target, met)
    assert len(row.cells()) == len(COLUMNS)
    assert row.cells()[4] == target


def test_the_phases_of_a_build() -> None:
    layers = [{"made": True, "seconds": 2.0}, {"made": True, "seconds": 1.0}, {"made": False, "seconds": 40.0}]
    report = {"layers": layers, "publish_seconds": 5.0, "seconds": 9.5}
    assert phases(report) == "2 layers 3.0 s, image 5.0 s, the rest 1.5 s"


def test_both_ways_have_a_ratio_a_layer_and_one_for_all() -> None:
    layers = [
        {"name": "base", "seconds": 10.0, "full_seconds": 90.0},
        {"name": "kernel", "seconds": 10.0, "full_seconds": 50.0},
    ]
    rows = list(emulation.both_ways({"layers": layers, "publish_seconds": 3.0, "differences": []}, rest=2.0))
    assert [(row.ratio, row.met) for row in rows] == [
        (9.0, None),
        (5.0, None),
        (7.0, True),
        (pytest.approx(145 / 25), False),
        (None, None),
    ]
    assert (rows[-1].name, rows[-1].note) == ("differences between the two", "0")


def test_the_packages_of_a_lock_here_and_for_another_architecture() -> None:
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
    names = emulation.packages_of(lock)
    assert names == ["less", "linux-image-arm64", "raspi-firmware", "sed"]
    assert emulation.for_amd64(names) == ["less", "sed", "linux-image-amd64"]


def test_a_layer_counts_with_what_of_it_shows_in_the_image(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    for path, size in {
        "base/etc/kept": 1,
        "base/etc/replaced": 2,
        "base/var/cache/all": 4,
        "top/etc/replaced": 8,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(os.urandom(size << 20))
    os.link(top / "etc/replaced", top / "etc/link")
    (top / "var").mkdir()
    (top / "var/cache").write_bytes(b"")  # a file in place of a directory hides what is in that, as a whiteout does
    assert [size >> 20 for size in shares([base, top])] == [1, 8]


def test_a_made_inventory_is_one_and_has_its_services(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(explode.inventory(300, "kea"))
    inventory = load_inventory(file)
    assert len(inventory.nodes) == 302
    assert sum(node.boot == "network" for node in inventory.nodes) == 300
    assert len({node.groups for node in inventory.nodes}) == 4
    assert any("n300" in file.text for file in render(inventory, "login"))


def test_a_service_is_ready_when_it_runs_or_when_it_has_ended(tmp_path: Path) -> None:
    said = (
        "Id=exporter.service\nMemoryPeak=1048576\nActiveEnterTimestampMonotonic=2500000\nInactiveEnterTimestampMonotonic=0\n"
        "\nId=once.service\nMemoryPeak=4096\nActiveEnterTimestampMonotonic=0\nInactiveEnterTimestampMonotonic=3000000\n"
        "\nId=never.service\nMemoryPeak=[not set]\nActiveEnterTimestampMonotonic=0\nInactiveEnterTimestampMonotonic=0\n"
    )
    assert boot.services(said) == {"exporter.service": (1048576, 2.5), "once.service": (4096, 3.0)}
    wants = tmp_path / "etc/systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    (wants / "once.timer").symlink_to("/etc/systemd/system/once.timer")
    (wants / "some.mount").symlink_to("/etc/systemd/system/some.mount")
    assert boot.units(tmp_path) == {"once.service"}


def test_memory_in_use_is_what_is_not_available() -> None:
    assert boot.used("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n") == 600 * 1024

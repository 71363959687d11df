"""Commands that change what nodes boot and what servers say, killed at random moments or with the disk full.

`PIBUILD_KILLS` says how often each is killed (default 4), `PIBUILD_SEED` repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from builder.console import note
from builder.firmware.boot_files import ServerTree
from builder.firmware.simulate import simulate
from builder.host import mounts
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.netboot.layout import Netboot
from builder.run import run, spawn
from builder.services.apply import compare
from builder.services.record import is_interrupted
from builder.services.render import render
from tests import machine
from tests.clusters import variant
from tests.images import DEBIAN, MIB, make_image
from tests.system.engine import processes_of
from tests.system.privacy import private_mounts

pytestmark = pytest.mark.root
PROJECT = Path(__file__).parents[2]
KILLS = int(os.environ.get("PIBUILD_KILLS", "4"))
NODES = 17
FILES = 60


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("PIBUILD_SEED", str(time.time_ns()))
    note(f"\nPIBUILD_SEED={seed}")
    return random.Random(seed)  # noqa: S311 - moments, not secrets


def image(at: Path, release: str, *, mebibytes: int = 1) -> Path:
    """Make an image in which every file tells its release."""
    content = (f"{release} " * MIB).encode()[: mebibytes * MIB // FILES]
    root = {
        **DEBIAN.root,
        "etc/release": release.encode(),
        "usr/share/zoneinfo/Europe/Athens": b"tz",
        **{f"usr/lib/payload/{number}": content for number in range(FILES)},
    }
    size = (8 + 2 * mebibytes) * MIB
    return make_image(at, replace(DEBIAN, root=root, boot={**DEBIAN.boot, "release": release.encode()}, root_size=size))


def explode(inventory: Path, image: Path, dest: Path) -> list[str | Path]:
    words: list[str | Path] = [
        "explode",
        "--all",
        "--attach",
        "files",
        "--image",
        image,
        "--dest",
        dest,
        "--cluster",
        inventory,
    ]
    return [sys.executable, "-m", "builder", *words]


@contextlib.contextmanager
def tftp_server(root: Path) -> Iterator[ServerTree]:
    """Serve a directory as the login node does, on a port of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--secure", "--blocksize", "1468", "--user", "tftp", "--address", f"127.0.0.1:{port}"]
    with spawn(["in.tftpd", "--foreground", *options, root]):
        time.sleep(0.5)
        yield ServerTree(host="127.0.0.1", port=port, timeout=2)


def boots(inventory: Inventory, dest: Path, tree: ServerTree) -> dict[str, tuple[str, str]]:
    """Walk what every board would load, check that the root it names is whole; return each one's root and release."""
    found = {}
    for node in inventory.nodes:
        if node.boot != "network":
            continue
        report = simulate(tree, "pi4", node.serial)
        assert report.stop is None, report
        words = (report.cmdline or "").split()
        place = next(word for word in words if word.startswith("nfsroot=")).partition("=")[2].split(",")[0]
        root = Path(place.partition(":")[2])
        assert root.parent == dest / "roots" / node.name
        release = whole(root, node.name)
        assert tree.read(f"{node.serial}/release").data == release.encode()
        found[node.name] = (root.name, release)
    return found


def whole(root: Path, node: str) -> str:
    """Check that a root is complete, and that node's; return its release."""
    release = (root / "etc/release").read_text()
    contents = {path.read_bytes() for path in (root / "usr/lib/payload").iterdir()}
    assert len(list((root / "usr/lib/payload").iterdir())) == FILES
    assert len(contents) == 1
    assert contents.pop().startswith(release.encode() + b" ")
    assert (root / "etc/hostname").read_text() == f"{node}\n"
    assert (root / "var/lib/dpkg/status").stat().st_size == len(DEBIAN.root["var/lib/dpkg/status"])  # type: ignore[arg-type]
    for name in ("etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/rancher/node/password", "etc/fstab"):
        assert (root / name).stat().st_size > 0
    return release


class Process(Protocol):
    """What `spawn` gives."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


def kill(process: Process, chance: random.Random, took: float, begun: Callable[[], bool] | None) -> float:
    """Kill a command at a random moment, with `begun` within 50 ms of when it has begun to replace; return when."""
    start = time.monotonic()
    if begun is not None:
        while not begun() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.05))
    else:
        time.sleep(chance.uniform(0.15, 1.0) * took)
    process.kill()
    return time.monotonic() - start


def changed(link: Path) -> Callable[[], bool]:
    was = link.readlink()
    return lambda: link.readlink() != was


def check_that_nothing_stays(before: frozenset[str], dest: Path) -> None:
    left = machine.wait_until_gone(before, seconds=3)  # others may be at work on this machine
    assert not [trace for trace in left if trace.startswith("process ") or str(dest.parent) in trace]
    end = time.monotonic() + 3
    while processes := [said for said in processes_of(dest) if " in.tftpd " not in said]:
        assert time.monotonic() < end, processes
        time.sleep(0.05)


def test_killed_explodes_leave_every_node_what_it_booted(tmp_path: Path, chance: random.Random) -> None:
    cluster, dest = variant(tmp_path), tmp_path / "netboot"
    inventory, netboot = load_inventory(cluster), Netboot(tmp_path / "netboot")
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)  # the TFTP server is not root when it reads
    begun = time.monotonic()
    run(explode(cluster, image(tmp_path / "0.img", "r0"), dest), cwd=PROJECT)
    took = time.monotonic() - begun
    (tmp_path / "0.img").unlink()
    switched = 0
    with tftp_server(netboot.tftp) as tree:
        now = boots(inventory, dest, tree)
        assert len(now) == NODES
        kept = [path for path in netboot.state.rglob("*") if path.is_file() and netboot.records not in path.parents]
        keys = {path: path.read_bytes() for path in kept}
        for attempt in range(1, KILLS + 1):
            new, traces = image(tmp_path / f"{attempt}.img", f"r{attempt}"), machine.traces()
            first = netboot.tftp / inventory.nodes[2].serial
            with spawn(explode(cluster, new, dest), cwd=PROJECT) as process:
                delay = kill(process, chance, took, None if attempt % 3 else changed(first))
            check_that_nothing_stays(traces, dest)
            after = boots(inventory, dest, tree)
            moved = sorted(name for name in after if after[name] != now[name])
            assert all(after[name][1] == f"r{attempt}" for name in moved)
            for name, (root, release) in now.items():  # what they may run from
                assert whole(netboot.root(name, root), name) == release
            left = sorted(path.name for path in netboot.tmp.iterdir())
            run(explode(cluster, new, dest), cwd=PROJECT)
            now = boots(inventory, dest, tree)
            assert {release for _, release in now.values()} == {f"r{attempt}"}
            assert not list(netboot.tmp.iterdir())
            assert {path.name for path in dest.rglob(".*")} <= {
                ".lock",
                ".cluster",
                ".roots",
                ".ssh",
                ".tmp",
                ".updated",
            }
            switched += bool(moved)
            note(f"{attempt}: killed after {delay:.2f} of {took:.2f} s: {len(moved)} switched, {len(left)} swept")
            run(
                [
                    sys.executable,
                    "-m",
                    "builder",
                    "node",
                    "gc",
                    "--keep-days",
                    "0",
                    "--dest",
                    dest,
                    "--cluster",
                    cluster,
                ],
                cwd=PROJECT,
            )
            new.unlink()
        assert {path: path.read_bytes() for path in keys} == keys
    note(f"{KILLS} kills, {switched} of them between two nodes' switches or after them")


def test_killed_applies_leave_all_old_files_or_a_rerun_completes(tmp_path: Path, chance: random.Random) -> None:
    root = tmp_path / "root"
    root.mkdir()
    clusters = []
    for number, dhcp in enumerate(("dnsmasq", "isc-dhcp")):
        (tmp_path / str(number)).mkdir()
        clusters.append(variant(tmp_path / str(number), dhcp=dhcp, tftp="dnsmasq" if number else "tftpd-hpa"))
        clusters[number].write_text(clusters[number].read_text().replace("192.168.2.30,", f"192.168.2.3{6 + number},"))
    wanted = [render(load_inventory(cluster), "login") for cluster in clusters]

    def apply(number: int) -> list[str | Path]:
        words: list[str | Path] = ["services", "apply", "--root", root, "--cluster", clusters[number]]
        return [sys.executable, "-m", "builder", *words]

    run(apply(0), cwd=PROJECT)
    begun = time.monotonic()
    run(apply(1), cwd=PROJECT)
    took = time.monotonic() - begun
    mixed = 0
    for attempt in range(KILLS):
        old, new = wanted[(attempt + 1) % 2], attempt % 2
        traces = machine.traces()
        with spawn(apply(new), cwd=PROJECT) as process:
            delay = kill(process, chance, took, (lambda: is_interrupted(root)) if attempt % 2 else None)
        check_that_nothing_stays(traces, root)
        interrupted = is_interrupted(root)
        assert interrupted or not compare(old, root) or not compare(wanted[new], root)
        mixed += interrupted
        run(apply(new), cwd=PROJECT)
        assert not compare(wanted[new], root)
        assert not is_interrupted(root)
        assert not [*root.rglob("*.dpkg-new"), *root.rglob("*.new")]
        note(f"killed after {delay:.2f} of {took:.2f} s{': in the middle' if interrupted else ''}")
    note(f"{KILLS} kills, {mixed} of them with files partly replaced or servers partly told")


@contextlib.contextmanager
def small_disk(at: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a small file system in a mount namespace of our own, which other processes' namespaces never copy."""
    at.mkdir()
    with private_mounts(), mounts.mounted("small", at, "tmpfs", data=f"size={mebibytes}m"):
        yield at


def test_a_full_disk_is_told_and_nothing_half_made_has_a_name(tmp_path: Path) -> None:
    """The disk fills while the image is brought in, while roots are made, and once more after room was made."""
    cluster = variant(tmp_path)
    inventory = load_inventory(cluster)
    first, second = image(tmp_path / "a.img", "a"), image(tmp_path / "b.img", "b", mebibytes=4)
    with small_disk(tmp_path / "disk", 90) as disk:
        dest = disk / "netboot"
        run(explode(cluster, first, dest), cwd=PROJECT)
        booted, names = Netboot(dest).booted(), final_names(dest)
        assert len(booted) == NODES
        for leave in (2, 16):  # MiB: not enough for the image; enough for it and not for 17 roots
            filler = disk / "filler"
            filler.write_bytes(bytes(shutil.disk_usage(disk).free - leave * MIB))
            ended = run(explode(cluster, second, dest), cwd=PROJECT, check=False)
            assert ended.returncode == 3, ended.stderr
            assert f"the disk of {dest} is full" in ended.stderr
            assert "every node boots what it booted" in ended.stderr
            assert f"pibuild node gc --dest {dest}" in ended.stderr
            assert Netboot(dest).booted() == booted
            assert not list(Netboot(dest).tmp.iterdir())
            made = final_names(dest) - names
            assert len(made) <= (leave > 2), made  # the image's own files, whole: the next run goes on from there
            for node in inventory.nodes:
                if node.boot == "network":
                    assert whole(dest / "roots" / node.name / booted[node.serial][1], node.name) == "a"
            filler.unlink()
        small = image(tmp_path / "c.img", "c")
        run([sys.executable, "-m", "builder", "node", "gc", "--dest", dest, "--cluster", cluster], cwd=PROJECT)
        run(explode(cluster, small, dest), cwd=PROJECT)
        for serial, (node_name, name) in Netboot(dest).booted().items():
            assert whole(dest / "roots" / node_name / name, node_name) == "c", serial


def final_names(dest: Path) -> frozenset[str]:
    """Return the generations, roots and boot directories that are there by name."""
    places = ("generations/*", "roots/*/*", "tftp/boot/*/*")
    return frozenset(str(path.relative_to(dest)) for place in places for path in dest.glob(place))

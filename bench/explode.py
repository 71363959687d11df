"""What it costs to make nodes' roots of one image: every way, against `cp -a` and rsync of the same files.

Everything is flushed (syncfs) before a clock stops. All happens on new file systems, made in files and mounted in a
namespace of our own. The one that whole copies go to lies in memory: five nodes are 5 GB, and a disk that is made to
write and forget that several times is measured, not what copies them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.builds import Bench
from bench.measure import Measured, measure, occupied
from bench.results import Result, ratio, row
from builder import console
from builder.host.mounts import unmount
from builder.inventory.load import load_inventory
from builder.netboot.layout import remove
from builder.run import find_tool, run

_ROOM = 12 << 30  # bytes of a file system in a file, which is sparse
_MEMORY = Path("/dev/shm/pibuild-bench.img")  # noqa: S108 - root alone runs this
_COPIES = 5  # nodes whose roots are whole copies
_HEAD = """\
cluster:
  name: fleet
  subnet: 10.20.0.0/16
  gateway: 10.20.0.1
  servers: {login: {node: login}, backup: {node: backup}}
  pools: {services: 10.20.255.0/25}
roles:
  login: {boot: local}
  backup: {boot: local}
  master: {backup: true}
  worker: {cmdline: [cgroup_enable=cpuset, cgroup_memory=1, cgroup_enable=memory]}
groups:
"""
_PACKAGES = {"btrfs": "btrfs-progs", "ext4": "e2fsprogs", "xfs": "xfsprogs"}
_GROUP = 100  # nodes each, as in a rack


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory to explode into, the generation in it that roots are made from, and the nodes to explode."""

    dest: Path
    generation: Path
    nodes: Sequence[str]


def explode(bench: Bench) -> Iterator[Result]:
    """Explode the nodes of the example inventory: copied, shared, and where blocks can be shared reflinked."""
    image, names = bench.image(), network_nodes(bench.cluster)
    find_tool("rsync", package="rsync")
    with file_system(_MEMORY, "ext4") as at:
        place = ingest(bench, image, at / "netboot", names[:_COPIES])
        made = yield from nodes(bench, image, place, "copy")
        withdraw(place)
        for name, script in by_hand().items():
            target = at / "by-hand"
            with console.progress(f"{name}, {_COPIES} times"), emptied(target):
                target.mkdir()
                done = measure(["sh", "-euc", script, "sh", place.generation, target, str(_COPIES)])
            yield row(name, done, note=f"root and boot files, {_COPIES} times, one by one")
            bound = 1.0 if name == "cp -a" else None
            yield ratio(f"explode, copy / {name}", made.seconds, done.seconds, most=bound)
        yield from nodes(bench, image, replace(place, nodes=names), "shared")
    for kind in ("btrfs", "xfs"):
        with file_system(bench.directory / f"{kind}.img", kind) as at:
            yield from nodes(bench, image, ingest(bench, image, at / "netboot", names), "reflink", most=10)


def withdraw(place: Place) -> None:
    """Take the roots of all nodes away, and what they boot."""
    for name in ("roots", "tftp", "nfs"):
        remove(place.dest / name)


def by_hand() -> dict[str, str]:
    """Return shell scripts that copy a generation ($1) into a directory ($2) so many times ($3), and flush."""
    loop = 'for n in $(seq "$3"); do {}; done; sync -f "$2"'
    return {
        "cp -a": loop.format('mkdir "$2/$n"; cp -a --reflink=never "$1/root" "$1/boot" "$2/$n"'),
        "rsync": loop.format('rsync -aHAX "$1/root" "$1/boot" "$2/$n"'),
    }


def ingest(bench: Bench, image: Path, dest: Path, names: Sequence[str]) -> Place:
    """Bring the image's files in, as the first explode does, and make the nodes' identities; leave no root behind."""
    with console.progress("bringing the image in"):
        run_explode(bench, image, dest, *(f"--node={name}" for name in names), "--method", "shared")
    (generation,) = (dest / "generations").iterdir()
    place = Place(dest=dest, generation=generation, nodes=names)
    withdraw(place)
    return place


def network_nodes(cluster: Path) -> list[str]:
    """Return the names of an inventory's nodes that boot over the network."""
    return [node.name for node in load_inventory(cluster).nodes if node.boot == "network"]


def run_explode(bench: Bench, image: Path, dest: Path, *words: str, cluster: Path | None = None) -> Measured:
    """Run `pibuild explode`."""
    where = ("--cluster", cluster or bench.cluster, "--dest", dest, "--image", image)
    return bench.pibuild("explode", *where, *words, "--json")


def nodes(
    bench: Bench, image: Path, place: Place, method: str, *, most: float | None = None
) -> Generator[Result, None, Measured]:
    """Explode nodes; yield the time and the disk, and return the measurement."""
    before, count = used(place.dest), len(place.nodes)
    with console.progress(f"explode --method {method}"):
        done = run_explode(bench, image, place.dest, *(f"--node={name}" for name in place.nodes), "--method", method)
    (way,) = {row["way"] for row in json.loads(done.stdout)}
    name, one = f"explode, {way} on {kind_of(place.dest)}", occupied(place.generation)
    added = used(place.dest) - before
    note = f"{count} nodes, generation and identities there"
    yield row(name, done, disk=added, most=most, note=note)
    if way == "shared":
        seconds = round(done.seconds / count, 3)
        yield Result(name="  a node", seconds=seconds, disk=added // count, most=0.2, note="to be under 1 MB")
    elif way != "copy":
        yield Result(name="  disk, all nodes and generation / one root", ratio=1 + added / one, most=1.05)
    return done


def fleet(bench: Bench) -> Iterator[Result]:
    """Explode 1,000 nodes with a shared root; check an inventory of 10,000 and render every service of theirs."""
    image = bench.image()
    with file_system(_MEMORY, "ext4") as here:
        cluster = here / "1000.yaml"
        cluster.write_text(inventory(1000))
        run_explode(bench, image, here / "netboot", "--node=n1", "--method", "shared", cluster=cluster)
        before = used(here)
        with console.progress("explode of 1,000 nodes, shared"):
            done = run_explode(bench, image, here / "netboot", "--all", "--method", "shared", cluster=cluster)
        added = used(here) - before
        note = f"{done.seconds:.3g} ms and {added / 1e6:.1f} kB a node"
        name = "explode, shared, 1,000 nodes"
        yield row(name, done, disk=added, most=25, note=note)
        for server in ("isc-dhcp", "dnsmasq", "kea"):
            cluster.write_text(inventory(10_000, server))
            for role in ("login", "backup"):
                words = ("services", "render", "--cluster", cluster, "--role", role, "--output", here / "rendered")
                made = bench.pibuild(*words)
                name = f"10,000 nodes checked and rendered, {server}, {role}"
                yield row(name, made, most=5)


def inventory(count: int, dhcp: str = "isc-dhcp") -> str:
    """Return an inventory of two servers and `count` nodes in groups of a hundred."""
    lines = [_HEAD.replace("  pools:", f"  dhcp: {{server: {dhcp}}}\n  pools:")]
    lines += [f"  rack{number}: {{labels: {{rack: r{number}}}}}" for number in range(-(-count // _GROUP))]
    lines.append("nodes:")
    for number in range(count + 2):
        name, role = {0: ("login", "login"), 1: ("backup", "backup")}.get(number, (f"n{number - 1}", "worker"))
        high, low = divmod(number + 1, 256)
        group = f", groups: [rack{(number - 2) // _GROUP}]" if role == "worker" else ""
        lines.append(
            f'  - {{name: {name}, serial: "{0x10000000 + number:08x}", mac: "e4:5f:01:{number >> 16:02x}:'
            f'{number >> 8 & 255:02x}:{number & 255:02x}", address: 10.20.{high}.{low}, role: {role}{group}}}'
        )
    return "\n".join(lines) + "\n"


def used(path: Path) -> int:
    """Return the bytes that a directory takes: all of its file system where blocks are shared, which stat(2) hides."""
    if kind_of(path) not in {"btrfs", "xfs"}:
        return occupied(path)
    run(["sync", "-f", path])
    facts = os.statvfs(path)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def kind_of(path: Path) -> str:
    """Return the name of a path's file system; stat(1) cannot tell ext4 from its predecessors."""
    return run(["stat", "-f", "-c", "%T", path]).stdout.strip().replace("ext2/ext3", "ext4")


@contextlib.contextmanager
def emptied(directory: Path) -> Iterator[Path]:
    """Have a directory gone before the block and after it."""
    remove(directory)
    try:
        yield directory
    finally:
        remove(directory)


@contextlib.contextmanager
def file_system(image: Path, kind: str) -> Iterator[Path]:
    """Mount a new file system, made in a file. Needs a private mount namespace."""
    at = image.with_suffix("")  # beside it
    at.mkdir(exist_ok=True)
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(_ROOM)
    run([find_tool(f"mkfs.{kind}", package=_PACKAGES[kind]), *(["-q"] if kind != "btrfs" else []), image])
    run(["mount", "-o", "loop,discard", image, at])  # mount sets the loop device up to go with the mount
    try:
        yield at
    finally:
        unmount(at)
        at.rmdir()
        image.unlink()

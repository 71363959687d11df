"""What changes what nodes boot, and what servers say: explode, rollback, node gc, services apply."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from builder.firmware.boot_files import DirectoryTree
from builder.firmware.simulate import simulate
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.netboot.layout import Netboot
from builder.services.apply import compare
from builder.services.record import is_interrupted
from builder.services.render import render
from tests.clusters import variant
from tests.images import DEBIAN, MIB, make_image
from tests.torture.harness import Command, Left, Loss, Room

NODES = ("yellow3", "yellow4", "yellow5")
FILES = 20
IMAGES = 5


def make_images(at: Path) -> tuple[Path, ...]:
    """Make images in which every file tells its release."""
    at.mkdir(exist_ok=True)
    made = []
    for number in range(IMAGES):
        content = (f"r{number} " * 4096).encode()
        root = {
            **DEBIAN.root,
            "etc/release": f"r{number}".encode(),
            "usr/share/zoneinfo/Europe/Athens": b"tz",
            **{f"usr/lib/payload/{each}": content for each in range(FILES)},
        }
        boot = {**DEBIAN.boot, "release": f"r{number}".encode()}
        made.append(make_image(at / f"{number}.img", replace(DEBIAN, root=root, boot=boot, root_size=10 * MIB)))
    return tuple(made)


@dataclass(slots=True, kw_only=True)
class Nodes:
    """A netboot directory and what its nodes booted before the last command."""

    room: Room
    place: Path
    cluster: Path
    inventory: Inventory
    images: tuple[Path, ...]
    before: dict[str, tuple[str, str]]

    @classmethod
    def make(cls, room: Room, name: str) -> Nodes:
        place = room.place(name)
        cluster = variant(place)
        images = make_images(room.home / "images") if not (room.home / "images").exists() else ()
        images = images or tuple(sorted((room.home / "images").glob("*.img")))
        made = cls(room=room, place=place, cluster=cluster, inventory=load_inventory(cluster), images=images, before={})
        for number in (0, 1):
            made.explode(number).to_its_end(room.log)
        made.before = made.boots()
        return made

    @property
    def netboot(self) -> Netboot:
        return Netboot(self.place / "netboot")

    def at(self) -> tuple[str | Path, ...]:
        return ("--dest", self.netboot.dest, "--cluster", self.cluster)

    def explode(self, number: int) -> Command:
        names = [word for name in NODES for word in ("--node", name)]
        image = self.images[number % len(self.images)]
        return Command(words=("explode", *names, "--attach", "files", "--image", image, *self.at()))

    def boots(self) -> dict[str, tuple[str, str]]:
        """Walk what every board would load; return each one's root and release. Raises Loss for half of anything."""
        tree, found = DirectoryTree(root=self.netboot.tftp), {}
        for name in NODES:
            node = self.inventory.node(name)
            report = simulate(tree, "pi4", node.serial)
            if report.stop is not None:
                raise Loss(f"{name} does not boot: {report.stop.said}")
            word = next(word for word in (report.cmdline or "").split() if word.startswith("nfsroot="))
            root = Path(word.partition("=")[2].split(",")[0].partition(":")[2])
            release = self.whole(root, name)
            if tree.read(f"{node.serial}/release").data != release.encode():
                raise Loss(f"{name}: the kernel is not that of its root {root}")
            found[name] = (root.name, release)
        return found

    def whole(self, root: Path, node: str) -> str:
        """Return the release of a root. Raises Loss unless it is complete, and that node's."""
        try:
            release = (root / "etc/release").read_text()
            contents = [path.read_bytes() for path in (root / "usr/lib/payload").iterdir()]
            sizes = [
                (root / name).stat().st_size
                for name in ("etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/fstab", "var/lib/dpkg/status")
            ]
            mine = (root / "etc/hostname").read_text() == f"{node}\n"
        except OSError as error:
            raise Loss(f"{node}: {root} is not whole: {error}") from error
        if contents != [(f"{release} " * 4096).encode()] * FILES or not all(sizes) or not mine:
            raise Loss(f"{node}: {root} is not whole")
        return release

    def check_tidy(self) -> None:
        """Raise Left for work in progress."""
        dest = self.netboot.dest
        known = {".lock", ".cluster", ".ssh", ".updated", ".roots", ".tmp"}
        at_work = [
            path for place in (self.netboot.tmp, self.netboot.private) if place.is_dir() for path in place.iterdir()
        ]
        left = [*at_work, *(path for path in dest.rglob(".*") if path.name not in known)]
        if left:
            raise Left("; ".join(map(str, left)))


class Explode:
    """`explode`: every node boots what it booted, or, whole, the new one."""

    name, weight, span, whole = "explode", 27, 0.0, True

    def __init__(self, room: Room) -> None:
        self.nodes = Nodes.make(room, "explode")
        self.number = 1

    def command(self) -> Command:
        self.nodes.before = self.nodes.boots()
        self.number += 1
        return self.nodes.explode(self.number)

    def check(self) -> None:
        now = self.nodes.boots()
        for name, (root, release) in self.nodes.before.items():
            if now[name] != (root, release) and now[name][1] != f"r{self.number % IMAGES}":
                raise Loss(f"{name} boots {now[name]}, neither what it booted nor what it was to boot")
            if self.nodes.whole(self.nodes.netboot.root(name, root), name) != release:
                raise Loss(f"{name}: what it may run from is not there any more")

    def again(self) -> None:
        self.nodes.explode(self.number).to_its_end(self.nodes.room.log)
        if {release for _, release in self.nodes.boots().values()} != {f"r{self.number % IMAGES}"}:
            raise Loss("the next run does not bring all nodes to the new image")
        self.nodes.check_tidy()


class NodeGc:
    """`node gc`: nothing that a node boots or could go back to goes."""

    name, weight, span, whole = "node gc", 12, 0.0, True

    def __init__(self, room: Room) -> None:
        self.nodes = Nodes.make(room, "node-gc")
        self.number = 1

    def command(self) -> Command:
        for _ in range(2):
            self.number += 1
            self.nodes.explode(self.number).to_its_end(self.nodes.room.log)
        self.nodes.before = self.nodes.boots()
        return self._collect()

    def _collect(self) -> Command:
        return Command(words=("node", "gc", "--keep-days", "0", *self.nodes.at()))

    def check(self) -> None:
        if self.nodes.boots() != self.nodes.before:
            raise Loss("nodes boot something else")
        for name, (root, _) in self.nodes.before.items():
            record = self.nodes.netboot.record(name, root)
            if record is None:
                raise Loss(f"{name}: nothing is on record about {root}")
            self.nodes.whole(self.nodes.netboot.root(name, record.previous), name)

    def again(self) -> None:
        self._collect().to_its_end(self.nodes.room.log)
        self.check()
        self.nodes.check_tidy()
        names = {name: self.nodes.netboot.names(name) for name in NODES}
        if any(len(each) > 2 for each in names.values()) or len(list(self.nodes.netboot.generations.iterdir())) > 2:
            raise Left(f"garbage: {names}")


class Rollback:
    """`rollback`: the node boots what it booted, or what it booted before that."""

    name, weight, span, whole = "rollback", 12, 0.0, True

    def __init__(self, room: Room) -> None:
        self.nodes = Nodes.make(room, "rollback")
        self.nodes.explode(2).to_its_end(room.log)
        self.kept = self.nodes.place / "kept"
        shutil.copytree(self.nodes.netboot.dest, self.kept, symlinks=True)

    def command(self) -> Command:
        shutil.rmtree(self.nodes.netboot.dest)
        shutil.copytree(self.kept, self.nodes.netboot.dest, symlinks=True)
        self.nodes.before = self.nodes.boots()
        return Command(words=("rollback", "yellow3", *self.nodes.at()))

    def check(self) -> None:
        now = self.nodes.boots()
        others = {name: boots for name, boots in now.items() if name != "yellow3"}
        if others != {name: boots for name, boots in self.nodes.before.items() if name != "yellow3"}:
            raise Loss("other nodes boot something else")
        if now["yellow3"][1] not in {"r2", "r1", "r0"}:
            raise Loss(f"yellow3 boots {now['yellow3']}")

    def again(self) -> None:
        # in the middle of its history, or already at its begin
        Command(words=("rollback", "yellow3", *self.nodes.at())).to_its_end(self.nodes.room.log, may=(0, 2))
        self.check()
        if self.nodes.boots()["yellow3"][1] == "r2":
            raise Loss("the next rollback does not go back")
        self.nodes.check_tidy()


class Apply:
    """`services apply`: all old files, all new ones, or a journal that the next run completes."""

    name, weight, span, whole = "apply", 17, 0.0, True

    def __init__(self, room: Room) -> None:
        self.room = room
        home = room.place("apply")
        self.root = home / "root"
        self.root.mkdir()
        self.clusters = []
        for number, dhcp in enumerate(("dnsmasq", "isc-dhcp")):
            place = home / str(number)
            place.mkdir()
            cluster = variant(place, dhcp=dhcp, tftp="dnsmasq" if number else "tftpd-hpa")
            cluster.write_text(cluster.read_text().replace("192.168.2.30,", f"192.168.2.3{6 + number},"))
            self.clusters.append(cluster)
        self.wanted = [render(load_inventory(cluster), "login") for cluster in self.clusters]
        self.number = 0
        self._apply().to_its_end(room.log)

    def _apply(self) -> Command:
        cluster = self.clusters[self.number % 2]
        return Command(words=("services", "apply", "--root", self.root, "--cluster", cluster))

    def command(self) -> Command:
        self.number += 1
        return self._apply()

    def check(self) -> None:
        old, new = self.wanted[(self.number + 1) % 2], self.wanted[self.number % 2]
        if not is_interrupted(self.root) and compare(old, self.root) and compare(new, self.root):
            raise Loss("files of two applies, and no journal")

    def again(self) -> None:
        self._apply().to_its_end(self.room.log)
        if compare(self.wanted[self.number % 2], self.root) or is_interrupted(self.root):
            raise Loss("the next apply does not complete")
        left = [*self.root.rglob("*.dpkg-new"), *self.root.rglob("*.new")]
        if left:
            raise Left("; ".join(map(str, left)))

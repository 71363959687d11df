"""What makes things: build and the cache's gc, models publish, new passwords of a backup."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from builder.backup.rotate import rotate
from builder.host.cache import Cache
from builder.host.hashing import file_digest
from builder.run import run
from tests import gguf
from tests.images import DEBIAN, make_image
from tests.system.fleet_backup import Fleet, make_fleet
from tests.torture.harness import Command, Left, Loss, Room

RECIPE = """\
name: small
base:
  image: {{path: base.img, sha256: {digest}}}
boards: [pi4]
disk:
  compress: []
  boot: {{size: 36M, label: bootfs}}
  root: {{size: auto, slack: 4M, label: rootfs}}
layers:
  - name: first
    steps:
      - files: [{{path: /etc/first, content: "first\\n"}}]
  - name: second
    steps:
      - files: [{{path: /etc/second, content: "second\\n"}}]
"""
_RELEASE = {"usr/lib/os-release": b"ID=debian\nVERSION_CODENAME=trixie\n"}


class Build:
    """`build`: layers and results that have a name are whole, and the next build has the same bits."""

    name, weight, span, whole = "build", 12, 0.0, True

    def __init__(self, room: Room) -> None:
        self.room, self.home = room, room.place("build")
        image = make_image(self.home / "base.img", replace(DEBIAN, root={**DEBIAN.root, **_RELEASE}))
        known = Cache(Path(os.environ.get("PIBUILD_CACHE", "/var/cache/pibuild")))
        known.prepare()
        (self.home / "cache").mkdir()
        for path in (known.archives, known.lists, known.resolutions, known.tools):
            (self.home / "cache" / path.name).symlink_to(path)
        (self.home / "small.yaml").write_text(RECIPE.format(digest=file_digest(image)))
        self.digest = ""

    def command(self) -> Command:
        for name in ("output", "cache/layers"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        return self._build()

    def _build(self) -> Command:
        env = {"PIBUILD_CACHE": str(self.home / "cache")}
        words = ("build", self.home / "small.yaml", "--output", self.home / "output", "--attach", "files", "--offline")
        return Command(words=words, env=env)

    def check(self) -> None:
        for layer in (self.home / "cache/layers").glob("*"):
            if not json.loads((layer / "meta.json").read_text())["name"] or not (layer / "fs").is_dir():
                raise Loss(f"{layer} is not whole")
        for sums in (self.home / "output").glob("small/[0-9a-f]*/SHA256SUMS"):
            for line in sums.read_text().splitlines():
                digest, name = line.split("  ")
                if file_digest(sums.with_name(name)) != digest:
                    raise Loss(f"{sums.with_name(name)} is not what its list says")

    def again(self) -> None:
        self._build().to_its_end(self.room.log)
        self.check()
        latest = self.home / "output/small/latest"
        facts = json.loads((latest / "manifest.json").read_text())
        self.digest = self.digest or facts["sha256"]
        if facts["sha256"] != self.digest:
            raise Loss("the next build has other bits")
        left = [*(self.home / "cache/tmp").iterdir(), *(self.home / "output").glob("*/.*")]
        if left:
            raise Left("; ".join(map(str, left)))


class Gc:
    """`gc`: a layer is there whole or not at all."""

    name, weight, span, whole = "gc", 10, 0.0, True
    LAYERS, FILES = 12, 40

    def __init__(self, room: Room) -> None:
        self.room, self.cache = room, room.place("gc")

    def command(self) -> Command:
        shutil.rmtree(self.cache, ignore_errors=True)
        for number in range(self.LAYERS):
            layer = self.cache / f"layers/{number:032x}"
            for each in range(self.FILES):
                place = layer / f"fs/usr/lib/{each % 7}/{each}"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("content")
            (layer / "meta.json").write_text('{"name": "x"}')
            os.utime(layer, (1, 1))
        return self._collect()

    def _collect(self) -> Command:
        return Command(words=("gc", "--keep-days", "1"), env={"PIBUILD_CACHE": str(self.cache)})

    def check(self) -> None:
        for layer in (self.cache / "layers").glob("*"):
            files = [path for path in (layer / "fs").rglob("*") if path.is_file()]
            if len(files) != self.FILES or not (layer / "meta.json").is_file():
                raise Loss(f"{layer} is half there, and a build would take it")

    def again(self) -> None:
        self._collect().to_its_end(self.room.log)
        left = [*(self.cache / "layers").iterdir(), *(self.cache / "tmp").iterdir()]
        if left:
            raise Left("; ".join(map(str, left)))


class Publish:
    """`models publish`: a chunk is what its name says, a manifest's chunks are all there."""

    name, weight, span, whole = "models publish", 12, 0.0, True

    def __init__(self, room: Room) -> None:
        self.room, self.home = room, room.place("models")
        self.weights = gguf.tensors(16, 1 << 16)
        self.version = 0

    def command(self) -> Command:
        self.version += 1
        self.weights[f"blk.{self.version % 16}.weight"] = os.urandom(1 << 16)
        gguf.write(self.home / "model.gguf", self.weights)
        if self.version % 20 == 0:
            shutil.rmtree(self.home / "store")
        return self._publish()

    def _publish(self) -> Command:
        named = ("--name", "jen", "--version", str(self.version), "--store", self.home / "store")
        return Command(words=("models", "publish", self.home / "model.gguf", *named))

    def check(self) -> None:
        for chunk in (self.home / "store/chunks").glob("*/*"):
            if file_digest(chunk) != chunk.name:
                raise Loss(f"{chunk} is not what its name says")
        if (self.home / "store/models").exists():
            Command(words=("models", "verify", "--store", self.home / "store")).to_its_end(self.room.log)

    def again(self) -> None:
        self._publish().to_its_end(self.room.log)
        self.check()
        left = list((self.home / "store/tmp").glob("*"))
        if left:
            raise Left("; ".join(map(str, left)))


class Rotate:
    """`backup rotate`: the state's password opens the repository, and after the next run no other one does."""

    name, weight, span, whole = "rotate", 2, 0.0, False

    def __init__(self, room: Room) -> None:
        self.room = room
        self.fleet: Fleet = make_fleet(room.place("fleet"))
        self.node = self.fleet.inventory.node("yellow1")
        self.serving = self.fleet.served()
        self.gateway = self.serving.__enter__()
        room.servers |= {int(process.split()[1]) for process in room.processes()}
        if self.fleet.back_up("yellow1").returncode != 0:
            raise Loss("no backup to begin with")

    def command(self) -> Command:
        return Command(work=self._rotate)

    def _rotate(self) -> None:
        rotate(self.fleet.inventory, self.fleet.netboot, self.node, gateway=self.gateway)

    def check(self) -> None:
        seen = self.fleet.on_store("yellow1", "snapshots", "--json", "--no-lock")
        if seen.returncode != 0 or len(json.loads(seen.stdout)) != 1:
            raise Loss(f"the state's password does not show the backup: {seen.stderr}")

    def again(self) -> None:
        Command(work=self._rotate).to_its_end(self.room.log)
        self.check()
        keys = list((self.fleet.store / "yellow1/keys").iterdir())
        if len(keys) != 1:
            raise Left(f"{len(keys)} keys open the repository")


def packed(image: Path) -> Path:
    """Return an image compressed with zstd."""
    run(["zstd", "-q", "-f", image, "-o", f"{image}.zst"])
    return image.with_name(f"{image.name}.zst")

"""Two nodes with roots of their own and the gateway they push to: real restic and rest-server, of the nodes' release.

The nodes' programs run as they are shipped, at their own paths, in the nodes' roots; the host's /usr stands in for the
image's.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import yaml

from builder.backup.gateway import Gateway, let_in
from builder.emulation.chroot import Bind, Chroot
from builder.firmware.boards import BOARDS
from builder.host.hashing import file_digest
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.netboot.explode import ExplodeOptions, explode
from builder.netboot.layout import Netboot
from builder.run import PATH, Completed, run, spawn
from tests.trixie import program
from tests.unit_files import lines

PROJECT = Path(__file__).parents[2]
NODES = ("yellow1", "yellow2")
USERS = "/etc/restic-rest-server/users.htpasswd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Nodes, the login node's directory, and the gateway. `local` is what the nodes have below /usr/local."""

    home: Path
    inventory: Inventory
    port: int
    local: Path

    @property
    def netboot(self) -> Netboot:
        return Netboot(self.home / "netboot")

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def image(self) -> Path:
        return self.home / "small.img"

    def explode(self) -> None:
        """Make the nodes' roots of what the inventory and their state say now."""
        nodes = self.inventory.select(NODES)
        explode(self.inventory, nodes, self.netboot.dest, ExplodeOptions(image=self.image, method="copy"))

    def renew_image(self, etc: Mapping[str, str]) -> None:
        """Make the nodes' roots of another image, with these files in its /etc."""
        _make_image(self.image, etc)
        self.explode()

    def root(self, node: str) -> Path:
        return (self.netboot.dest / "nfs" / node).resolve()

    def on(self, node: str, *argv: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Completed:
        """Run a program in a node's root, as root, with the machine's network."""
        root, textfile = self.root(node), self.home / "textfile" / node
        textfile.mkdir(parents=True, exist_ok=True)
        binds = [
            Bind(source=Path("/usr"), target="/usr"),
            Bind(source=self.local, target="/usr/local", writable=True),
            Bind(source=textfile, target="/run/node-textfile", writable=True),
        ]
        done = Chroot(root=root, binds=binds).run(argv, network=True, env=env, input=stdin, check=False)
        with (self.home / "said").open("a") as said:
            said.write(done.stdout)
        return done

    def back_up(self, node: str, **env: str) -> Completed:
        """Run the unit's program with no more of root's powers than the unit leaves it."""
        (powers,) = lines(
            PROJECT / "overlays/backup/etc/systemd/system/pibuild-backup.service", "CapabilityBoundingSet"
        )
        left = ",".join(["-all", *(f"+{power.removeprefix('CAP_').lower()}" for power in powers.split())])
        shut_in = ("setpriv", "--no-new-privs", f"--bounding-set={left}")
        return self.on(node, *shut_in, "/usr/local/lib/pibuild/backup", env=env)

    def restic(self, node: str, *words: str, **env: str) -> Completed:
        return self.on(node, "/usr/local/lib/pibuild/backup-restic", *words, env=env)

    def metrics(self, node: str) -> dict[str, float]:
        """Return what node_exporter would read of the node's last backup."""
        return read_metrics(self.home / "textfile" / node / "backup.prom")

    def metric(self, node: str, name: str) -> float:
        return self.metrics(node)[f'edge_backup_{name}{{job_name="system"}}']

    def secret(self, node: str, name: str) -> str:
        return (self.netboot.state / node / name).read_text().strip()

    def gateway(self, pid: int | None = None) -> Gateway:
        """Return the gateway's own program, working on this fleet's directories."""
        environment = {
            "GATEWAY_ETC": str(self.home / "gateway"),
            "GATEWAY_STORE": str(self.store),
            "GATEWAY_OWNER": "",
            "GATEWAY_TEXTFILE": str(self.home / "textfile"),
            "GATEWAY_STATE": str(self.home / "gateway"),
            "PATH": f"{self.local / 'bin'}:{PATH}",
        }
        return Gateway(environment=environment | ({"GATEWAY_PID": str(pid)} if pid else {}))

    def on_store(self, node: str, *words: str, password: str = "") -> Completed:
        """Run restic on a node's repository at the gateway's local path."""
        env = {"RESTIC_PASSWORD": password or self.secret(node, "restic-password")}
        return run(
            [self.local / "bin/restic.real", "-r", self.store / node, "--no-cache", *words], env=env, check=False
        )

    @contextmanager
    def served(self) -> Iterator[Gateway]:
        """Let the nodes in and serve, with the options that the gateway's image has."""
        let_in(self.inventory, self.netboot, self.gateway())
        with spawn(self._server(), stdout=os.open(self.home / "server.log", os.O_WRONLY | os.O_CREAT)) as server:
            _wait_for(self.port)
            yield self.gateway(server.pid)

    def _server(self) -> list[str | Path]:
        server = program("restic-rest-server", "usr/bin/restic-rest-server")
        options = gateway_options(self.home / "gateway/users.htpasswd")
        tls = self.home / "gateway/tls.env"
        if tls.is_file():
            options += shlex.split(shlex.split(tls.read_text())[0].partition("=")[2])
        return [server, "--path", self.store, "--listen", f"127.0.0.1:{self.port}", *options]


def gateway_options(users: Path) -> list[str]:
    """Return the options of the server as the gateway's image has them, with another file of users."""
    text = (PROJECT / "overlays/backup-gateway/etc/default/restic-rest-server").read_text()
    (words,) = (line.partition("=")[2] for line in text.splitlines() if line.startswith("ARGS="))
    return [str(users) if word == USERS else word for word in shlex.split(shlex.split(words)[0])]


def make_fleet(home: Path, *, repository: str = "", **more: object) -> Fleet:
    """Explode two nodes from a small image, with the backup part's files.

    PORT in `repository` is the gateway's; `more` is what else stands in `cluster: backup:`.
    """
    port = _free_port()
    where = repository.replace("PORT", str(port)) or f"rest:http://127.0.0.1:{port}"
    settings: dict[str, object] = {"repository": where, **more}
    if where.startswith("rest:"):
        settings["gateway"] = "pi_login"
    cluster = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    cluster["cluster"]["backup"] = settings
    cluster["roles"]["master"].pop("backup", None)
    for node in cluster["nodes"]:
        node["backup"] = node["name"] in NODES
    (home / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))
    local = home / "local"
    shutil.copytree(PROJECT / "overlays/backup/usr/local", local)
    (local / "bin").mkdir()
    shutil.copy(program("restic", "usr/bin/restic"), local / "bin/restic.real")
    fleet = Fleet(home=home, inventory=load_inventory(home / "cluster.yaml"), port=port, local=local)
    for name in ("store", "gateway", "textfile"):
        (home / name).mkdir()
    _keep_arguments(local / "bin/restic")
    _make_image(fleet.image)
    fleet.explode()
    return fleet


def _keep_arguments(path: Path) -> None:
    """Have restic write down its arguments, which everybody on a machine can read."""
    path.write_text('#!/bin/sh\necho "$*" >>"$(dirname "$0")/../arguments"\nexec "$(dirname "$0")/restic.real" "$@"\n')
    path.chmod(0o755)


def _make_image(image: Path, etc: Mapping[str, str] | None = None) -> None:
    """Make a generation with just what a node's root needs to run the backup's programs, and more files in its /etc."""
    image.write_text(f"small {sorted((etc or {}).items())}")
    digest = file_digest(image)
    home = image.parent / "netboot/generations" / digest[:12]
    root = home / "root"
    for path in ("etc/ssh", "home/ubuntu", "usr/share/zoneinfo/Europe", "var/lib", "var/cache", "boot/firmware"):
        (root / path).mkdir(parents=True)
    for path in ("dev", "proc", "root", "run", "sys", "tmp"):
        (root / path).mkdir()
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n")
    for name, text in (etc or {}).items():
        (root / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).write_text(text)
    (root / "etc/fstab").write_text("LABEL=r / ext4 defaults 0 1\n")
    (root / "usr/share/zoneinfo/Europe/Athens").write_text("tz")
    (home / "boot").mkdir()
    (home / "boot/cmdline.txt").write_text("console=tty0\n")
    for name in ("start4.elf", "fixup4.dat", "kernel8.img", BOARDS["pi4"].dtb):
        (home / "boot" / name).write_text(name)
    meta = {"sha256": digest, "boot_mount": "/boot/firmware", "capabilities": {}}
    (home / "meta.json").write_text(json.dumps(meta))


def read_metrics(path: Path) -> dict[str, float]:
    """Return the samples of a file in the text format of Prometheus."""
    lines = [line.rpartition(" ") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def answer(fleet: Fleet, method: str, path: str, *, user: str = "", password: str = "") -> int:
    """Return the status of a request to the gateway."""
    auth = (user, password) if user else None
    return requests.request(method, f"http://127.0.0.1:{fleet.port}{path}", auth=auth, timeout=10).status_code


def tree_size(path: Path) -> int:
    """Return the bytes of all files of a tree."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")

"""Backups of a booted node: a real rest-server on the lab's login node, a file lost and restored, a password rotated.

The node's own units run, with the files that an inventory with `backup:` renders; at the end it is what it was.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import yaml

from builder import console
from builder.backup.gateway import Gateway, let_in
from builder.backup.repository import node_files, repository, restore, snapshots
from builder.backup.rotate import rotate
from builder.errors import PibuildError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.lab.lab import LabNode
from builder.lab.namespace import Process
from builder.run import PATH
from tests.system.fleet_backup import gateway_options
from tests.system.lab import PROJECT, NetLab
from tests.trixie import program

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network]
PORT = 8000
APP = "/var/lib/pibuild/app"
WRONG_PASSWORD, NO_ANSWER = 12, 124
SAFE = 4.0  # systemd-analyze security: above 5 it speaks of "medium" exposure


@dataclass(slots=True, kw_only=True)
class Gate:
    """The gateway on the login node, and a node that pushes to it."""

    lab: NetLab
    home: Path
    inventory: Inventory
    node: LabNode
    server: Process | None = field(default=None)

    @property
    def name(self) -> str:
        return self.node.node.name

    @property
    def gateway(self) -> Gateway:
        """The gateway's own program, on this machine's directories."""
        (self.home / "bin").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.home / "bin/restic").symlink_to(program("restic", "usr/bin/restic"))
        environment = {
            "GATEWAY_ETC": str(self.home),
            "GATEWAY_STORE": str(self.home / "store"),
            "GATEWAY_OWNER": "",
            "GATEWAY_STATE": str(self.home),
            "PATH": f"{self.home / 'bin'}:{PATH}",
        }
        return Gateway(environment=environment | ({"GATEWAY_PID": str(self.server.pid)} if self.server else {}))

    def serve(self) -> None:
        words: list[str | Path] = [
            program("restic-rest-server", "usr/bin/restic-rest-server"),
            "--path",
            self.home / "store",
        ]
        listen = ["--listen", f"{self.inventory.login.address}:{PORT}"]
        options = gateway_options(self.home / "users.htpasswd")
        self.server = self.lab.lab.spawn([*words, *listen, *options], name="rest-server")
        self.lab.lab.wait_until_serving(PORT)

    def stop(self) -> None:
        if self.server is not None:
            self.lab.lab.end(self.server)
            self.server = None

    def said(self, command: str, *, timeout: float = 300) -> str:
        """Run a command on the node that has to succeed."""
        done = self.node.ssh(command, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def back_up(self) -> dict[str, float]:
        """Let the node's unit run to its end; return its figures."""
        self.node.ssh("sudo systemctl start pibuild-backup.service", timeout=600)
        lines = self.said("cat /run/node-textfile/backup.prom").splitlines()
        figures = [line.removeprefix("edge_backup_").rpartition(" ") for line in lines if not line.startswith("#")]
        return {name.partition("{")[0]: float(value) for name, _, value in figures}

    def install(self, path: str, text: str) -> None:
        self.said(f"printf %s {shlex.quote(text)} | sudo tee {path} >/dev/null")


@pytest.fixture(scope="module")
def gate(netlab: NetLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    home = tmp_path_factory.mktemp("gateway")
    (home / "store").mkdir()
    cluster = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    where = f"rest:http://{netlab.lab.inventory.login.address}:{PORT}"
    cluster["cluster"]["backup"] = {"repository": where, "gateway": "pi_login"}
    for entry in cluster["nodes"]:
        entry["backup"] = entry["name"] in ("yellow3", "yellow4")
    (home / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))
    inventory = load_inventory(home / "cluster.yaml")
    (node,) = netlab.up("yellow4")
    made = Gate(lab=netlab, home=home, inventory=inventory, node=node)
    let_in(inventory, netlab.lab.netboot, made.gateway)
    files = node_files(inventory, inventory.node("yellow4"))
    before = {path: made.said(f"cat {path}") for path in files}
    made.serve()
    for path, text in files.items():
        made.install(path, text)
    made.said(
        f"sudo mkdir -p {APP} /var/lib/models/jen/2"
        f" && sudo dd if=/dev/urandom of={APP}/data.db bs=1M count=4 status=none"
        f" && sudo dd if=/dev/urandom of=/var/lib/models/jen/2/model.gguf bs=1M count=16 status=none"
        ' && echo \'{"version": "2"}\' | sudo tee /var/lib/models/jen/pointer.json >/dev/null'
    )
    yield made
    for path, text in before.items():
        made.install(path, f"{text}\n" if text else "")
    made.said(f"sudo rm -rf {APP} /var/lib/models/jen && sudo systemctl stop pibuild-backup.timer")
    made.stop()


def test_an_unconfigured_node_does_nothing_and_a_configured_one_waits_for_its_night(gate: Gate) -> None:
    assert gate.said("systemctl is-enabled pibuild-backup.timer") == "enabled"
    gate.said("sudo systemctl start pibuild-backup.timer")
    shown = gate.said(
        "systemctl show -p RandomizedDelayUSec -p FixedRandomDelay -p NextElapseUSecRealtime pibuild-backup.timer"
    )
    assert "RandomizedDelayUSec=2h" in shown
    assert "FixedRandomDelay=yes" in shown
    assert "NextElapseUSecRealtime=\n" not in f"{shown}\n"
    table = gate.said("systemd-analyze security --no-pager pibuild-backup.service | tail -n 1")
    console.say(table)
    assert float(table.split(":")[1].split()[0]) < SAFE


def test_a_file_that_a_node_lost_comes_back_and_a_second_run_adds_next_to_nothing(gate: Gate, tmp_path: Path) -> None:
    before = gate.said(f"sudo sha256sum {APP}/data.db")
    first = gate.back_up()
    assert first["last_exit_code"] == 0, gate.said("sudo journalctl -u pibuild-backup -n 30 --no-pager")
    size = sum(path.stat().st_size for path in (gate.home / "store").rglob("*") if path.is_file())
    second = gate.back_up()
    after = sum(path.stat().st_size for path in (gate.home / "store").rglob("*") if path.is_file())
    console.say(
        f"backup of {gate.name}: {first['duration_seconds']:.0f} s, {size} bytes stored of {first['read_bytes']:.0f}"
    )
    console.say(
        f"again: {second['duration_seconds']:.0f} s, {after - size} bytes more; added {second['added_bytes']:.0f}"
    )
    assert after - size < 64 << 10  # logs of what happened in between are in /etc and /var/lib/pibuild
    listed = gate.said("sudo /usr/local/lib/pibuild/backup-restic ls latest")
    assert "/var/lib/models/jen/pointer.json" in listed
    assert "model.gguf" not in listed

    gate.said(f"sudo rm {APP}/data.db && sudo sh -c 'echo broken >/etc/motd'")
    gate.said("sudo pibuild-restore --in-place --yes", timeout=600)
    assert gate.said(f"sudo sha256sum {APP}/data.db") == before
    assert "broken" not in gate.said("cat /etc/motd")
    with gate.lab.lab.entered():
        of = repository(gate.inventory, gate.lab.lab.netboot, gate.node.node)
        assert restore(of, tmp_path / "back", include=[f"{APP}/data.db", "/etc/hostname"]) == 2
    assert (tmp_path / "back/etc/hostname").read_text() == f"{gate.name}\n"


def test_a_node_can_neither_delete_its_history_nor_read_anothers(gate: Gate) -> None:
    if not list((gate.home / "store").glob(f"{gate.name}/snapshots/*")):
        gate.back_up()
    there = set((gate.home / "store" / gate.name / "snapshots").iterdir())
    gate.node.ssh("sudo /usr/local/lib/pibuild/backup-restic forget --keep-last 1 --prune", timeout=600)
    assert set((gate.home / "store" / gate.name / "snapshots").iterdir()) == there
    keys = gate.said("sudo cat /etc/restic/keys")
    password = dict(line.split("=", 1) for line in keys.splitlines())["RESTIC_REST_PASSWORD"]
    base = f"http://{gate.inventory.login.address}:{PORT}"
    with gate.lab.lab.entered():
        snapshot = next(iter(there)).name
        auth = (gate.name, password)
        assert requests.delete(f"{base}/{gate.name}/snapshots/{snapshot}", auth=auth, timeout=10).status_code == 403
        assert requests.get(f"{base}/{gate.name}/config", auth=auth, timeout=10).status_code == 200
        assert requests.get(f"{base}/yellow3/config", auth=auth, timeout=10).status_code in (401, 403)
        assert requests.get(f"{base}/{gate.name}/config", timeout=10).status_code == 401


def test_a_rotated_out_password_opens_nothing_and_the_node_goes_on(gate: Gate) -> None:
    assert gate.back_up()["last_exit_code"] == 0
    netboot, node = gate.lab.lab.netboot, gate.node.node
    with gate.lab.lab.entered():
        old = repository(gate.inventory, netboot, node)
        rotate(gate.inventory, netboot, gate.inventory.node(gate.name), gateway=gate.gateway, push=True)
        with pytest.raises(PibuildError, match="401"):
            snapshots(old)
    stale = program("restic", "usr/bin/restic")
    env = {"RESTIC_PASSWORD": old.password}
    done = gate.lab.lab.run(
        [stale, "-r", gate.home / "store" / gate.name, "--no-cache", "snapshots"], env=env, check=False
    )
    assert done.returncode == WRONG_PASSWORD
    gate.said("sudo cat /etc/restic/password >/dev/null; sleep 3")
    figures = gate.back_up()
    assert figures["last_exit_code"] == 0, gate.said("sudo journalctl -u pibuild-backup -n 30 --no-pager")
    journal = gate.said("sudo journalctl -b --no-pager | cat")
    assert old.password not in journal
    assert old.keys["RESTIC_REST_PASSWORD"] not in journal


def test_a_store_that_is_away_fails_no_unit_and_the_next_run_is_whole(gate: Gate) -> None:
    gate.said("sudo systemctl set-environment BACKUP_PATIENCE=20")
    gate.stop()
    figures = gate.back_up()
    gate.said("sudo systemctl unset-environment BACKUP_PATIENCE")
    assert figures["last_exit_code"] == NO_ANSWER
    assert gate.node.ssh("systemctl is-failed pibuild-backup.service").stdout.strip() == "inactive"
    gate.serve()
    again = gate.back_up()
    assert again["last_exit_code"] == 0
    assert again["last_success_timestamp_seconds"] > figures["last_success_timestamp_seconds"]
    assert gate.said("systemctl --failed --no-legend --plain") == ""

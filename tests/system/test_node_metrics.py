"""Metrics of booted nodes: read by a site agent on the login node, and forwarded by a node itself through an outage.

yellow3 is what the lab's inventory makes of a node: its exporter is read over the network. yellow4 is made a node that
forwards its own metrics, with the files that the inventory renders for one, and made what it was again.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import pytest
import yaml

from builder import console
from builder.inventory.load import load_inventory
from builder.lab.lab import Lab, LabNode
from builder.monitoring.forwarder import TOKEN, forwarder_files
from tests.metrics_path import VictoriaMetrics, get, wait_for
from tests.system.lab import PATIENCE, PROJECT, NetLab
from tests.trixie import program
from tests.unit_files import OVERLAYS, UNITS, environment, exec_start

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network]

HEARTBEAT = "edge_heartbeat_timestamp_seconds"
OURS = {
    "node-heartbeat.service",
    "node-packages.service",
    "node-state.service",
    "prometheus-node-exporter.service",
    "vmagent-queue.service",
    "vmagent.service",
}
SAFE = 4.0  # systemd-analyze security(1): from 5 on it calls an exposure medium
ADDRESS = IPv4Address("192.168.2.250")  # the store's own, which can be taken away without the login node's
URL = f"http://{ADDRESS}:8428/api/v1/write"


@dataclass(slots=True)
class Store(VictoriaMetrics):
    """VictoriaMetrics on the login node of the lab, where nodes reach it."""

    lab: Lab | None = None

    def get(self, path: str) -> str:
        assert self.lab is not None
        with self.lab.entered():
            return get(self.port, path, host=str(self.lab.inventory.login.address))

    def who(self, selector: str) -> set[tuple[str, str, str]]:
        """Return node, site and role of the series that a selector finds."""
        found = (series["metric"] for series in self.samples(selector))
        return {(labels["node"], labels["site"], labels["role"]) for labels in found}


@pytest.fixture(scope="module")
def store(netlab: NetLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The store and the site agent of the login node, with the files that `pibuild services` renders for it."""
    lab = netlab.lab
    made = Store(directory=tmp_path_factory.mktemp("store"), port=8428, host="0.0.0.0", lab=lab)
    lab.add_address(ADDRESS)
    server = lab.spawn(made.words, name="victoria-metrics")
    lab.wait_until_serving(made.port)
    agent = lab.spawn(_site_agent(lab, tmp_path_factory.mktemp("agent")), name="vmagent")
    yield made
    lab.end(agent)
    lab.end(server)
    _reach(lab, "del")


def _reach(lab: Lab, verb: Literal["add", "del"]) -> None:
    """Give the store its address, or take it away: whoever asks for it then hears nothing."""
    address = f"{ADDRESS}/{lab.inventory.subnet.prefixlen}"
    lab.run(["ip", "address", verb, address, "dev", lab.namespace.bridge])


@contextlib.contextmanager
def _without_store(lab: Lab) -> Iterator[None]:
    """Take the store away for the block."""
    _reach(lab, "del")
    try:
        yield
    finally:
        _reach(lab, "add")


def _site_agent(lab: Lab, directory: Path) -> list[str]:
    """Return the command of the login node's forwarder: its unit's, the store on the login node itself."""
    for path, text in forwarder_files(lab.inventory, lab.inventory.login).items():
        (directory / Path(path).name).write_text(text)
    (directory / TOKEN).write_text("a token\n")
    env = environment((directory / "vmagent.env").read_text())
    env["RW_URL"] = f"http://{lab.inventory.login.address}:8428/api/v1/write"
    places = {
        "/usr/bin/vmagent": str(program("victoria-metrics", "/usr/bin/vmagent")),
        "/usr/local/share": str(OVERLAYS / "metrics/usr/local/share"),
        "/etc/pibuild": str(directory),
        "/var/lib/vmagent": str(directory / "queue"),
        "%d/": f"{directory}/",
    }
    return exec_start(UNITS / "vmagent.service", env, places)


def test_a_node_runs_clean_and_confined(netlab: NetLab, capsys: pytest.CaptureFixture[str]) -> None:
    (node,) = netlab.up("yellow3")
    settled = {"running", "degraded"}
    wait_for("boot", lambda: node.ssh("systemctl is-system-running").stdout.strip() in settled, seconds=300)
    assert node.ssh("systemctl --failed --no-legend --plain").stdout == ""
    table = node.ssh("systemd-analyze security --no-pager", timeout=600).stdout  # of what runs for long
    each = "systemd-analyze security --no-pager $unit | tail -n 1"
    levels = node.ssh(f"for unit in {' '.join(sorted(OURS))}; do {each}; done", timeout=600).stdout
    with capsys.disabled():
        console.say(f"\n{table}\n{levels}")
    ours = {found[1]: float(found[2]) for found in re.finditer(r"for (\S+\.service): ([0-9.]+)", levels)}
    assert set(ours) == OURS
    assert max(ours.values()) < SAFE, ours


def test_the_site_agent_brings_a_nodes_series(netlab: NetLab, store: Store) -> None:
    """The heartbeat, the machine's and the board's own, under the node's name, site and role."""
    netlab.up("yellow3")
    for name in (HEARTBEAT, "node_load1", "edge_board_info", "edge_root_info", "edge_clock_synchronized"):
        selector = f'{name}{{instance="yellow3"}}'
        wait_for(name, lambda selector=selector: bool(store.samples(selector)), seconds=240)  # type: ignore[misc]
        assert store.who(selector) == {("yellow3", "lab", "worker")}
    root = store.samples('edge_root_info{node="yellow3"}')[-1]["metric"]
    assert root["generation"] == netlab.lab.netboot.current("c0a3cab4")
    assert root["fstype"].startswith("nfs")
    (readonly,) = store.samples('node_filesystem_readonly{node="yellow3",mountpoint="/"}')
    assert set(readonly["values"]) == {0}


@pytest.fixture(scope="module")
def forwarding(netlab: NetLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabNode]:
    """yellow4, forwarding its own metrics to the store."""
    (node,) = netlab.up("yellow4")
    cluster = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    own = next(each for each in cluster["nodes"] if each["name"] == "yellow4")
    own["metrics"] = {"mode": "local", "url": URL}
    path = tmp_path_factory.mktemp("inventory") / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    inventory = load_inventory(path)
    _as_root(node, "tar -cf /root/before.tar -C /etc pibuild")
    for name, text in forwarder_files(inventory, inventory.node("yellow4")).items():
        _as_root(node, f"cat >{name} <<'END'\n{text}END\n")
    _as_root(node, "systemctl restart prometheus-node-exporter.service vmagent.service")
    yield node
    _as_root(node, "systemctl stop vmagent.service; tar -xf /root/before.tar -C /etc; rm /root/before.tar")
    _as_root(node, "systemctl restart prometheus-node-exporter.service")


def _as_root(node: LabNode, script: str) -> str:
    """Run a script as root on a node; return what it printed."""
    encoded = base64.b64encode(script.encode()).decode()
    done = node.ssh(f"echo {encoded} | base64 -d | sudo sh -e", timeout=300)
    done.raise_for_status()
    return done.stdout


def _pending(node: LabNode) -> float:
    """Return what waits in the queues of a node's forwarder, in bytes."""
    script = "exec 3<>/dev/tcp/127.0.0.1/8429; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    text = node.ssh(f'bash -c "{script}"').stdout
    rows = [row for row in text.splitlines() if row.startswith("vm_persistentqueue_bytes_pending{")]
    assert len(rows) == 2, text
    return sum(float(row.split()[-1]) for row in rows)


def _watch(node: LabNode, seconds: float) -> set[float]:
    """Return the heartbeats that a node writes in a time."""
    until = time.monotonic() + seconds
    beats = set()
    while time.monotonic() < until:
        beats.add(float(node.ssh("cat /run/node-textfile/heartbeat.prom").stdout.split()[-1]))
        time.sleep(min(5, seconds))
    return beats


def _next_beat(node: LabNode) -> float:
    """Return the next heartbeat that a node writes, as soon as it is there."""
    last = beat = max(_watch(node, 1))
    end = time.monotonic() + 90
    while beat == last:
        assert time.monotonic() < end, "no heartbeat within 90 s"
        beat = max(_watch(node, 1))
    return beat


def test_an_outage_with_a_killed_agent_and_a_reboot_in_it(
    netlab: NetLab, store: Store, forwarding: LabNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not compressed but shortened: minutes without the store, in real time, and a reboot takes some of them."""
    own = f'{HEARTBEAT}{{instance="yellow4",job="heartbeat"}}'
    wait_for("heartbeats", lambda: bool(store.samples(own)), seconds=300)
    assert store.who(own) == {("yellow4", "lab", "worker")}
    assert "127.0.0.1:9100" in forwarding.ssh("ss -Hltn 'sport = 9100'").stdout
    cut_at = time.time()
    with _without_store(netlab.lab):
        beats = _watch(forwarding, 60)  # until what came first is on disk
        beats.add(_next_beat(forwarding))  # in memory alone, and read again if the agent is back within half a minute
        _as_root(forwarding, "kill -KILL $(systemctl show --property MainPID --value vmagent.service)")
        beats |= _watch(forwarding, 35)
        assert forwarding.ssh("systemctl is-active vmagent.service").stdout == "active\n"
        beats |= {_next_beat(forwarding), *_watch(forwarding, 20)}  # the last before a reboot too is taken within 15 s
        took = forwarding.reboot(PATIENCE)
        answers = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8429'"
        wait_for("the agent", lambda: forwarding.ssh(answers).returncode == 0, seconds=120)
        beats |= {_next_beat(forwarding), *_watch(forwarding, 35)}
        assert _pending(forwarding) > 0
        assert max(store.values(own)) < min(beats) + 60
    restored_at = time.time()
    fresh = wait_for("a heartbeat of now", lambda: max(store.values(own)) >= max(beats), seconds=60)
    wait_for("every heartbeat", lambda: beats <= store.values(own), seconds=60)
    wait_for("the queue's end", lambda: _pending(forwarding) == 0, seconds=60)
    with capsys.disabled():
        told = f"{len(beats)} heartbeats seen on the node in {restored_at - cut_at:.0f} s without the store"
        console.say(f"\n{told} ({took:.0f} s of it a reboot): all arrived, current after {fresh:.1f} s")
    assert len(beats) >= 4
    assert forwarding.ssh("systemctl --failed --no-legend --plain").stdout == ""

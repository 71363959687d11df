"""Who forwards whose metrics, and what the forwarder's files say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.errors import InputError
from builder.inventory.explain import explain
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.inventory.read import read_inventory
from builder.monitoring.forwarder import certificates, forwarder_files, gateway, scraped_by
from tests.clusters import LAB
from tests.unit_files import UNITS, environment, exec_start

EDGE = """\
cluster:
  name: edge
  subnet: 10.0.0.0/24
  gateway: 10.0.0.1
  servers: {login: {node: gate}}
defaults: {site: a, metrics: {url: "https://metrics.example.com/api/v1/write", ca: ca.pem}}
groups:
  mobile: {metrics: {mode: local, rate: 20000}}
nodes:
  - {name: gate, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login, boot: local}
  - {name: e1, serial: "00000002", mac: "02:00:00:00:00:02", address: 10.0.0.2, role: worker, groups: [mobile]}
  - name: e2
    serial: "00000003"
    mac: "02:00:00:00:00:03"
    address: 10.0.0.3
    role: worker
    site: b
    metrics: {mode: site-agent, store: prometheus}
    labels: {rack: r1, example.com/zone: z, role: shadowed}
  - {name: e3, serial: "00000004", mac: "02:00:00:00:00:04", address: 10.0.0.4, role: worker, site: b}
  - {name: e4, serial: "00000005", mac: "02:00:00:00:00:05", address: 10.0.0.5, role: worker, metrics: {mode: off}}
"""
PEM = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"


@pytest.fixture
def edge(tmp_path: Path) -> Inventory:
    (tmp_path / "cluster.yaml").write_text(EDGE)
    (tmp_path / "ca.pem").write_text(PEM)
    return load_inventory(tmp_path / "cluster.yaml")


def _command(inventory: Inventory, name: str) -> list[str]:
    env = environment(forwarder_files(inventory, inventory.node(name))["/etc/pibuild/vmagent.env"])
    return exec_start(UNITS / "vmagent.service", env, {})


def test_settings_add_up_over_the_levels_and_are_explained(edge: Inventory) -> None:
    metrics = edge.node("e1").metrics
    assert (metrics.mode, metrics.rate, metrics.interval, metrics.ca) == ("local", 20000, "60s", "ca.pem")
    explained = explain(read_inventory(edge.path), edge.node("e1"))
    rows = {row.field: row.why for row in explained if row.field.startswith("metrics")}
    assert rows == {
        "metrics.mode": "group mobile",
        "metrics.rate": "group mobile",
        "metrics.url": "defaults",
        "metrics.ca": "defaults",
    }


def test_a_site_agent_reads_its_own_site_and_nobody_else(edge: Inventory) -> None:
    assert [node.name for node in scraped_by(edge, edge.node("e1"))] == ["e1"]
    assert [node.name for node in scraped_by(edge, edge.node("e2"))] == ["e2", "e3"]
    assert scraped_by(edge, edge.node("e3")) == ()
    lab = load_inventory(LAB)
    assert len(scraped_by(lab, lab.login)) == 19


def test_every_target_has_its_node_site_and_role(edge: Inventory) -> None:
    jobs = yaml.safe_load(forwarder_files(edge, edge.node("e2"))["/etc/pibuild/scrape.yml"])["scrape_configs"]
    assert [(job["job_name"], job["scrape_interval"]) for job in jobs] == [
        ("heartbeat", "15s"),
        ("node", "60s"),
        ("vmagent", "60s"),
    ]
    own = {"instance": "e2", "node": "e2", "site": "b", "role": "worker", "rack": "r1"}
    assert jobs[1]["static_configs"] == jobs[0]["static_configs"]
    assert jobs[0]["static_configs"] == [
        {"targets": ["127.0.0.1:9100"], "labels": own},
        {"targets": ["10.0.0.4:9100"], "labels": {"instance": "e3", "node": "e3", "site": "b", "role": "worker"}},
    ]
    assert jobs[2]["static_configs"] == [{"targets": ["127.0.0.1:8429"], "labels": own}]


def test_the_forwarders_command(edge: Inventory) -> None:
    words = _command(edge, "e1")
    assert words.count("-remoteWrite.url=https://metrics.example.com/api/v1/write") == 2
    for word in (
        "-remoteWrite.rateLimit=20000,0",
        "-remoteWrite.tlsCAFile=/etc/pibuild/metrics-ca.pem",
        "-remoteWrite.bearerTokenFile=%d/remote-write.token",
        "-remoteWrite.forceVMProto=true",
        "-remoteWrite.disableOnDiskQueue=false,true",
        "-remoteWrite.flushInterval=1s",
    ):
        assert word in words
    other = _command(edge, "e2")
    assert "-remoteWrite.forcePromProto=true" in other
    assert "-remoteWrite.flushInterval=5s" in other
    assert not [word for word in words + other if "$" in word]


def test_no_credential_is_in_the_rendered_files(edge: Inventory) -> None:
    for text in forwarder_files(edge, edge.node("e1")).values():
        assert "token" not in text.lower()


def test_who_forwards_nothing_has_no_files(edge: Inventory) -> None:
    assert forwarder_files(edge, edge.node("e3")) == {}
    assert forwarder_files(edge, edge.node("e4")) == {}
    assert certificates(edge, edge.node("e3")) == ""
    assert certificates(edge, edge.node("e1")) == PEM


@pytest.mark.parametrize("text", ["", PEM + "-----BEGIN PRIVATE KEY-----\n", None])
def test_a_file_that_is_not_certificates_alone_is_refused(edge: Inventory, text: str | None) -> None:
    path = edge.path.parent / "ca.pem"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=r"metrics\.ca"):
        certificates(edge, edge.node("e1"))


def test_a_token_stands_for_one_node_and_a_site_agents_for_its_site(edge: Inventory) -> None:
    tokens = {"e1": "t1", "e2": "t2"}
    users = yaml.safe_load(gateway(edge, tokens, "http://127.0.0.1:8428/"))["users"]
    assert [(user["name"], user["bearer_token"]) for user in users] == [("e1", "t1"), ("e2", "t2")]
    ways = [user["url_map"][0] for user in users]
    assert [way["src_paths"] for way in ways] == [["/api/v1/write"]] * 2
    assert ways[0]["url_prefix"] == (
        "http://127.0.0.1:8428/?extra_label=node=e1&extra_label=site=a&extra_label=role=worker"
    )
    assert ways[1]["url_prefix"] == "http://127.0.0.1:8428/?extra_label=site=b"

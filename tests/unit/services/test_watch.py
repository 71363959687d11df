"""What the monitoring server is configured with: golden files, who it is, and what is said of a wrong inventory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from builder.cli import main as cli
from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.services.record import write_written
from builder.services.watch import ALERTMANAGER, PROMETHEUS, RULES, SCRAPE, VMALERT, render, watching
from tests.alert_scenarios import INVENTORY
from tests.clusters import LAB
from tests.unit_files import OVERLAYS, environment

GOLDEN = Path(__file__).parents[1] / "golden" / "monitoring"
STORES = ("victoria-metrics", "prometheus")


def _file(tmp_path: Path, store: str = "victoria-metrics", *changes: tuple[str, str]) -> Path:
    text = INVENTORY.replace("STORE", store)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def _inventory(tmp_path: Path, store: str = "victoria-metrics", *changes: tuple[str, str]) -> Inventory:
    return load_inventory(_file(tmp_path, store, *changes))


def _rendered(inventory: Inventory) -> dict[object, str]:
    return {file.path: file.text for file in render(inventory, watching(inventory))}


@pytest.mark.parametrize("store", STORES)
def test_the_files_are_what_they_were(store: str, tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    files = _rendered(_inventory(tmp_path, store))
    golden(GOLDEN / f"{store}.txt", "\n".join(f"==> {path} <==\n{text}" for path, text in files.items()))
    assert files == _rendered(_inventory(tmp_path, store))


@pytest.mark.parametrize(("store", "path"), [("victoria-metrics", SCRAPE), ("prometheus", PROMETHEUS)])
def test_the_store_reads_those_whom_no_forwarder_reads(store: str, path: object, tmp_path: Path) -> None:
    way = 'metrics: {mode: site-agent, url: "https://store.example.com/api/v1/write"}'
    agent = ("site: b}\n  - {name: b2", f"site: b, {way}}}\n  - {{name: b2")
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load(_rendered(_inventory(tmp_path, store, agent))[path])["scrape_configs"]
    }
    read = [target["labels"]["node"] for target in jobs["heartbeat"]["static_configs"]]
    assert read == ["gate", "a1", "a2", "a3", "a4", "c1"]
    assert jobs["node"]["static_configs"] == jobs["heartbeat"]["static_configs"]
    assert jobs["node"]["static_configs"][0]["targets"] == ["10.0.0.1:9100"]
    assert {store, "alertmanager"} <= set(jobs)
    assert ("vmalert" in jobs) == (store == "victoria-metrics")
    assert "vmagent" not in jobs


@pytest.mark.parametrize("store", STORES)
def test_the_store_has_the_options_of_its_part(store: str, tmp_path: Path) -> None:
    part = OVERLAYS / f"store-{store}/etc/default/{store}"
    shipped, here = (
        {word.split("=")[0].lstrip("-"): word for word in environment(text)["ARGS"].split()}
        for text in (
            part.read_text(),
            next(
                text
                for path, text in _rendered(_inventory(tmp_path, store)).items()
                if str(path) == f"/etc/default/{store}"
            ),
        )
    )
    kept = {"retentionPeriod", "storage.tsdb.retention.time"}
    assert {name: here.get(name) for name in shipped if name not in kept} == {
        name: word for name, word in shipped.items() if name not in kept
    }


def test_nothing_of_it_answers_the_network(tmp_path: Path) -> None:
    for store in STORES:
        files = _rendered(_inventory(tmp_path, store))
        listens = [
            word
            for text in files.values()
            for word in text.replace('"', " ").split()
            if "isten" in word.split("=")[0] and word.startswith("-")
        ]
        assert listens
        assert all("127.0.0.1:" in word or word == "--cluster.listen-address=" for word in listens), listens


def test_who_watches(tmp_path: Path) -> None:
    named = _inventory(tmp_path, "prometheus", ("server: a3", "server: a4"))
    assert watching(named).name == "a4"
    assert watching(named, "master").name == "a3"
    assert watching(_inventory(tmp_path, "prometheus", ("server: a3, ", ""))).name == "a3"
    with pytest.raises(InputError, match="8 nodes have the role worker"):
        watching(named, "worker")
    with pytest.raises(InputError, match="no node has the role backup"):
        watching(named, "backup")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("server: a3", "server: a33"), "monitoring server 'a33' is not among the nodes"),
        (('webhook: {url: "http://127.0.0.1:9/"}, ', ""), "alerts would reach nobody"),
        (('webhook: {url: "http://127.0.0.1:9/"}', "webhook: {}"), "webhook: either url or url_file"),
        (('webhook: {url: "http://127.0.0.1:9/"}', 'webhook: {url: "https://me:secret@example.com/"}'), "webhook"),
        (
            ('webhook: {url: "http://127.0.0.1:9/"}', "webhook: {url_file: alerts.url}"),
            "'alerts.url' is not an absolute path",
        ),
        (
            (
                "server: a3",
                'server: a3, email: {to: ["a@example.com, x"], sender: b@example.com, smarthost: "m.example:25"}',
            ),
            "address 'a@example.com, x' has a character",
        ),
        (("server: a3", "server: a3, limits: {site_fraction: 1}"), "site_fraction"),
        (("server: a3", "server: a3, retention: 1 year"), "retention"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_at_its_place(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    path = _file(tmp_path, "victoria-metrics", change)
    with pytest.raises(InputError) as raised:
        load_inventory(path)
    (problem,) = raised.value.problems
    assert said in problem.message
    assert problem.mark is not None
    assert problem.mark.line == 8


def test_a_forwarder_that_speaks_to_another_store_is_named(tmp_path: Path) -> None:
    local = (
        "role: worker, backup: true",
        'role: worker, backup: true, metrics: {mode: local, store: prometheus, url: "http://10.0.0.4:8427/api/v1/write"}',
    )
    with pytest.raises(InputError, match="node a1 writes as to prometheus, but a3 runs victoria-metrics"):
        _rendered(_inventory(tmp_path, "victoria-metrics", local))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = ["--cluster", str(_file(tmp_path))]
    out = tmp_path / "out"
    assert cli.run_command(["monitoring", "render", "-o", str(out), *cluster]) == 0
    assert cli.run_command(["monitoring", "render", "--json", *cluster]) == 0
    listed = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert {file["path"] for file in listed} >= {str(path) for path in (RULES, SCRAPE, ALERTMANAGER, VMALERT)}
    for file in listed:
        assert (out / file["path"].lstrip("/")).read_text() == file["text"]
    # what `services apply` has written on the same machine is not the monitoring's to remove
    (out / "etc/other").write_text("kept\n")
    write_written(out, {RULES.parent.parent.parent / "other": False})
    assert cli.run_command(["monitoring", "diff", "--root", str(out), *cluster]) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    (out / str(RULES).lstrip("/")).write_text("old\n")
    assert cli.run_command(["monitoring", "diff", "--root", str(out), "--json", *cluster]) == 0
    (change,) = json.loads(capsys.readouterr().out)
    assert (change["path"], change["kind"], change["before"]) == (str(RULES), "changed", "old\n")


def test_a_cluster_that_says_nothing_of_it_is_told_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["monitoring", "render", "--cluster", str(LAB)]) == 2
    said = capsys.readouterr().err
    assert "nothing says whom alerts reach: cluster.monitoring" in said
    assert "cluster: {monitoring: {email: " in said

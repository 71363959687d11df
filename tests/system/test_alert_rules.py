"""Rules, routes and scrape configurations, read and run by the programs that nodes have: promtool, vmalert, amtool."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.run import find_tool, run, spawn
from builder.services.watch import render, watching
from tests.alert_runs import bare, inventory_of, packed, promtool, scenario_test
from tests.alert_scenarios import BEAT, SCENARIOS
from tests.metrics_path import free_port, get, wait_for
from tests.produced_metrics import PRODUCED
from tests.trixie import program, unpacked
from tests.unit_files import UNITS, environment, exec_start
from tests.web import QuietHandler, listening

pytestmark = pytest.mark.network

STORES = ("victoria-metrics", "prometheus")


def _vmalert(name: str = "vmalert") -> Path:
    return program("victoria-metrics", f"/usr/bin/{name}")


@pytest.mark.parametrize("store", STORES)
def test_every_alert_fires_and_resolves_by_promtool(store: str, tmp_path: Path) -> None:
    """The rules for either store; those that both have in the same form once."""
    groups = bare(inventory_of(tmp_path, store))
    own = [scenario for scenario in SCENARIOS if scenario.stores[0] == store]
    run([promtool(), "test", "rules", *(scenario_test(tmp_path, groups, pack) for pack in packed(own))])


def test_every_alert_fires_and_resolves_by_vmalert(tmp_path: Path) -> None:
    groups = bare(inventory_of(tmp_path, "victoria-metrics"))
    own = [scenario for scenario in SCENARIOS if "victoria-metrics" in scenario.stores]
    files = [word for pack in packed(own) for word in ("--files", scenario_test(tmp_path, groups, pack))]
    run([_vmalert("vmalert-tool"), "unittest", "--disableAlertgroupLabel", *files])


def _rendered(tmp_path: Path, store: str, places: Mapping[str, str]) -> tuple[Mapping[str, Path], Mapping[str, str]]:
    """Write the monitoring server's files, with other paths and ports; return them by name, and their texts."""
    inventory = inventory_of(tmp_path, store)
    files = {file.path.name: file.text for file in render(inventory, watching(inventory))}
    for name, text in files.items():
        for there, here in {"/etc/pibuild/monitoring/rules.yml": str(tmp_path / "rules.yml"), **places}.items():
            text = text.replace(there, here)  # noqa: PLW2901
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in files}, {name: (tmp_path / name).read_text() for name in files}


@pytest.mark.parametrize("store", STORES)
def test_the_programs_take_what_is_rendered(store: str, tmp_path: Path) -> None:
    files, _ = _rendered(tmp_path, store, {})
    run([promtool(), "check", "rules", "--lint=all", "--lint-fatal", files["rules.yml"]])
    run([program("prometheus-alertmanager", "/usr/bin/amtool"), "check-config", files["alertmanager.yml"]])
    if store == "prometheus":
        run([promtool(), "check", "config", files["prometheus.yml"]])
    else:
        run([_vmalert(), "-dryRun", f"-rule={files['rules.yml']}"])
        strict = ("-promscrape.config.dryRun", "-promscrape.config.strictParse")
        run([_vmalert("victoria-metrics"), f"-promscrape.config={files['scrape.yml']}", *strict])


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "Watchdog", "severity": "none"}, "deadman"),
        ({"alertname": "Maintenance", "severity": "none"}, "nobody"),
        ({"alertname": "SiteDown", "severity": "page"}, "pages"),
        ({"alertname": "NodeDown", "severity": "ticket"}, "tickets"),
        ({"alertname": "NodeFlapping", "severity": "info"}, "tickets"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["alertname"],
)
def test_amtool_sends_each_severity_its_way(labels: Mapping[str, str], receiver: str, tmp_path: Path) -> None:
    files, _ = _rendered(tmp_path, "victoria-metrics", {})
    amtool = program("prometheus-alertmanager", "/usr/bin/amtool")
    words = [f"{name}={value}" for name, value in labels.items()]
    found = run([amtool, "config", "routes", "test", f"--config.file={files['alertmanager.yml']}", *words])
    assert found.stdout.strip() == receiver


@dataclass(slots=True)
class Receiver:
    """Whom Alertmanager tells: what came in, as path, alert and status."""

    port: int = 0
    came: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @contextlib.contextmanager
    def run(self) -> Iterator[Receiver]:
        came = self.came

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802 - http.server calls it so
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                came.extend((self.path, alert) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

        with listening(Handler) as self.port:
            yield self

    def names(self, path: str) -> set[tuple[str, str]]:
        """Return which alerts came to a path, and about which node or site."""
        labels = [alert["labels"] for at, alert in self.came if at == path]
        return {(each["alertname"], each.get("node", each.get("site", ""))) for each in labels}


@contextlib.contextmanager
def _alertmanager(directory: Path, receiver: Receiver, port: int) -> Iterator[None]:
    """Run Alertmanager with the options and the routes that are rendered, its waits a second."""
    text = (directory / "alertmanager.yml").read_text()
    text = text.replace("group_wait: 45s", "group_wait: 1s").replace(
        "http://127.0.0.1:9/", f"http://127.0.0.1:{receiver.port}/"
    )
    text = text.replace(
        f"url: http://127.0.0.1:{receiver.port}/\n    send_resolved: false",
        f"url: http://127.0.0.1:{receiver.port}/deadman\n    send_resolved: false",
    )
    (directory / "alertmanager.yml").write_text(text)
    words = environment((directory / "prometheus-alertmanager").read_text())["ARGS"].split()
    own = (f"--config.file={directory}/alertmanager.yml", f"--storage.path={directory}/alertmanager")
    share = unpacked("prometheus-alertmanager") / "usr/share"  # where it is compiled to find its templates
    laid = f'mount -t overlay -o lowerdir={share}:/usr/share overlay /usr/share && exec "$@"'
    alertmanager = program("prometheus-alertmanager", "/usr/bin/prometheus-alertmanager")
    unshare = find_tool("unshare", package="util-linux")
    with spawn([unshare, "--mount", "sh", "-c", laid, "sh", alertmanager, *words, *own]):
        wait_for("alertmanager", lambda: get(port, "/-/ready").strip() == "OK")
        yield


def _tell(port: int, *alerts: tuple[str, str, str]) -> None:
    """Give Alertmanager alerts: name, node or "", site or ""."""
    severity = {"Maintenance": "none"}
    labels = [
        {"alertname": name, "severity": severity.get(name, "page"), "node": node, "site": site}
        for name, node, site in alerts
    ]
    get(port, "/api/v2/alerts", json.dumps([{"labels": each} for each in labels]).encode(), "application/json")


@pytest.mark.root
def test_one_fault_is_one_message_and_flapping_hides_no_death(tmp_path: Path) -> None:
    port = free_port()
    _rendered(tmp_path, "victoria-metrics", {"127.0.0.1:9093": f"127.0.0.1:{port}"})
    receiver = Receiver()
    with receiver.run(), _alertmanager(tmp_path, receiver, port):
        _tell(
            port,
            *[("SiteDown", "", "a"), ("NodeDown", "a1", "a"), ("LoginDown", "gate", "a"), ("NodeNeverSeen", "a2", "a")],
            *[("NodeFlapping", "b1", "b"), ("NodeDown", "b1", "b"), ("DiskFull", "b1", "b"), ("DiskFull", "b2", "b")],
            *[("LoginDown", "c0", "c"), ("NodeDown", "c1", "c"), ("NfsNotAnswering", "c2", "c")],
            *[
                ("Maintenance", "d1", "d"),
                ("RootReadOnly", "d1", "d"),
                ("NodeDown", "d1", "d"),
                ("NodeDown", "d2", "d"),
            ],
            *[("NodeFlapping", "e1", "e"), ("NodeDown", "f1", "")],
        )
        told = {
            *{("SiteDown", "a"), ("NodeDown", "b1"), ("DiskFull", "b2"), ("LoginDown", "c0")},
            *{("NodeDown", "d2"), ("NodeFlapping", "e1"), ("NodeDown", "f1")},
        }
        wait_for("messages", lambda: receiver.names("/") >= told)
        time.sleep(1)  # what was held back would be here
        assert receiver.names("/") == told
        receiver.came.clear()
        _tell(
            port, ("NothingHeard", "", ""), ("SiteDown", "", "g"), ("NodeDown", "h1", "h"), ("RootReadOnly", "i1", "i")
        )
        wait_for("messages", lambda: len(receiver.names("/")) >= 2)
        time.sleep(1)
        assert receiver.names("/") == {("NothingHeard", ""), ("RootReadOnly", "i1")}


def _named(port: int) -> set[str]:
    """Return the metrics that a program tells of itself."""
    return set(re.findall(r"^(\w+)[{ ]", get(port, "/metrics"), re.MULTILINE))


@pytest.mark.root
def test_a_fault_becomes_a_page_that_says_what_to_do(tmp_path: Path) -> None:
    """Store, vmalert and Alertmanager as they are rendered, evaluated every second; they produce what rules ask for."""
    store, rules, manager = free_port(), free_port(), free_port()
    ports = {"127.0.0.1:8428": f"127.0.0.1:{store}", "127.0.0.1:8880": f"127.0.0.1:{rules}"}
    quick = {"for: 2m\n": "for: 1s\n", "interval: 1m\n": "interval: 1s\n", "interval: 30s\n": "interval: 1s\n"}
    files, texts = _rendered(tmp_path, "victoria-metrics", {**ports, "127.0.0.1:9093": f"127.0.0.1:{manager}", **quick})
    args = environment(texts["victoria-metrics"])["ARGS"]
    places = {"/var/lib/victoria-metrics": str(tmp_path / "store"), "/etc/pibuild/monitoring": str(tmp_path)}
    for there, here in places.items():
        args = args.replace(there, here)
    unit = exec_start(files["vmalert.service"], {}, {"/usr/bin/vmalert": str(_vmalert())})
    receiver = Receiver()
    with (
        receiver.run(),
        _alertmanager(tmp_path, receiver, manager),
        spawn([_vmalert("victoria-metrics"), *args.split(), "-search.latencyOffset=0s"]),
    ):
        wait_for("the store", lambda: get(store, "/health") == "OK")
        then = int(time.time()) - 45
        seen = (("edge_root_readonly", 1), (BEAT, then))
        lines = "".join(f'{name}{{node="a1",site="a"}} {value} {then}000\n' for name, value in seen)
        get(store, "/api/v1/import/prometheus", lines.encode())
        get(store, "/internal/force_flush")  # a metric that is asked for before it is there stays unknown for 10 s
        with spawn([*unit, "-rule.evalDelay=0s", "-remoteWrite.flushInterval=1s"]):
            wait_for("the page", lambda: ("RootReadOnly", "a1") in receiver.names("/"))
            wait_for("the dead man's switch", lambda: ("Watchdog", "") in receiver.names("/deadman"))
            for port, who in ((store, "victoria-metrics"), (rules, "vmalert"), (manager, "alertmanager")):
                assert set(PRODUCED[who]) <= _named(port), who
    (page,) = (alert for _, alert in receiver.came if alert["labels"]["alertname"] == "RootReadOnly")
    assert page["labels"] == {
        "alertname": "RootReadOnly",
        "node": "a1",
        "site": "a",
        "severity": "page",
        "cluster": "test",
    }
    assert page["annotations"]["summary"] == "The root of a1 is read-only."
    assert page["annotations"]["action"].startswith("`dmesg` on a1. ")
    assert page["annotations"]["runbook"] == "docs/runbooks.md#rootreadonly"


def test_prometheus_and_the_exporter_produce_what_rules_ask_for(tmp_path: Path) -> None:
    """The exporter on a tree that stands for a board's sysfs."""
    port, exporter = free_port(), free_port()
    files, texts = _rendered(tmp_path, "prometheus", {"127.0.0.1:9090": f"127.0.0.1:{port}"})
    board = {
        "class/hwmon/hwmon0/name": "rpi_volt",
        "class/hwmon/hwmon0/in0_lcrit_alarm": "1",
        "class/hwmon/hwmon0/temp1_input": "81000",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "devices/system/cpu/cpu0/online": "1",
        "class/thermal/thermal_zone0/policy": "step_wise",
        "class/thermal/thermal_zone0/temp": "81000",
    }
    for name, text in board.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(f"{text}\n")
    own = (f"--config.file={files['prometheus.yml']}", f"--storage.tsdb.path={tmp_path}/store")
    words = environment(texts["prometheus"])["ARGS"].split()
    node = exec_start(
        UNITS / "prometheus-node-exporter.service.d/pibuild.conf",
        {"LISTEN": f"127.0.0.1:{exporter}"},
        {
            "/usr/bin/prometheus-node-exporter": str(
                program("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter")
            )
        },
    )
    with (
        spawn([program("prometheus", "/usr/bin/prometheus"), *words, *own]),
        spawn([*node, f"--path.sysfs={tmp_path}/sys"]),
    ):
        wait_for("prometheus", lambda: "Ready" in get(port, "/-/ready"))
        wait_for("node_exporter", lambda: "node_" in get(exporter, "/metrics"))
        # those with labels are there once something was counted; until then the binary knows their names' last part
        counted = {
            name for name in PRODUCED["prometheus"] if not name.endswith(("too_old_samples_total", "errors_total"))
        }
        assert counted <= _named(port)
        assert set(PRODUCED["node_exporter"]) <= _named(exporter)

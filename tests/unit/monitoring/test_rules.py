"""Rules from the inventory: who is expected, which metrics are asked for, what a person is told, whom it reaches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.inventory.schema import Limits
from builder.monitoring.alert import Alert
from builder.monitoring.presence import expected, inventory_rules, presence_rules
from builder.monitoring.routes import OF_NODES, routes
from builder.monitoring.rules import all_alerts, rule_groups
from builder.services.watch import monitoring_of
from tests.alert_scenarios import INVENTORY, NODES, SCENARIOS
from tests.produced_metrics import PRODUCED
from tests.unit_files import OVERLAYS

RUNBOOKS = Path(__file__).parents[3] / "docs/runbooks.md"
STORES = ("victoria-metrics", "prometheus")
HEAD = """# Runbooks

What each alert means and what to do then: the section that an alert links to. Written from the rules themselves:
`pytest tests/unit/monitoring --regenerate`. Who gets which: [monitoring](monitoring.md).
"""
_LABELS = re.compile(r"\{[^}]*\}|\b(?:by|on)\s*\([^)]*\)|\[\w+\]|\boffset \w+")
_FUNCTION = re.compile(r"\b[a-z_]+\s*(?=\()")
_WORDS = {"and", "or", "unless", "by", "on", "offset"}


def _inventory(tmp_path: Path, store: str = "victoria-metrics", *changes: tuple[str, str]) -> Inventory:
    text = INVENTORY.replace("STORE", store)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "cluster.yaml").write_text(text)
    return load_inventory(tmp_path / "cluster.yaml")


def _alerts(tmp_path: Path, store: str = "victoria-metrics", *changes: tuple[str, str]) -> dict[str, Alert]:
    alerts = all_alerts(monitoring_of(_inventory(tmp_path, store, *changes)))
    assert len({alert.name for alert in alerts}) == len(alerts)
    return {alert.name: alert for alert in alerts}


def _metrics(expr: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = _FUNCTION.sub("", _LABELS.sub("", expr))
    return set(re.findall(r"\b[a-z][a-z0-9_:]{1,}\b", bare)) - _WORDS


def test_the_inventory_is_who_is_expected(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path)
    assert {node.name for node in expected(inventory)} == set(NODES)
    rules = inventory_rules(inventory)
    info = {rule["labels"]["node"]: rule["labels"] for rule in rules if rule["record"] == "edge_node_info"}  # type: ignore[index]
    assert info["a1"] == {"node": "a1", "site": "a", "role": "worker", "backup": "yes"}
    assert info["gate"] == {"node": "gate", "site": "a", "role": "login"}
    models = [rule["labels"] for rule in rules if rule["record"] == "edge:model_expected:info"]
    assert models == [{"node": "a2", "site": "a", "model": "jen", "version": "2"}]


@pytest.mark.parametrize("store", STORES)
def test_every_metric_of_a_rule_is_produced(store: str, tmp_path: Path) -> None:
    """By a collector in the overlays, a program that is asked in test_alert_rules, or a recording rule before it."""
    groups: Any = rule_groups(_inventory(tmp_path, store), monitoring_of(_inventory(tmp_path, store)))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    records = {rule["record"] for rule in rules if "record" in rule}
    files = [path for path in OVERLAYS.rglob("*") if path.is_file() and not path.is_symlink()]
    shipped = "\n".join(path.read_text(errors="replace") for path in files)
    known = {name for names in PRODUCED.values() for name in names} | records
    for rule in rules:
        for name in _metrics(rule["expr"]):
            model = name.startswith("edge_model_") and f'"{name.removeprefix("edge_model_")}"' in shipped
            assert name in known or model or f"# HELP {name} " in shipped or f"metric {name} " in shipped, name
    assert _metrics('time() - max by (site) (edge_a{b="c"}[1h] offset 1h) > 5 and on (d) e:f:g') == {"edge_a", "e:f:g"}


@pytest.mark.parametrize("store", STORES)
def test_every_alert_has_scenarios_in_which_it_fires_and_does_not(store: str, tmp_path: Path) -> None:
    for name, alert in _alerts(tmp_path, store).items():
        of = [scenario for scenario in SCENARIOS if scenario.alert == name and store in scenario.stores]
        assert {alert.severity} == {scenario.severity for scenario in of}, name
        times = [fired for scenario in of for fired in scenario.fires.values()]
        assert any(times), name
        assert not all(times), name


def test_the_runbook_has_a_section_for_every_alert(tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    both = {name: alert for store in STORES for name, alert in _alerts(tmp_path, store).items()}
    golden(RUNBOOKS, "\n".join([HEAD, *(alert.runbook() for alert in both.values())]))
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)}
    for alert in both.values():
        annotations: Any = alert.rule("test", "https://docs.example.com/runbooks.md")["annotations"]
        address, _, anchor = annotations["runbook"].partition("#")
        assert address == "https://docs.example.com/runbooks.md"
        assert anchor in headings
        assert annotations["summary"].strip()
        assert annotations["action"].strip()


def test_limits_of_the_inventory_are_those_of_the_rules(tmp_path: Path) -> None:
    limits = "{node_silent: 20, site_fraction: 0.5, temperature: 70, disk_free: 10, backup_age: 48, clock_offset: 5}"
    alerts = _alerts(tmp_path, "victoria-metrics", ("server: a3", f"server: a3, limits: {limits}"))
    for name, part in {
        "NodeDown": "> 1200 ",
        "SiteDown": "> 0.5 ",
        "TemperatureHigh": "> 70",
        "DiskFull": "< 0.1 ",
        "BackupMissing": f"> {48 * 3600} ",
        "ClockWrong": "> 5 ",
    }.items():
        assert part in alerts[name].expr, alerts[name].expr


def test_wider_alerts_are_there_before_those_that_follow_from_them(tmp_path: Path) -> None:
    """By half a minute at least: an interval of the rules; Alertmanager waits for longer than one before it sends."""
    alerts = _alerts(tmp_path)
    minutes = {
        name: int(alerts[name].tolerance.removesuffix("m")) for name in ("NothingHeard", "SiteDown", "LoginDown")
    }
    assert (
        minutes["NothingHeard"]
        < minutes["SiteDown"]
        < minutes["LoginDown"]
        < Limits.model_fields["node_silent"].metadata[0].ge - 2
    )
    assert alerts["SiteDown"].lasting == "5m"  # while nodes come back
    assert [rule["record"] for rule in presence_rules()][-1] == "edge:site:missing"


def test_flapping_holds_nothing_back(tmp_path: Path) -> None:
    config: Any = _routes(tmp_path)
    sources = [rule["source_matchers"][0] for rule in config["inhibit_rules"]]
    assert sources == [
        f'alertname="{name}"' for name in ("NothingHeard", "SiteDown", "LoginDown", "Maintenance", "NodeDown")
    ]
    for rule in config["inhibit_rules"]:
        (targets,) = rule["target_matchers"]
        assert rule["source_matchers"][0].split('"')[1] not in re.findall(r"\w+", targets)[1:]
    assert "NodeFlapping" in OF_NODES


def _routes(tmp_path: Path, *changes: tuple[str, str]) -> object:
    monitoring = monitoring_of(_inventory(tmp_path, "victoria-metrics", *changes))
    return routes(monitoring, all_alerts(monitoring))


def test_who_is_reached_by_what_there_is(tmp_path: Path) -> None:
    hook = ('webhook: {url: "http://127.0.0.1:9/"}', "webhook: {url_file: /etc/a.url, token_file: /etc/a.token}")
    mail = (
        "server: a3",
        'server: a3, email: {to: [a@example.com, b@example.com], sender: c@d.example, smarthost: "m:587", username: u}',
    )
    none = (', deadman: {url: "http://127.0.0.1:9/"}', "")
    config: Any = _routes(tmp_path, hook, mail, none)
    receivers = {receiver.pop("name"): receiver for receiver in config["receivers"]}
    assert set(receivers) == {"nobody", "tickets", "pages"}
    assert set(receivers["tickets"]) == {"email_configs"}
    assert set(receivers["pages"]) == {"webhook_configs", "email_configs"}
    (email,) = receivers["tickets"]["email_configs"]
    assert (email["to"], email["auth_password_file"]) == (
        "a@example.com, b@example.com",
        "/etc/pibuild/secrets/alerts-email.password",
    )
    (webhook,) = receivers["pages"]["webhook_configs"]
    assert webhook["url_file"] == "/etc/a.url"
    assert webhook["http_config"] == {"authorization": {"credentials_file": "/etc/a.token"}}
    assert [route["receiver"] for route in config["route"]["routes"]] == ["nobody", "pages", "tickets"]
    alone: Any = _routes(tmp_path)
    receivers = {receiver.pop("name"): receiver for receiver in alone["receivers"]}
    assert receivers["tickets"] == receivers["pages"]
    assert alone["route"]["routes"][0]["receiver"] == "deadman"
    assert receivers["deadman"]["webhook_configs"][0]["send_resolved"] is False

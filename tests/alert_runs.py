"""Scenarios of alerts as tests for promtool and vmalert-tool: rules without annotations, and what is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.monitoring.rules import rule_groups
from builder.services.watch import monitoring_of
from tests.alert_scenarios import INVENTORY, Scenario
from tests.trixie import program

ORDER = ["inventory", "presence", "health", "monitoring"]

Group = dict[str, Any]


def inventory_of(tmp_path: Path, store: str) -> Inventory:
    path = tmp_path / f"{store}.yaml"
    path.write_text(INVENTORY.replace("STORE", store))
    return load_inventory(path)


def bare(inventory: Inventory) -> list[Group]:
    """Return the groups of rules without annotations, which the tools would compare word by word."""
    groups = json.loads(json.dumps(rule_groups(inventory, monitoring_of(inventory))))["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule.pop("annotations", None)
            rule.setdefault("alert", "")
    return list(groups)


def scenario_test(directory: Path, groups: Sequence[Group], scenarios: Sequence[Scenario]) -> Path:
    """Write one test of scenarios that share no metric, and the rules that it is about; return the test."""
    chain, interval = scenarios[0].chain, scenarios[0].interval
    names = {scenario.alert for scenario in scenarios}
    series = {name: values for scenario in scenarios for name, values in scenario.series.items()}
    given = {"inventory"} if any(name.startswith("edge_node_info") for name in series) else set()
    kept = [
        {**group, "rules": [rule for rule in group["rules"] if rule["alert"] in names or (chain and not rule["alert"])]}
        for group in groups
        if group["name"] not in given
    ]
    number = len(list(directory.glob("test-*.yml")))
    rules = directory / f"rules-{number}.yml"
    bare = [{**group, "rules": [_filled(rule) for rule in group["rules"]]} for group in kept if group["rules"]]
    rules.write_text(yaml.safe_dump({"groups": bare}))
    expected = [
        {
            "eval_time": time,
            "alertname": scenario.alert,
            "exp_alerts": [
                {"exp_labels": {**fires, "severity": scenario.severity, "cluster": "test"}} for fires in fired
            ],
        }
        for scenario in scenarios
        for time, fired in scenario.fires.items()
    ]
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": interval,
        "group_eval_order": ORDER,
        "tests": [
            {
                "name": ", ".join(sorted(names)),
                "interval": interval,
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    path = directory / f"test-{number}.yml"
    path.write_text(yaml.safe_dump(test, sort_keys=False))
    return path


def _filled(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if value != ""}


def packed(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Put together what can share a store: the same interval, no alert in common, and all series or no metric."""
    packs: list[list[Scenario]] = []
    for scenario in scenarios:
        for pack in packs:
            alike = (pack[0].interval, pack[0].chain) == (scenario.interval, scenario.chain)
            same = scenario.series == pack[0].series and scenario.alert not in {other.alert for other in pack}
            if alike and (same or not any(_asks(scenario) & _asks(other) for other in pack)):
                pack.append(scenario)
                break
        else:
            packs.append([scenario])
    return packs


def _asks(scenario: Scenario) -> set[str]:
    return {scenario.alert, *(name.partition("{")[0] for name in scenario.series)}


def promtool() -> Path:
    return program("promtool", "/usr/bin/promtool")

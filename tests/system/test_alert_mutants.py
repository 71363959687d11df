"""Rules that are a little wrong, each in one place: a scenario must fail. What none notices, nobody would."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.run import CommandError, run
from tests.alert_runs import bare, inventory_of, packed, promtool, scenario_test
from tests.alert_scenarios import SCENARIOS

pytestmark = pytest.mark.network

EVERY = 3  # of the mutants, all of which take half a minute; those of presence take as long again
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NUMBER = re.compile(r'(?<![\w."])\d+(?:\.\d+)?(?![\w".])')
WINDOW = re.compile(r"(?<=\[|\s)(\d+)([smhd])\b")
MATCHER = re.compile(r'(\w+(?:=~|!=|=))"[^"]*"')
COMPARISON = re.compile(r"(?<= )(>=|<=|==|!=|>|<)(?= )")
OTHER = {">": "<", "<": ">", ">=": ">", "<=": "<", "==": "!=", "!=": "=="}
ALIKE = {("Maintenance", "0"), ("DiskFillsSoon", "0")}  # of seconds and of bytes one more or less


def _mutants(rule: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a rule has in another form, in one place each."""
    expr = rule["expr"]

    def put(found: re.Match[str], text: str) -> dict[str, str]:
        return {"expr": expr[: found.start()] + text + expr[found.end() :]}

    for found in NUMBER.finditer(expr):
        if (rule["alert"], found[0]) not in ALIKE:
            few = found[0] in {"0", "1", "2", "3"}
            yield from (
                put(found, f"{float(found[0]) + by if few else float(found[0]) * (1 + 0.3 * by):g}") for by in (1, -1)
            )
    for found in WINDOW.finditer(expr):
        yield from (put(found, f"{int(int(found[1]) * SECONDS[found[2]] * by)}s") for by in (0.5, 2))
    yield from (put(found, f'{found[1]}"other"') for found in MATCHER.finditer(expr))
    yield from (put(found, OTHER[found[0]]) for found in COMPARISON.finditer(expr))
    for key in ("for", "keep_firing_for"):
        if key in rule:
            seconds = int(rule[key][:-1]) * SECONDS[rule[key][-1]]
            yield from ({key: f"{int(seconds * by)}s"} for by in (0.4, 1.6))
    yield {"labels": {**rule["labels"], "severity": "other"}}


def _failed(output: str) -> dict[str, bool]:
    """Return each test that promtool ran, and whether it failed."""
    parts = re.split(r"^Unit Testing:\s+", output, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0].strip(): "FAILED" in part for part in parts}


def test_a_rule_that_is_a_little_wrong_fails_a_scenario(tmp_path: Path) -> None:
    groups = bare(inventory_of(tmp_path, "victoria-metrics"))
    ran: dict[str, tuple[str, dict[str, Any]]] = {}
    number = 0
    for place, group in enumerate(groups):
        for at, rule in enumerate(group["rules"]):
            mine = [each for each in SCENARIOS if rule["alert"] == each.alert and "victoria-metrics" in each.stores]
            for mutant in _mutants(rule) if mine and not mine[0].chain else ():
                number += 1
                if number % EVERY:
                    continue
                wrong = copy.deepcopy(groups)
                wrong[place]["rules"][at].update(mutant)
                for pack in packed(mine):
                    ran[str(scenario_test(tmp_path, wrong, pack))] = (f"{rule['alert']} {number}", mutant)
    with pytest.raises(CommandError) as refused:
        run([promtool(), "test", "rules", *ran], merge=True)
    failed = _failed(refused.value.completed.stdout)
    assert set(failed) == set(ran)
    noticed = {ran[path][0] for path, wrong in failed.items() if wrong}
    assert {name: mutant for name, mutant in ran.values() if name not in noticed} == {}
    assert len(noticed) >= 75

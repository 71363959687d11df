"""The file of rules, for vmalert and Prometheus alike: recording rules of who should be there, and every alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.inventory.nodes import Inventory
from builder.monitoring.alert import Alert
from builder.monitoring.health import health_alerts
from builder.monitoring.itself import own_alerts
from builder.monitoring.presence import inventory_rules, presence_alerts, presence_rules

if TYPE_CHECKING:
    from builder.inventory.schema import Monitoring


def all_alerts(monitoring: Monitoring) -> tuple[Alert, ...]:
    """Return every alert, in the order of the runbook."""
    limits = monitoring.limits
    return (*presence_alerts(limits), *health_alerts(limits), *own_alerts(monitoring.store))


def rule_groups(inventory: Inventory, monitoring: Monitoring) -> dict[str, object]:
    """Return what a file of rules holds. Groups and the rules in them are evaluated in this order."""
    name, limits = inventory.cluster.name, monitoring.limits

    def of(alerts: tuple[Alert, ...]) -> list[dict[str, object]]:
        return [alert.rule(name, monitoring.runbooks) for alert in alerts]

    groups: tuple[tuple[str, str, list[dict[str, object]]], ...] = (
        ("inventory", "1m", inventory_rules(inventory)),
        ("presence", "30s", [*presence_rules(), *of(presence_alerts(limits))]),
        ("health", "1m", of(health_alerts(limits))),
        ("monitoring", "1m", of(own_alerts(monitoring.store))),
    )
    return {"groups": [{"name": group, "interval": every, "rules": rules} for group, every, rules in groups]}

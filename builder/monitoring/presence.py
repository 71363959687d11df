"""Who should be there and who is not: the inventory as recording rules, and the alerts that name whom it misses.

A metric that is missing has no labels, so `absent()` names nobody, and a node that is silent is in no average: the
inventory is what heartbeats are compared with. The times are in an order that Alertmanager's inhibition relies on:
nothing heard (4 minutes), a site (5), the login node (6), a node (11 and more). The wider alert is there before those
that follow from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.inventory.nodes import Inventory, Node
from builder.monitoring.alert import Alert

if TYPE_CHECKING:
    from builder.inventory.schema import Limits

SILENT = 120  # seconds: four beats
NODE = "max by (site, node, role) (edge_node_info)"
KNOWN = "on (site, node) edge_node_info"
HERE = "on (site, node) edge:node:missing == 0"  # for rules about what a living node does not tell


def expected(inventory: Inventory) -> tuple[Node, ...]:
    """Return the nodes that must be heard from: all but those that keep their metrics to themselves."""
    return tuple(node for node in inventory.nodes if node.metrics.mode != "off")


def inventory_rules(inventory: Inventory) -> list[dict[str, object]]:
    """Return one record for each expected node, and one for each model that it is to have."""
    rules: list[dict[str, object]] = []
    for node in expected(inventory):
        who = {"node": node.name, **({"site": node.site} if node.site else {})}
        backed_up = {"backup": "yes"} if node.backup and inventory.cluster.backup else {}
        labels = {**who, "role": node.role, **backed_up}
        rules.append({"record": "edge_node_info", "expr": "vector(1)", "labels": labels})
        for model, version in node.models.items():
            labels = {**who, "model": model, "version": version}
            rules.append({"record": "edge:model_expected:info", "expr": "vector(1)", "labels": labels})
    return rules


def presence_rules() -> list[dict[str, object]]:
    """Return the records on which presence is judged, each built on those before it.

    A beat of a clock that is ahead counts as one of now: a node that died would live on until then. The last beat is
    carried on from evaluation to evaluation for as long as the node is in the inventory.
    """
    silent = f"(time() - edge:heartbeat:last <= {SILENT})"
    return [
        {
            "record": "edge:heartbeat:at",
            "expr": "clamp_max(max by (site, node) (edge_heartbeat_timestamp_seconds), time())",
        },
        {
            "record": "edge:heartbeat:last",
            "expr": f"(edge:heartbeat:at or max_over_time(edge:heartbeat:last[1h])) and {KNOWN}",
        },
        {"record": "edge:node:missing", "expr": f"({NODE} unless on (site, node) {silent}) or ({NODE} * 0)"},
        {"record": "edge:site:missing", "expr": "avg by (site) (edge:node:missing)"},
    ]


def presence_alerts(limits: Limits) -> tuple[Alert, ...]:
    """Return the alerts about who is there, the widest first."""
    return (*_wide(limits), *_single(limits))


def _wide(limits: Limits) -> tuple[Alert, ...]:
    maintenance = "max by (site, node) (max_over_time(edge_maintenance_until_timestamp_seconds[6h]))"
    return (
        Alert(
            name="Watchdog",
            severity="none",
            expr=f"count(edge:heartbeat:at > time() - {SILENT}) >= 1",
            summary="Heartbeats arrive and rules are evaluated.",
            meaning="It fires all the time, on fresh heartbeats, and goes to the receiver outside (`deadman`). That "
            "one tells when it stops: the store is frozen, the rules are not evaluated, Alertmanager or the uplink is "
            "gone.",
            action="Nothing while it fires. When the receiver outside misses it, look at the monitoring server: "
            "`systemctl status victoria-metrics vmalert prometheus prometheus-alertmanager`, its disk, its network.",
        ),
        Alert(
            name="Maintenance",
            severity="none",
            expr=f"{maintenance} - time() > 0 < 21600",
            summary="Somebody works on {{ $labels.node }}.",
            meaning="Somebody ran `node-maintenance MINUTES` on the node: what is wrong with it wakes nobody, for six "
            "hours at most. The alert of its whole site stays.",
            action="Nothing. `sudo node-maintenance 0` on {{ $labels.node }} ends it.",
        ),
        Alert(
            name="NothingHeard",
            severity="page",
            expr=f"absent(edge:heartbeat:at > time() - {SILENT})",
            tolerance="2m",
            summary="No node at all is heard from.",
            meaning="Not one heartbeat has arrived for two minutes. Either the way to the store is cut, or everything "
            "is.",
            action="On the monitoring server: does the store run and take samples (`systemctl status victoria-metrics "
            "vmauth`, `df -h`), has the server its network? Then the uplinks of the sites.",
        ),
        Alert(
            name="SiteDown",
            severity="page",
            expr=f"edge:site:missing > {limits.site_fraction:g} and on (site) count by (site) (edge:node:missing) >= 2",
            tolerance="3m",
            lasting="5m",
            summary="Site {{ $labels.site }}: {{ $value | humanizePercentage }} of its nodes are silent.",
            meaning="Of the nodes that the inventory has at this site, more than the set fraction is silent. Alerts "
            "about its single nodes are held back; it lasts five minutes longer than the outage, while nodes come "
            "back.",
            action="Power, switch and uplink of site {{ $labels.site }}; then the login node, which its nodes boot "
            "from and which may forward their metrics: `sudo pibuild services check`. Samples that forwarders keep "
            "arrive later.",
        ),
        Alert(
            name="LoginDown",
            severity="page",
            expr='edge:node:missing{role="login"} == 1',
            tolerance="4m",
            summary="The login node {{ $labels.node }} is silent.",
            meaning="The nodes have their roots, their addresses and their way out from it. They stand still until it "
            "is back, and go on then.",
            action="Power and network of {{ $labels.node }}. When it is up: `sudo pibuild services check` on it, and "
            "`sudo pibuild services apply` when servers do not run.",
        ),
    )


def _single(limits: Limits) -> tuple[Alert, ...]:
    return (
        Alert(
            name="NodeDown",
            severity="ticket",
            expr=f"time() - edge:heartbeat:last > {limits.node_silent * 60}"
            ' and on (site, node) edge_node_info{role!="login"}',
            tolerance="1m",
            summary="{{ $labels.node }} has been silent for {{ $value | humanizeDuration }}.",
            meaning="The node was heard from before, and not for as long as `limits.node_silent` says. A mobile link "
            "that drops for less is no alert.",
            action="`ping {{ $labels.node }}`, then its power (`pibuild node list` has its port on the switch), then "
            "its console. A node that does not come up: `sudo pibuild services check`, docs/troubleshooting.md.",
        ),
        Alert(
            name="NodeNeverSeen",
            severity="ticket",
            expr=f"{NODE} unless on (site, node) edge:heartbeat:last",
            tolerance="30m",
            summary="{{ $labels.node }} is in the inventory and was never heard from.",
            meaning="The node is in cluster.yaml, and there is no heartbeat of it. It is new, or it tells its metrics "
            "to nobody.",
            action="Is it switched on and exploded? `pibuild node explain {{ $labels.node }}` says how its metrics "
            "travel (`metrics.mode`); a node that is out of use is removed by `pibuild node remove {{ $labels.node "
            "}}`.",
        ),
        Alert(
            name="NodeUnknown",
            severity="info",
            expr=f"edge:heartbeat:at unless {KNOWN}",
            tolerance="10m",
            summary="{{ $labels.node }} sends heartbeats and is not in the inventory.",
            meaning="A node was removed from cluster.yaml and still runs, or these rules are older than the inventory.",
            action="Render the rules again (`pibuild monitoring diff`), or switch {{ $labels.node }} off.",
        ),
        Alert(
            name="NodeFlapping",
            severity="info",
            expr="resets(edge:node:missing[1h]) >= 3",
            lasting="30m",
            summary="{{ $labels.node }} comes and goes.",
            meaning="Three times within an hour it was silent for two minutes or more, and back. It never holds back "
            "NodeDown: a node that flaps and then dies is reported.",
            action="Its link (signal, cable, switch port) and its power: `journalctl -b -1 -e` on {{ $labels.node }} "
            "says whether it restarts.",
        ),
    )

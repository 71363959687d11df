"""The monitoring server's files: the store and what it reads, the rules, and Alertmanager's routes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import InputError, Problem
from builder.inventory.nodes import Inventory, Node
from builder.monitoring.forwarder import scrape_jobs
from builder.monitoring.routes import routes
from builder.monitoring.rules import all_alerts, rule_groups
from builder.services.files import CONFIG, ConfigFile, filled

if TYPE_CHECKING:
    from builder.inventory.schema import Monitoring

RULES = CONFIG / "monitoring/rules.yml"
SCRAPE = CONFIG / "monitoring/scrape.yml"
PROMETHEUS = PurePosixPath("/etc/prometheus/prometheus.yml")
ALERTMANAGER = PurePosixPath("/etc/prometheus/alertmanager.yml")
VMALERT = PurePosixPath("/etc/systemd/system/vmalert.service")
_DEFAULTS = PurePosixPath("/etc/default")
PORTS = {"victoria-metrics": 8428, "prometheus": 9090, "vmalert": 8880, "alertmanager": 9093}  # on the machine alone
_OLDEST = "7d"  # how late a sample may come: a forwarder's queue, which Prometheus takes only when told


def monitoring_of(inventory: Inventory) -> Monitoring:
    """Return the settings. Raises InputError where there are none."""
    monitoring = inventory.cluster.monitoring
    if monitoring is None:
        message = f"{inventory.path}: nothing says whom alerts reach: cluster.monitoring"
        hint = "cluster: {monitoring: {email: {to: [ADDRESS], sender: ADDRESS, smarthost: HOST:587}}}"
        raise InputError(Problem(message=message, hint=hint))
    return monitoring


def watching(inventory: Inventory, role: str | None = None) -> Node:
    """Return the node that watches: the one of a role, or that cluster.monitoring.server names, or the one master.

    Raises InputError where that is none, or several.
    """
    named = monitoring_of(inventory).server
    if role is None and named is not None:
        return inventory.node(named)
    role = role or "master"
    found = [node for node in inventory.nodes if node.role == role]
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} nodes have" if found else "no node has"
    message = f"{inventory.path}: {several} the role {role}: which one watches the cluster?"
    raise InputError(Problem(message=message, hint="cluster: {monitoring: {server: NAME}}"))


def render(inventory: Inventory, server: Node) -> tuple[ConfigFile, ...]:
    """Return every file of the monitoring server, sorted by path. Raises InputError."""
    monitoring = monitoring_of(inventory)
    _check_forwarders(inventory, server, monitoring)
    values = {"monitoring": monitoring, "ports": PORTS, "rules": RULES, "scrape": SCRAPE}
    files = [
        _yaml(inventory, RULES, rule_groups(inventory, monitoring)),
        _yaml(inventory, ALERTMANAGER, routes(monitoring, all_alerts(monitoring))),
        ConfigFile(
            path=_DEFAULTS / "prometheus-alertmanager", text=filled("alertmanager.default.j2", inventory, **values)
        ),
        ConfigFile(
            path=_DEFAULTS / monitoring.store, text=filled(f"{monitoring.store}.default.j2", inventory, **values)
        ),
    ]
    scraped: dict[str, object] = {
        "scrape_configs": [*scrape_jobs(inventory, server), *_own_jobs(server, monitoring.store)]
    }
    if monitoring.store == "prometheus":
        files.append(_yaml(inventory, PROMETHEUS, {**_prometheus(inventory), **scraped}))
    else:
        files.append(_yaml(inventory, SCRAPE, scraped))
        files.append(ConfigFile(path=VMALERT, text=filled("vmalert.service.j2", inventory, **values)))
    return tuple(sorted(files, key=lambda file: file.path))


def _check_forwarders(inventory: Inventory, server: Node, monitoring: Monitoring) -> None:
    """Raise InputError for forwarders that speak another store's protocol to this one."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - as few starts as possible pay for it

    here = {server.name, *server.aliases, str(server.address)}
    for node in inventory.nodes:
        if urlsplit(node.metrics.url or "").hostname in here and node.metrics.store != monitoring.store:
            message = f"node {node.name} writes as to {node.metrics.store}, but {server.name} runs {monitoring.store}"
            hint = f"defaults: {{metrics: {{store: {monitoring.store}}}}}, or cluster.monitoring.store"
            raise InputError(Problem(message=message, mark=node.mark, hint=hint))


def _own_jobs(server: Node, store: str) -> list[dict[str, object]]:
    """Return the jobs for the monitoring itself."""
    jobs = [store, "alertmanager", *(["vmalert"] if store == "victoria-metrics" else [])]
    labels = {"instance": server.name}
    return [
        {
            "job_name": job,
            "scrape_interval": "30s",
            "static_configs": [{"targets": [f"127.0.0.1:{PORTS[job]}"], "labels": labels}],
        }
        for job in jobs
    ]


def _prometheus(inventory: Inventory) -> dict[str, object]:
    """Return what Prometheus is told beside what it reads."""
    alertmanager = {"static_configs": [{"targets": [f"127.0.0.1:{PORTS['alertmanager']}"]}]}
    return {
        "global": {"external_labels": {"cluster": inventory.cluster.name}},
        "storage": {"tsdb": {"out_of_order_time_window": _OLDEST}},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [alertmanager]},
    }


def _yaml(inventory: Inventory, path: PurePosixPath, content: dict[str, object]) -> ConfigFile:
    import yaml  # noqa: PLC0415 - what renders other files does without

    head = f"# Written by pibuild from the inventory of cluster {inventory.cluster.name}; changes belong there.\n"
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # of ten thousand nodes in a second, by libyaml
    text = yaml.dump(content, Dumper=dumper, sort_keys=False, width=1000, allow_unicode=True)
    return ConfigFile(path=path, text=f"{head}{text}")

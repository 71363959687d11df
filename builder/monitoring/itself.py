"""Alerts about the monitoring itself: queues, store, rules, and the way alerts go.

Counters are judged by `rate`: MetricsQL's `increase` counts a series that is new as one that grew from nothing.
"""

from __future__ import annotations

from builder.monitoring.alert import Alert


def own_alerts(store: str) -> tuple[Alert, ...]:
    """Return the alerts about the parts of the monitoring. `store` is `cluster.monitoring.store`."""
    return (*_forwarders(), *_store(store), *_rules(store))


def _forwarders() -> tuple[Alert, ...]:
    return (
        Alert(
            name="QueueGrowing",
            severity="ticket",
            expr="sum by (site, node) (vm_persistentqueue_bytes_pending) > 16777216"
            " and sum by (site, node) (deriv(vm_persistentqueue_bytes_pending[30m])) > 0",
            tolerance="15m",
            summary="The forwarder of {{ $labels.node }} has {{ $value | humanize1024 }}B that it cannot send.",
            meaning="The queue on the node's disk grows while its heartbeats arrive: the uplink is too slow, or the "
            "store refuses what is sent.",
            action="`journalctl -u vmagent -e` on {{ $labels.node }}; `metrics.rate` and `metrics.interval` of the "
            "node.",
        ),
        Alert(
            name="MetricsLost",
            severity="ticket",
            expr="sum by (site, node) (rate(vm_persistentqueue_bytes_dropped_total[1d])) > 0"
            " or sum by (site, node) (rate(vmagent_remotewrite_packets_dropped_total[1d])) > 0",
            summary="The forwarder of {{ $labels.node }} has dropped samples.",
            meaning="Its queue was full for longer than it holds, or the store refused samples for good.",
            action="`journalctl -u vmagent -e` on {{ $labels.node }}. What is gone is gone; find out why the store "
            "was away.",
        ),
    )


def _store(store: str) -> tuple[Alert, ...]:
    prometheus = store == "prometheus"
    refused = "rate(prometheus_tsdb_wal_writes_failed_total[15m]) > 0" if prometheus else "vm_storage_is_read_only == 1"
    ignored = "prometheus_tsdb_too_old_samples_total" if prometheus else 'vm_rows_ignored_total{reason!="nan_value"}'
    return (
        Alert(
            name="MonitoringDown",
            severity="page",
            expr='min by (job) (up{job=~"victoria-metrics|vmalert|prometheus|alertmanager"}) == 0',
            tolerance="5m",
            summary="{{ $labels.job }} on the monitoring server does not answer.",
            meaning="A part of the monitoring is down. When it is the one that evaluates or sends, nobody is told but "
            "by the receiver outside (Watchdog).",
            action="`systemctl status {{ $labels.job }}` on the monitoring server (Alertmanager's unit is "
            "prometheus-alertmanager), `journalctl -e`.",
        ),
        Alert(
            name="StoreNotWritable",
            severity="page",
            expr=f"max by (job) ({refused})",
            tolerance="2m",
            summary="The store of metrics cannot write.",
            meaning="Its disk is full or read-only. Forwarders keep what they cannot send; what the store reads by "
            "itself is lost.",
            action="`df -h` and `dmesg` on the monitoring server; make room, or shorten "
            "`cluster.monitoring.retention`.",
        ),
        Alert(
            name="SamplesRefused",
            severity="ticket",
            expr=f"sum by (job) (rate({ignored}[1h])) > 0",
            tolerance="15m",
            summary="The store refuses samples.",
            meaning="They are of another time than it takes: a node's clock is wrong, or a backlog is older than the "
            "store keeps.",
            action="Is there a ClockWrong? `journalctl -e` of the store says whose samples they are.",
        ),
    )


def _rules(store: str) -> tuple[Alert, ...]:
    prometheus = store == "prometheus"
    failed = (
        "sum by (job) (rate(prometheus_rule_evaluation_failures_total[15m])) > 0"
        " or sum by (job) (rate(prometheus_rule_group_iterations_missed_total[15m])) > 0"
        if prometheus
        else "sum by (job) (rate(vmalert_recording_rules_errors_total[15m])) > 0"
        " or sum by (job) (rate(vmalert_alerting_rules_errors_total[15m])) > 0"
        " or sum by (job) (rate(vmalert_iteration_missed_total[15m])) > 0"
    )
    unsent = "prometheus_notifications_errors_total" if prometheus else "vmalert_alerts_send_errors_total"
    return (
        Alert(
            name="RulesFailing",
            severity="page",
            expr=failed,
            tolerance="5m",
            summary="Rules are not evaluated, or too late.",
            meaning="An alert may be missing because of it.",
            action="`journalctl -u vmalert -u prometheus -e` on the monitoring server; its load (`uptime`).",
        ),
        Alert(
            name="AlertsNotSent",
            severity="page",
            expr="sum by (integration) (rate(alertmanager_notifications_failed_total[15m])) > 0"
            f" or sum by (job) (rate({unsent}[15m])) > 0",
            tolerance="5m",
            summary="Alerts do not get out: {{ $labels.integration }}{{ $labels.job }}.",
            meaning="Alertmanager cannot reach a receiver, or cannot be reached itself. The other receivers still "
            "work.",
            action="`journalctl -u prometheus-alertmanager -e`: which receiver, and what does it answer? Addresses and "
            "passwords are in the files that `cluster.monitoring` names; can the user prometheus read them?",
        ),
    )

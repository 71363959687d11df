"""Metrics that are there to be judged, by who produces them; `tests/system/test_alert_rules.py` asks the real programs.

The collectors' own (`edge_…`) stand in the overlays. What a program counts only once something has happened is not in
its answer before; it stands here all the same, and in its binary.
"""

from __future__ import annotations

PRODUCED = {
    "node_exporter": (
        "node_filesystem_avail_bytes",
        "node_filesystem_readonly",
        "node_filesystem_size_bytes",
        "node_hwmon_in_lcrit_alarm_volts",
        "node_hwmon_temp_celsius",
        "node_thermal_zone_temp",
        "node_timex_sync_status",
    ),
    "vmagent": (
        "vm_persistentqueue_bytes_dropped_total",
        "vm_persistentqueue_bytes_pending",
        "vmagent_remotewrite_packets_dropped_total",
    ),
    "victoria-metrics": ("vm_rows_ignored_total", "vm_storage_is_read_only"),
    "vmalert": (
        "vmalert_alerting_rules_errors_total",
        "vmalert_alerts_send_errors_total",
        "vmalert_iteration_missed_total",
        "vmalert_recording_rules_errors_total",
    ),
    "alertmanager": ("alertmanager_notifications_failed_total",),
    "prometheus": (
        "prometheus_notifications_errors_total",
        "prometheus_rule_evaluation_failures_total",
        "prometheus_rule_group_iterations_missed_total",
        "prometheus_tsdb_too_old_samples_total",
        "prometheus_tsdb_wal_writes_failed_total",
    ),
    "every scrape": ("up",),
}

"""Alerts about nodes that are there: the board, the disk, the clock, what they mount, back up and fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.monitoring.alert import Alert
from builder.monitoring.presence import HERE

if TYPE_CHECKING:
    from builder.inventory.schema import Limits

_DISKS = 'fstype=~"ext4|btrfs|xfs|f2fs"'  # an NFS root is full when its server's disk is, which tells by itself
_PLACE = "by (site, node, mountpoint)"


def health_alerts(limits: Limits) -> tuple[Alert, ...]:
    """Return the alerts about single nodes."""
    return (*_board(limits), *_system(limits), *_disk(limits), *_backup(limits), *_models(), *_pending())


def _board(limits: Limits) -> tuple[Alert, ...]:
    since = 'max by (site, node) (edge_throttled{when="since_boot",flag="under_voltage"}'
    return (
        Alert(
            name="UnderVoltage",
            severity="ticket",
            expr=f"({since}) == 1 unless on (site, node) {since} offset 1h) == 1)"
            ' or max by (site, node) (max_over_time(edge_throttled{when="now",flag="under_voltage"}[5m])) == 1'
            " or max by (site, node) (max_over_time(node_hwmon_in_lcrit_alarm_volts[15m])) == 1",
            summary="{{ $labels.node }} has had too little voltage.",
            meaning="The firmware or the kernel saw the supply below 4.63 V within the last hour: writes may be lost, "
            "the board may restart. It ends an hour after the last dip that the firmware counts.",
            action="Supply, cable and PoE budget of {{ $labels.node }}; unplug USB devices that it feeds.",
        ),
        Alert(
            name="Throttled",
            severity="ticket",
            expr='max by (site, node, flag) (max_over_time(edge_throttled{when="now",flag!="under_voltage"}[5m])) == 1',
            tolerance="10m",
            summary="{{ $labels.node }} is held back by its firmware: {{ $labels.flag }}.",
            meaning="The firmware lowers the clock because of heat or current.",
            action="Cooling and supply of {{ $labels.node }}; `vcgencmd get_throttled` on it.",
        ),
        Alert(
            name="TemperatureHigh",
            severity="ticket",
            expr=f"max by (site, node) (node_thermal_zone_temp) > {limits.temperature}"
            f" or max by (site, node) (node_hwmon_temp_celsius) > {limits.temperature}",
            tolerance="10m",
            summary="{{ $labels.node }} is at {{ $value }} °C.",
            meaning="Hotter than `limits.temperature` for ten minutes. From 85 °C on a Pi is throttled.",
            action="Fan, heat sink and the air around {{ $labels.node }}; then what it computes (`top`).",
        ),
    )


def _system(limits: Limits) -> tuple[Alert, ...]:
    unset = "max by (site, node) (edge_clock_synchronized) == 0"
    return (
        Alert(
            name="RootReadOnly",
            severity="page",
            expr="max by (site, node) (edge_root_readonly) == 1",
            tolerance="2m",
            summary="The root of {{ $labels.node }} is read-only.",
            meaning="The kernel found an error in the root's file system and stopped writing, or the root was mounted "
            "so. Nothing that the node does is kept.",
            action="`dmesg` on {{ $labels.node }}. A disk: replace the card. An NFS root: `sudo pibuild services "
            "check` on the login node, then restart the node.",
        ),
        Alert(
            name="ClockWrong",
            severity="ticket",
            expr=f"max by (site, node) (abs(edge_clock_offset_seconds)) > {limits.clock_offset:g}"
            " or max by (site, node) (edge_heartbeat_timestamp_seconds) > time() + 30"
            f" or ({unset} and on (site, node) max by (site, node) (node_timex_sync_status) == 0)",
            tolerance="10m",
            summary="The clock of {{ $labels.node }} is off or is set by nobody.",
            meaning="Certificates, backups and metrics go by the clock. Boards without a battery start in the past "
            "and need a time server.",
            action="`timedatectl timesync-status` on {{ $labels.node }}: does it reach a server (`cluster.ntp`)? "
            "`sudo systemctl restart systemd-timesyncd`.",
        ),
        Alert(
            name="NfsNotAnswering",
            severity="page",
            expr="min by (site, node, mountpoint) (edge_nfs_mount_ok) == 0",
            tolerance="5m",
            summary="{{ $labels.mountpoint }} of {{ $labels.node }}, an NFS mount, does not answer.",
            meaning="The node asked its NFS server and had no answer within four seconds, for five minutes. Programs "
            "that use the mount hang.",
            action="On the NFS server: `sudo pibuild services check` (the login node), `systemctl status nfs-server`, "
            "its disk. The mount recovers by itself when the server answers.",
        ),
    )


def _disk(limits: Limits) -> tuple[Alert, ...]:
    free = f"node_filesystem_avail_bytes{{{_DISKS}}} / node_filesystem_size_bytes"
    writable = f"on (site, node, mountpoint) max {_PLACE} (node_filesystem_readonly) == 0"
    return (
        Alert(
            name="DiskFull",
            severity="ticket",
            expr=f"min {_PLACE} ({free}) < {limits.disk_free / 100:g} and {writable}",
            tolerance="15m",
            summary="{{ $labels.mountpoint }} of {{ $labels.node }} has {{ $value | humanizePercentage }} left.",
            meaning="Less is free than `limits.disk_free` says.",
            action="`sudo du -xh --max-depth=2 {{ $labels.mountpoint }} | sort -h | tail` on {{ $labels.node }}. On "
            "the login node: `sudo pibuild node gc`, which removes roots and generations that nobody uses.",
        ),
        Alert(
            name="DiskFillsSoon",
            severity="ticket",
            expr=f"min {_PLACE} (predict_linear(node_filesystem_avail_bytes{{{_DISKS}}}[6h], 86400)) < 0"
            f" and on (site, node, mountpoint) min {_PLACE}"
            " (node_filesystem_avail_bytes / node_filesystem_size_bytes) < 0.3",
            tolerance="1h",
            summary="{{ $labels.mountpoint }} of {{ $labels.node }} is full within a day, if it goes on like this.",
            meaning="As it filled in the last six hours, nothing is left within a day, and less than 30 % is left now.",
            action="What grows? `sudo find {{ $labels.mountpoint }} -xdev -mmin -360 -size +10M -ls` on {{ "
            "$labels.node }}.",
        ),
    )


def _backup(limits: Limits) -> tuple[Alert, ...]:
    last = "max by (site, node) (max_over_time(edge_backup_last_success_timestamp_seconds[2h]))"
    wanted = 'on (site, node) edge_node_info{backup="yes"}'
    look = "`journalctl -u pibuild-backup -e` on {{ $labels.node }}; docs/backups.md says what exit codes mean."
    return (
        Alert(
            name="BackupMissing",
            severity="ticket",
            expr=f"time() - {last} > {limits.backup_age * 3600} and {wanted}",
            tolerance="15m",
            summary="{{ $labels.node }} has had no complete backup for {{ $value | humanizeDuration }}.",
            meaning="The last complete backup is older than `limits.backup_age` says.",
            action=look,
        ),
        Alert(
            name="BackupNever",
            severity="ticket",
            expr=f'(max by (site, node) (edge_node_info{{backup="yes"}}) unless on (site, node) {last}) and {HERE}',
            tolerance="26h",
            summary="{{ $labels.node }} is to be backed up and never was.",
            meaning="The inventory says `backup: true`, the node is there, and for more than a day it tells of no "
            "backup.",
            action="Has its image the part `backup`, was it exploded since? " + look,
        ),
        Alert(
            name="BackupFailed",
            severity="ticket",
            expr="max by (site, node) (edge_backup_last_exit_code) != 0",
            tolerance="5m",
            summary="The last backup of {{ $labels.node }} ended with exit code {{ $value }}.",
            meaning="3: files could not be read; 10: there is no repository; 11: it is locked; 12: a wrong password; "
            "124: no answer in time.",
            action=look,
        ),
        Alert(
            name="BackupUpkeepFailed",
            severity="ticket",
            expr="max by (site, node) (edge_backup_upkeep_exit_code) != 0"
            " or max by (site, node) (edge_backup_gateway_exit_code) != 0"
            " or time() - max by (site, node) (edge_backup_gateway_last_run_timestamp_seconds) > 259200",
            tolerance="5m",
            summary="Backups that {{ $labels.node }} keeps are not forgotten, pruned and checked as they should be.",
            meaning="The daily upkeep failed, or has not ended for three days: backups may be damaged, or the disk "
            "fills.",
            action="`journalctl -u pibuild-backup-upkeep -e` on {{ $labels.node }}; docs/backups.md.",
        ),
    )


def _models() -> tuple[Alert, ...]:
    have = "max by (site, node, model, version) (edge_model_info)"
    return (
        Alert(
            name="ModelBehind",
            severity="ticket",
            expr=f"(edge:model_expected:info unless on (site, node, model, version) {have}) and {HERE}",
            tolerance="30h",
            summary="{{ $labels.node }} does not have {{ $labels.model }} {{ $labels.version }}.",
            meaning="The inventory gives the node this version, and for more than a day, a staging window included, "
            "it has had another or none.",
            action="`pibuild models list`, `journalctl -u pibuild-models -e` on {{ $labels.node }}; was the node "
            "exploded since the version changed?",
        ),
        Alert(
            name="ModelFetchFailing",
            severity="ticket",
            expr="max by (site, node, model) (increase(edge_model_failures_total[1d])) >= 3"
            " and on (site, node, model) edge_model_up_to_date == 0",
            summary="{{ $labels.node }} fails to fetch {{ $labels.model }}.",
            meaning="Three runs within a day failed, and the wanted version is not there.",
            action="`journalctl -u pibuild-models -e` on {{ $labels.node }}; `pibuild models verify` on the store; "
            "docs/models.md.",
        ),
    )


def _pending() -> tuple[Alert, ...]:
    return (
        Alert(
            name="RebootPending",
            severity="info",
            expr="max by (site, node) (edge_kernel_pending) == 1 or max by (site, node) (edge_reboot_required) == 1",
            tolerance="7d",
            summary="{{ $labels.node }} waits for a restart.",
            meaning="A newer kernel is installed than the one that runs, or a package asks for a restart.",
            action="`sudo systemctl reboot` on {{ $labels.node }}, when its work allows.",
        ),
        Alert(
            name="SecurityUpdatesPending",
            severity="info",
            expr='max by (site, node) (edge_apt_upgrades_pending{archive="security"}) > 0',
            tolerance="3d",
            summary="{{ $labels.node }} lacks {{ $value }} security updates.",
            meaning="The package lists on the node have newer packages of the security archive.",
            action="Build the image again and explode it; a node with its own disk: `sudo apt-get upgrade`.",
        ),
    )

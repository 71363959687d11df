"""What alerts are held to: series over time, and what fires when. In promtool's notation of values, `0+30x20 _x5 7x3`.

A scenario of one rule gives it all that it reads, records included. One of presence has the recording rules under it,
and the inventory below. Times keep clear of the moments at which things change, since vmalert sees a record one
evaluation later than Prometheus does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

INVENTORY = """\
cluster:
  name: test
  subnet: 10.0.0.0/24
  gateway: 10.0.0.1
  servers: {login: {node: gate}}
  backup: {repository: "rest:http://10.0.0.1:8000"}
  models: {store: "http://10.0.0.1/models"}
  monitoring: {server: a3, store: STORE, webhook: {url: "http://127.0.0.1:9/"}, deadman: {url: "http://127.0.0.1:9/"}}
defaults: {site: a}
nodes:
  - {name: gate, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login, boot: local}
  - {name: a1, serial: "00000002", mac: "02:00:00:00:00:02", address: 10.0.0.2, role: worker, backup: true}
  - {name: a2, serial: "00000003", mac: "02:00:00:00:00:03", address: 10.0.0.3, role: worker, models: {jen: "2"}}
  - {name: a3, serial: "00000004", mac: "02:00:00:00:00:04", address: 10.0.0.4, role: master}
  - {name: a4, serial: "00000005", mac: "02:00:00:00:00:05", address: 10.0.0.5, role: worker}
  - {name: b1, serial: "00000006", mac: "02:00:00:00:00:06", address: 10.0.0.6, role: worker, site: b}
  - {name: b2, serial: "00000007", mac: "02:00:00:00:00:07", address: 10.0.0.7, role: worker, site: b}
  - {name: b3, serial: "00000008", mac: "02:00:00:00:00:08", address: 10.0.0.8, role: worker, site: b}
  - {name: c1, serial: "00000009", mac: "02:00:00:00:00:09", address: 10.0.0.9, role: worker, site: c}
  - {name: off, serial: "0000000a", mac: "02:00:00:00:00:0a", address: 10.0.0.10, role: worker, metrics: {mode: off}}
"""
NODES = {"gate": "a", "a1": "a", "a2": "a", "a3": "a", "a4": "a", "b1": "b", "b2": "b", "b3": "b", "c1": "c"}
BEAT = "edge_heartbeat_timestamp_seconds"

Fires = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Series, and at each time the labels of what fires, but for severity and cluster, which are the rule's."""

    alert: str
    series: Mapping[str, str]
    fires: Mapping[str, Fires]
    interval: str = "1m"
    severity: str = "ticket"
    chain: bool = False  # with the records of presence
    stores: Sequence[str] = field(default=("victoria-metrics", "prometheus"))


def of(node: str, **labels: str) -> dict[str, str]:
    """Return the labels of an alert about a node; its site is the first letter of its name."""
    return {"site": NODES.get(node, node[0]), "node": node, **labels}


def one(name: str, node: str = "", **labels: str) -> str:
    """Return a series."""
    every = {**(of(node) if node else {}), **labels}
    return _series(name, every)


def _series(name: str, labels: Mapping[str, str]) -> str:
    written = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{written}}}"


def _beats(default: str, *, known: bool = True, **changed: str) -> dict[str, str]:
    """Return heartbeats of every node of the inventory, some of them others; with `known` the inventory as series."""
    beats = {one(BEAT, node): changed.get(node, default) for node in NODES if changed.get(node, default)}
    roles = {"gate": "login", "a3": "master"}
    info = {one("edge_node_info", node, role=roles.get(node, "worker")): "1x400" for node in NODES}
    return {**beats, **(info if known else {})}


_STEADY = "0+30x400"  # three hours and more, at the interval of 30 s
_DEAD = "0+30x40 _x360"  # the last beat at 20 minutes
_SILENT = "0+30x40 _x60 3030+30x300"  # from 20 to 50 minutes
_VM, _PROM = ("victoria-metrics",), ("prometheus",)

# With the inventory's own records. Of site a: silent for half an hour; none ever; a clock an hour ahead, and it dies.
# Of site b: nine minutes; late. Of c: its time stands still. x9 is in no inventory.
SINGLE = {
    **_beats(
        _STEADY,
        known=False,
        a1=_SILENT,
        a2="",
        a4="3600+30x40 _x360",
        b1="0+30x40 _x17 1740+30x300",
        b3="_x100 3000+30x300",
        c1="0+30x40 1200x360",
    ),
    one(BEAT, "x9"): "0+30x60 _x300",
}
# 3 of 5 of site a, half an hour the login node among them; 2 of 3 of b and both of d for half an hour; the one of c.
WIDE = {
    **_beats(_STEADY, a1=_DEAD, a2=_DEAD, gate=_SILENT, b1=_SILENT, b2=_SILENT, c1=_DEAD),
    **{one(BEAT, node): _SILENT for node in ("d1", "d2")},
    **{one("edge_node_info", node, role="worker"): "1x400" for node in ("d1", "d2")},
}
_B_AND_D = [{"site": "b"}, {"site": "d"}]
ALL = _beats(_DEAD, c1="0+30x60 1800x20 2430+30x100")  # all at 20 minutes, the last at 30; one is back at 40

PRESENCE = (
    Scenario(
        alert="NodeDown",
        interval="30s",
        chain=True,
        series=SINGLE,
        fires={
            "29m": [],
            "31m": [],
            "32m15s": [of("a1"), of("c1")],
            "39m": [of("a1"), of("a4"), of("c1")],
            "49m": [of("a1"), of("a4"), of("c1")],
            "53m": [of("a4"), of("c1")],
        },
    ),
    Scenario(
        alert="NodeNeverSeen",
        interval="30s",
        chain=True,
        series=SINGLE,
        fires={
            "29m": [],
            "32m": [of("a2", role="worker"), of("b3", role="worker")],
            "53m": [of("a2", role="worker")],
        },
    ),
    Scenario(
        alert="NodeUnknown",
        severity="info",
        interval="30s",
        chain=True,
        series=SINGLE,
        fires={"9m": [], "12m": [of("x9")], "29m": [of("x9")], "37m": []},
    ),
    Scenario(
        alert="LoginDown",
        severity="page",
        interval="30s",
        chain=True,
        series=WIDE,
        fires={"25m": [], "28m30s": [of("gate", role="login")], "49m": [of("gate", role="login")], "53m": []},
    ),
    Scenario(
        alert="SiteDown",
        severity="page",
        interval="30s",
        chain=True,
        series=WIDE,
        fires={"24m": [], "27m": _B_AND_D, "49m": _B_AND_D, "54m30s": _B_AND_D, "58m": []},
    ),
    Scenario(  # the login node has an alert of its own
        alert="NodeDown",
        interval="30s",
        chain=True,
        series=WIDE,
        fires={"30m": [], "40m": [of(node) for node in ("a1", "a2", "b1", "b2", "c1", "d1", "d2")]},
    ),
    Scenario(
        alert="NothingHeard",
        severity="page",
        interval="30s",
        chain=True,
        series=ALL,
        fires={"33m": [], "35m": [{}], "39m": [{}], "43m": []},
    ),
    Scenario(
        alert="Watchdog",
        severity="none",
        interval="30s",
        chain=True,
        series=ALL,
        fires={"1m": [{}], "31m": [{}], "34m": [], "39m": [], "43m": [{}]},
    ),
    Scenario(  # three times silent; twice. vmalert begins with all silent, which is an hour ago by then
        alert="NodeFlapping",
        severity="info",
        interval="30s",
        chain=True,
        series={
            one(BEAT, "a1"): "0+30x140 _x7 4440+30x3 _x7 4770+30x3 _x7 5100+30x300",
            one(BEAT, "a2"): "0+30x140 _x7 4440+30x3 _x7 4770+30x300",
            **{one("edge_node_info", node, role="worker"): "1x400" for node in ("a1", "a2")},
        },
        fires={"84m": [], "90m": [of("a1", role="worker")], "160m": [of("a1", role="worker")], "175m": []},
    ),
    Scenario(
        alert="Maintenance",
        severity="none",
        series={
            one("edge_maintenance_until_timestamp_seconds", "a1"): "3600x3 _x100",
            one("edge_maintenance_until_timestamp_seconds", "a2"): "28800x120",
        },
        fires={"59m": [of("a1")], "61m": [], "119m": [], "122m": [of("a2")]},
    ),
    Scenario(
        alert="Maintenance",
        severity="none",
        interval="30m",
        series={one("edge_maintenance_until_timestamp_seconds", "a1"): "30000x2 _x20"},
        fires={"130m": [], "160m": [of("a1")], "390m": [of("a1")], "470m": []},
    ),
)


def _throttled(node: str, flag: str, when: str) -> str:
    return one("edge_throttled", node, flag=flag, when=when)


def _disk(name: str, node: str, **labels: str) -> str:
    return one(f"node_filesystem_{name}", node, **{"mountpoint": "/", "fstype": "ext4", **labels})


def _disks(node: str, avail: str, readonly: int = 0, **labels: str) -> dict[str, str]:
    return {
        _disk("avail_bytes", node, **labels): avail,
        _disk("size_bytes", node, **labels): "1000x400",
        _disk("readonly", node, **labels): f"{readonly}x400",
    }


ROOT = {"mountpoint": "/"}

HEALTH = (
    Scenario(  # the firmware's memory; a node that is new with it set; another flag
        alert="UnderVoltage",
        interval="5m",
        series={
            _throttled("a1", "under_voltage", "since_boot"): "0x11 1x40",
            _throttled("a2", "under_voltage", "since_boot"): "1x60",
            _throttled("a3", "throttled", "since_boot"): "0x11 1x40",
            _throttled("a4", "under_voltage", "since_boot"): "0x11 1x40",
            _throttled("a4", "under_voltage", "now"): "1x1 0x50",
            _throttled("a4", "throttled", "since_boot"): "1x60",
        },
        fires={"50m": [of("a2")], "65m": [of("a1"), of("a4")], "110m": [of("a1"), of("a4")], "125m": []},
    ),
    Scenario(
        alert="UnderVoltage",
        series={
            _throttled("a1", "under_voltage", "now"): "0x5 1 0x40",
            _throttled("a2", "throttled", "now"): "1x60",
            one("node_hwmon_in_lcrit_alarm_volts", "a3", chip="c", sensor="in0"): "0x5 1 0x40",
        },
        fires={
            "5m": [],
            "7m": [of("a1"), of("a3")],
            "10m": [of("a1"), of("a3")],
            "12m": [of("a3")],
            "20m": [of("a3")],
            "22m": [],
        },
    ),
    Scenario(
        alert="Throttled",
        series={
            _throttled("a1", "throttled", "now"): "1x60 0x40",
            _throttled("a2", "under_voltage", "now"): "1x100",
            _throttled("a3", "throttled", "since_boot"): "1x100",
        },
        fires={"9m": [], "11m": [of("a1", flag="throttled")], "64m": [of("a1", flag="throttled")], "67m": []},
    ),
    Scenario(
        alert="TemperatureHigh",
        series={
            one("node_thermal_zone_temp", "a1", zone="0"): "81x30 60x40",
            one("node_thermal_zone_temp", "a2", zone="0"): "80x60",
            one("node_hwmon_temp_celsius", "a3", chip="c", sensor="temp1"): "81x60",
            one("node_hwmon_temp_celsius", "a4", chip="c", sensor="temp1"): "80x60",
        },
        fires={"9m": [], "11m": [of("a1"), of("a3")], "33m": [of("a3")]},
    ),
    Scenario(
        alert="RootReadOnly",
        severity="page",
        series={one("edge_root_readonly", "a1"): "1x20 0x20", one("edge_root_readonly", "a2"): "0x40"},
        fires={"1m": [], "3m": [of("a1")], "22m": []},
    ),
    Scenario(
        alert="ClockWrong",
        series={
            one("edge_clock_offset_seconds", "a1"): "-2.1x60 0x20",
            one("edge_clock_offset_seconds", "a2"): "1.9x80",
            one(BEAT, "a3"): "31+60x80",
            one(BEAT, "a4"): "29+60x80",
            one("edge_clock_synchronized", "b1"): "0x80",
            one("node_timex_sync_status", "b1"): "0x80",
            one("edge_clock_synchronized", "b2"): "0x80",
            one("node_timex_sync_status", "b2"): "1x80",
            one("edge_clock_synchronized", "b3"): "1x80",
            one("node_timex_sync_status", "b3"): "0x80",
        },
        fires={"9m": [], "11m": [of("a1"), of("a3"), of("b1")], "63m": [of("a3"), of("b1")]},
    ),
    Scenario(
        alert="NfsNotAnswering",
        severity="page",
        series={
            one("edge_nfs_mount_ok", "a1", mountpoint="/models"): "0x20 1x20",
            one("edge_nfs_mount_ok", "a1", mountpoint="/"): "1x40",
        },
        fires={"4m": [], "6m": [of("a1", mountpoint="/models")], "22m": []},
    ),
    Scenario(  # little; more; read-only, which is no place that fills; over NFS, whose server tells
        alert="DiskFull",
        series={
            **_disks("a1", "79x30 200x40"),
            **_disks("a2", "81x70"),
            **_disks("a3", "50x70", readonly=1),
            **_disks("a4", "50x70", fstype="nfs"),
        },
        fires={"14m": [], "16m": [of("a1", **ROOT)], "33m": []},
    ),
    Scenario(  # it fills; it is far from full; more than 30 % are left until 600 minutes; it filled once, and stays
        alert="DiskFillsSoon",
        interval="5m",
        series={
            **_disks("a1", "200-0.5x400"),
            **_disks("a2", "900-0.5x400"),
            **_disks("a3", "900-5x170"),
            **_disks("a4", "290x122 100x200"),
            **_disks("b1", "200-0.5x400", fstype="nfs"),
            **_disks("b2", "0.5x400"),
        },
        fires={
            "590m": [],
            "650m": [of("a1", **ROOT)],
            "705m": [of("a1", **ROOT), of("a3", **ROOT), of("a4", **ROOT)],
            "840m": [of("a1", **ROOT), of("a3", **ROOT), of("a4", **ROOT)],
            "990m": [of("a1", **ROOT)],
        },
    ),
    Scenario(
        alert="BackupMissing",
        interval="15m",
        series={
            one("edge_node_info", "a1", backup="yes"): "1x200",
            one("edge_node_info", "a2"): "1x200",
            one("edge_node_info", "a3", backup="yes"): "1x200",
            one("edge_backup_last_success_timestamp_seconds", "a1", job_name="system"): "0x152 _x40",
            one("edge_backup_last_success_timestamp_seconds", "a2", job_name="system"): "0x200",
            one("edge_backup_last_success_timestamp_seconds", "a3", job_name="system"): "0x149 134100x40",
        },
        fires={
            "36h15m": [],
            "36h45m": [of("a1"), of("a3")],
            "37h45m": [of("a1")],
            "39h45m": [of("a1")],
            "40h30m": [],
        },
    ),
    Scenario(
        alert="BackupMissing",
        series={
            one("edge_node_info", "a1", backup="yes"): "1x30",
            one("edge_backup_last_success_timestamp_seconds", "a1", job_name="system"): "-129600x30",
        },
        fires={"14m": [], "18m": [of("a1")]},
    ),
    Scenario(  # none ever; one that was made; a silent node; one that makes none; the last is two hours and more ago
        alert="BackupNever",
        interval="30m",
        series={
            **{one("edge_node_info", node, backup="yes"): "1x70" for node in ("a1", "a2", "a3", "b1")},
            one("edge_node_info", "a4"): "1x70",
            **{one("edge:node:missing", node, role="worker"): "0x70" for node in ("a1", "a2", "a4", "b1")},
            one("edge:node:missing", "a3", role="worker"): "1x70",
            one("edge_backup_last_success_timestamp_seconds", "a2"): "0x70",
            one("edge_backup_last_success_timestamp_seconds", "b1"): "0x2 _x70",
        },
        fires={"25h30m": [], "26h30m": [of("a1")], "28h30m": [of("a1")], "30h": [of("a1"), of("b1")]},
    ),
    Scenario(
        alert="BackupNever",
        interval="30m",
        series={
            one("edge_node_info", "a1", backup="yes"): "1x70",
            one("edge:node:missing", "a1", role="worker"): "0x70",
            one("edge_backup_last_success_timestamp_seconds", "a1"): "_x60 100000x9",
        },
        fires={"29h": [of("a1")], "31h": []},
    ),
    Scenario(
        alert="BackupFailed",
        series={
            one("edge_backup_last_exit_code", "a1", job_name="system"): "3x20 0x20",
            one("edge_backup_last_exit_code", "a2", job_name="system"): "0x40",
        },
        fires={"4m": [], "6m": [of("a1")], "22m": []},
    ),
    Scenario(
        alert="BackupUpkeepFailed",
        series={
            one("edge_backup_upkeep_exit_code", "a1", job_name="system"): "1x20 0x20",
            one("edge_backup_upkeep_exit_code", "a2", job_name="system"): "0x40",
            one("edge_backup_gateway_exit_code", "gate", repository="a1"): "65x40",
            one("edge_backup_gateway_exit_code", "a3", repository="a2"): "0x40",
        },
        fires={"4m": [], "6m": [of("a1"), of("gate")], "22m": [of("gate")]},
    ),
    Scenario(
        alert="BackupUpkeepFailed",
        interval="1h",
        series={one("edge_backup_gateway_last_run_timestamp_seconds", "gate"): "0x80 288000x9"},
        fires={"72h": [], "75h": [of("gate")], "82h": []},
    ),
    Scenario(
        alert="ModelBehind",
        interval="30m",
        series={
            **{
                one("edge:model_expected:info", node, model="jen", version="2"): "1x99"
                for node in ("a1", "a2", "a3", "a4")
            },
            **{one("edge:node:missing", node, role="worker"): "0x99" for node in ("a1", "a2", "a4")},
            one("edge:node:missing", "a3", role="worker"): "1x99",
            one("edge_model_info", "a1", model="jen", version="1", sha256="0"): "1x80 _x19",
            one("edge_model_info", "a1", model="jen", version="2", sha256="1"): "_x81 1x18",
            one("edge_model_info", "a2", model="jen", version="2", sha256="1"): "1x99",
            one("edge_model_info", "a4", model="other", version="2", sha256="1"): "1x99",
        },
        fires={
            "29h30m": [],
            "30h30m": [of("a1", model="jen", version="2"), of("a4", model="jen", version="2")],
            "42h": [of("a4", model="jen", version="2")],
        },
    ),
    Scenario(  # three; two; three, and it came after all
        alert="ModelFetchFailing",
        interval="1h",
        series={
            one("edge_model_failures_total", "a1", model="jen"): "0x30 1 2 3x70",
            one("edge_model_failures_total", "a2", model="jen"): "0x30 1 2x70",
            one("edge_model_failures_total", "a3", model="jen"): "0x30 1 2 3x70",
            **{one("edge_model_up_to_date", node, model="jen"): "0x100" for node in ("a1", "a2")},
            one("edge_model_up_to_date", "a3", model="jen"): "1x100",
        },
        fires={"32h": [], "34h": [of("a1", model="jen")], "53h": [of("a1", model="jen")], "58h": []},
    ),
    Scenario(
        alert="RebootPending",
        severity="info",
        interval="6h",
        series={
            one("edge_kernel_pending", "a1"): "1x30 0x10",
            one("edge_kernel_pending", "a2"): "0x40",
            one("edge_reboot_required", "a3"): "1x40",
            one("edge_reboot_required", "a4"): "0x40",
        },
        fires={"162h": [], "174h": [of("a1"), of("a3")], "198h": [of("a3")]},
    ),
    Scenario(
        alert="SecurityUpdatesPending",
        severity="info",
        interval="6h",
        series={
            one("edge_apt_upgrades_pending", "a1", archive="security"): "1x20 0x10",
            one("edge_apt_upgrades_pending", "a2", archive="security"): "0x30",
            one("edge_apt_upgrades_pending", "a3", archive="other"): "9x30",
        },
        fires={"66h": [], "78h": [of("a1")], "138h": []},
    ),
)


def _growing(metric: str, alert: str, severity: str, labels: Mapping[str, str], window: int, store: str) -> Scenario:
    """Return the scenario of a counter that grows once, by a rule that waits five minutes; `window` in minutes."""
    fires = {name: value for name, value in labels.items() if name in {"job", "integration"}}
    return Scenario(
        alert=alert,
        severity=severity,
        series={_series(metric, labels): "5x20 9x200", one(metric, job="calm", integration="calm"): "5x220"},
        fires={"20m": [], "23m": [], "28m": [fires], f"{19 + window}m": [fires], f"{23 + window}m": []},
        stores=(store,),
    )


ITSELF = (
    Scenario(  # it grows; it is full and does not; it grows and is small
        alert="QueueGrowing",
        series={
            one("vm_persistentqueue_bytes_pending", "a1", path="q"): "0+1000000x60 60000000x90",
            one("vm_persistentqueue_bytes_pending", "a2", path="q"): "20000000x150",
            one("vm_persistentqueue_bytes_pending", "a3", path="q"): "0+100000x150",
            one("vm_persistentqueue_bytes_pending", "a4", path="q"): "20000000+30x150",
        },
        fires={
            "14m": [],
            "31m": [of("a4")],
            "33m": [of("a1"), of("a4")],
            "85m": [of("a1"), of("a4")],
            "95m": [of("a4")],
        },
    ),
    Scenario(
        alert="MetricsLost",
        interval="1h",
        series={
            one("vm_persistentqueue_bytes_dropped_total", "a1", path="q"): "7x10 5000x60",
            one("vm_persistentqueue_bytes_dropped_total", "a2", path="q"): "7x70",
            one("vmagent_remotewrite_packets_dropped_total", "a3", url="1"): "7x10 9x60",
            one("vmagent_remotewrite_packets_dropped_total", "a4", url="1"): "7x70",
        },
        fires={"9h": [], "12h": [of("a1"), of("a3")], "33h": [of("a1"), of("a3")], "37h": []},
    ),
    Scenario(
        alert="MonitoringDown",
        severity="page",
        series={
            one("up", job="vmalert", instance="a3"): "0x20 1x20",
            one("up", job="alertmanager", instance="a3"): "1x40",
            one("up", job="node", instance="a1"): "0x40",
        },
        fires={"4m": [], "6m": [{"job": "vmalert"}], "22m": []},
    ),
    *(
        Scenario(
            alert="MonitoringDown",
            severity="page",
            series={one("up", job=job, instance="a3"): "0x40"},
            fires={"6m": [{"job": job}]},
        )
        for job in ("victoria-metrics", "prometheus", "alertmanager")
    ),
    Scenario(
        alert="StoreNotWritable",
        severity="page",
        stores=_VM,
        series={
            one("vm_storage_is_read_only", job="victoria-metrics", path="p"): "1x20 0x20",
            one("vm_storage_is_read_only", job="other", path="p"): "0x40",
        },
        fires={"1m": [], "3m": [{"job": "victoria-metrics"}], "22m": []},
    ),
    Scenario(
        alert="StoreNotWritable",
        severity="page",
        stores=_PROM,
        series={one("prometheus_tsdb_wal_writes_failed_total", job="prometheus"): "5x20 9x60"},
        fires={"20m": [], "22m": [], "24m": [{"job": "prometheus"}], "34m": [{"job": "prometheus"}], "38m": []},
    ),
    Scenario(
        alert="SamplesRefused",
        stores=_VM,
        series={
            one("vm_rows_ignored_total", job="store", reason="small_timestamp"): "5x20 9x100",
            one("vm_rows_ignored_total", job="other", reason="nan_value"): "5x20 9x100",
        },
        fires={"34m": [], "38m": [{"job": "store"}], "78m": [{"job": "store"}], "83m": []},
    ),
    Scenario(
        alert="SamplesRefused",
        stores=_PROM,
        series={one("prometheus_tsdb_too_old_samples_total", job="store", type="float"): "5x20 9x100"},
        fires={"34m": [], "38m": [{"job": "store"}], "78m": [{"job": "store"}], "83m": []},
    ),
    *(
        _growing(metric, "RulesFailing", "page", {"job": "ruler", "group": "g"}, 15, store)
        for store, metrics in {
            "victoria-metrics": (
                "vmalert_recording_rules_errors_total",
                "vmalert_alerting_rules_errors_total",
                "vmalert_iteration_missed_total",
            ),
            "prometheus": (
                "prometheus_rule_evaluation_failures_total",
                "prometheus_rule_group_iterations_missed_total",
            ),
        }.items()
        for metric in metrics
    ),
    *(
        _growing(
            "alertmanager_notifications_failed_total", "AlertsNotSent", "page", {"integration": "email"}, 15, store
        )
        for store in ("victoria-metrics", "prometheus")
    ),
    _growing("vmalert_alerts_send_errors_total", "AlertsNotSent", "page", {"job": "vmalert", "addr": "x"}, 15, _VM[0]),
    _growing("prometheus_notifications_errors_total", "AlertsNotSent", "page", {"job": "p"}, 15, _PROM[0]),
)
SCENARIOS = (*PRESENCE, *HEALTH, *ITSELF)

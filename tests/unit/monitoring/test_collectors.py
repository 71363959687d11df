"""The node's collectors, run on small trees that stand for a node; what they print is the text format of Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.run import run
from tests.unit_files import OVERLAYS, UNITS, lines

COLLECTORS = OVERLAYS / "metrics/usr/local/lib/pibuild"
SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[0-9.]+)')
RULES = (  # what alerts ask of the collectors, with the labels they compare
    'edge_throttled{flag="under_voltage",when="now"}',
    'edge_throttled{flag="under_voltage",when="since_boot"}',
    'edge_nfs_mount_ok{mountpoint="/models"}',
    "edge_clock_offset_seconds",
    "edge_root_readonly",
)

pytestmark = pytest.mark.tools


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A Pi 5 with an NFS root, throttled now and short of power since it started, a newer kernel waiting."""
    root = tmp_path / "root"
    files = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cmdline": "console=tty0 root=/dev/nfs nfsroot=192.168.2.1:/srv/netboot/roots/y3/0123-ab,vers=3,tcp rw\n",
        "proc/1/mounts": "rootfs / rootfs rw 0 0\n192.168.2.1:/srv/x / nfs rw,relatime,vers=3 0 0\n"
        "192.168.2.3:/m /models nfs4 ro 0 0\n",
        "proc/sys/kernel/osrelease": "6.12.9-arm64\n",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "10004\n",
        "var/lib/pibuild/booted": "",
        "var/lib/pibuild/backup.prom": "edge_backup_last_exit_code 0\n",
        "run/systemd/timesync/synchronized": "",
        "offset": "  Server: 192.168.2.1\n  Offset: -1min 2.5s\n  Delay: 1.2ms\n",
        "models/one": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("6.12.9-arm64", "6.12.10-arm64", "6.20.0-v8"):
        (root / "lib/modules" / name).mkdir(parents=True)
    (tmp_path / "textfile").mkdir()
    return root


def _collect(name: str, root: Path, **env: str) -> dict[str, str]:
    """Run a collector; return its samples by name and labels."""
    textfile = root.parent / "textfile"
    run([COLLECTORS / name], env={"TEXTFILE_DIRECTORY": str(textfile), "NODE_ROOT": str(root), **env})
    made = textfile / f"{name.removeprefix('node-')}.prom"
    assert made.stat().st_mode & 0o777 == 0o644
    return _read(made)


def _read(path: Path) -> dict[str, str]:
    samples, told = {}, set()
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            told.add(line.split()[2])
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] in told, f"{match[1]} has no HELP and TYPE"
        samples[f"{match[1]}{match[2] or ''}"] = match[4]
    return samples


def test_state_of_a_throttled_pi_with_an_nfs_root(node: Path) -> None:
    found = _collect("node-state", node)
    assert set(RULES) <= set(found)
    assert found['edge_throttled{flag="throttled",when="now"}'] == "1"
    assert found['edge_throttled{flag="under_voltage",when="now"}'] == "0"
    assert found['edge_throttled{flag="under_voltage",when="since_boot"}'] == "1"
    assert 'edge_board_info{model="Raspberry Pi 5 Model B Rev 1.0"}' in found
    assert 'edge_root_info{fstype="nfs",generation="0123-ab",server="192.168.2.1"}' in found
    assert found["edge_root_readonly"] == "0"
    assert found["edge_clock_offset_seconds"] == "-62.500000"
    assert found["edge_clock_synchronized"] == "1"
    assert found["edge_kernel_pending"] == "1"
    assert found['edge_nfs_mount_ok{mountpoint="/models"}'] == "1"


def test_state_of_a_machine_that_is_no_pi(node: Path) -> None:
    for name in (
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
        "proc/device-tree/model",
        "run/systemd/timesync/synchronized",
    ):
        (node / name).unlink()
    (node / "offset").write_text("")
    (node / "proc/cmdline").write_text("root=LABEL=rootfs ro\n")
    (node / "proc/1/mounts").write_text("/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n")
    (node / "proc/sys/kernel/osrelease").write_text("6.12.10-arm64\n")
    found = _collect("node-state", node)
    assert not [name for name in found if "throttled" in name or "offset" in name or "nfs" in name]
    assert found["edge_root_readonly"] == "1"
    assert 'edge_root_info{fstype="ext4",generation="",server=""}' in found
    assert found["edge_clock_synchronized"] == "0"
    assert found["edge_kernel_pending"] == "0"


@pytest.mark.parametrize(
    ("said", "seconds"), [("+1.234ms", 0.001234), ("-17us", -0.000017), ("+2min 3.5s", 123.5), ("0", 0.0)]
)
def test_the_clocks_offset_as_timedatectl_writes_it(node: Path, said: str, seconds: float) -> None:
    (node / "offset").write_text(f"       Offset: {said}\n")
    assert float(_collect("node-state", node)["edge_clock_offset_seconds"]) == pytest.approx(seconds, abs=1e-6)


def test_a_shared_root_is_named_by_the_nodes_own_directory(node: Path) -> None:
    words = "nfsroot=10.0.0.1:/srv/generations/0123/root,vers=3 ro pibuild.node=10.0.0.1:/srv/roots/y3/0123-cd"
    (node / "proc/cmdline").write_text(f"{words}\n")
    assert 'edge_root_info{fstype="nfs",generation="0123-cd",server="10.0.0.1"}' in _collect("node-state", node)


def test_kept_metrics_come_back_and_never_replace_another_programs(node: Path) -> None:
    textfile = node.parent / "textfile"
    _collect("node-state", node)
    assert (textfile / "backup.prom").read_text() == "edge_backup_last_exit_code 0\n"
    (node / "var/lib/pibuild/backup.prom").write_text("edge_backup_last_exit_code 3\n")
    _collect("node-state", node)
    assert (textfile / "backup.prom").read_text() == "edge_backup_last_exit_code 3\n"


def test_the_heartbeat_is_the_nodes_clock(node: Path) -> None:
    (before,) = _collect("node-heartbeat", node).values()
    assert 1_700_000_000 < int(before) < 10_000_000_000


def test_a_collector_that_fails_leaves_what_was_there(node: Path) -> None:
    textfile = node.parent / "textfile"
    (textfile / "state.prom").write_text("old 1\n")
    (node / "proc/1/mounts").unlink()
    ended = run(
        [COLLECTORS / "node-state"],
        env={"TEXTFILE_DIRECTORY": str(textfile), "NODE_ROOT": str(node)},
        check=False,
    )
    assert ended.returncode != 0
    assert [path.name for path in textfile.iterdir()] == ["state.prom"]
    assert (textfile / "state.prom").read_text() == "old 1\n"


def test_packages_without_lists_say_so(node: Path) -> None:
    (node / "lists").mkdir()
    assert _collect("node-packages", node, APT_LISTS=str(node / "lists")) == {"edge_apt_lists_timestamp_seconds": "0"}


def test_every_unit_of_the_part_is_confined() -> None:
    units = [*UNITS.glob("*.service"), *UNITS.glob("*.service.d/*.conf")]
    assert len(units) == 6
    for unit in units:
        for setting in ("NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "RestrictNamespaces"):
            assert lines(unit, setting), f"{unit.name} has no {setting}"
        assert lines(unit, "CapabilityBoundingSet") == [""]


def test_nothing_of_the_forwarder_starts_where_nobody_has_configured_it() -> None:
    for name in ("vmagent.service", "vmagent-queue.service", "var-lib-vmagent.mount"):
        assert lines(UNITS / name, "ConditionFileNotEmpty") == ["/etc/pibuild/vmagent.env"]
        assert lines(UNITS / name, "ConditionPathExists") == ["/etc/pibuild/secrets/remote-write.token"]

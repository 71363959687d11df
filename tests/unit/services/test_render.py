"""What the login and backup nodes are configured with: golden files, identical answers, and what an apply does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from builder.errors import HostError, InputError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.services import dnsmasq, fleet, nat
from builder.services.dhcp.isc_dhcp import DHCPD
from builder.services.dhcp.kea import KEA
from builder.services.dnsmasq import DNSMASQ, RESERVATIONS, checked
from builder.services.exports import exports
from builder.services.files import ServerRole, serving
from builder.services.fleet import FLEET_UNIT
from builder.services.names import HOSTS
from builder.services.nat import NAT, SYSCTL
from builder.services.nfs.ganesha import GANESHA
from builder.services.nfs.kernel import EXPORTS
from builder.services.offer import INFINITE, dynamic_pool, lease_seconds, pxe_option
from builder.services.packages import TOOLS, missing, packages, require_installed
from builder.services.render import render
from builder.services.servers import of_kind, programs, wanted
from builder.services.tell import halting, undoing
from builder.services.tftp.tftpd_hpa import TFTPD
from builder.services.tftp_view import BOOT_MOUNT, MOUNT
from builder.services.units import States, commands, retiring, wanted_units
from tests.clusters import DYNAMIC, LAB, variant

GOLDEN = Path(__file__).parents[1] / "golden" / "services"
VARIANTS = {
    "isc-dhcp": ("isc-dhcp", "tftpd-hpa", "kernel", ()),
    "dnsmasq": ("dnsmasq", "dnsmasq", "ganesha", (DYNAMIC,)),
    "kea": ("kea", "dnsmasq", "kernel", (DYNAMIC,)),
}
ROLES: tuple[ServerRole, ...] = ("login", "backup")
ISC, KEA_UNIT, DNSMASQ_UNIT = (of_kind("dhcp")[name].unit for name in ("isc-dhcp", "kea", "dnsmasq"))
TFTPD_UNIT, NFS = of_kind("tftp")["tftpd-hpa"].unit, of_kind("nfs")["kernel"].unit
NAT_SERVICE, FLEET = nat.SERVER.unit, fleet.SERVER.unit


def _inventory(tmp_path: Path, name: str = "isc-dhcp") -> Inventory:
    dhcp, tftp, nfs, changes = VARIANTS[name]
    return load_inventory(variant(tmp_path, dhcp=dhcp, tftp=tftp, nfs=nfs, changes=changes))


def _text(inventory: Inventory, path: object, role: ServerRole = "login") -> str:
    return next(file.text for file in render(inventory, role) if file.path == path)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_files_are_what_they_were(
    name: str, role: ServerRole, tmp_path: Path, golden: Callable[[Path, str], None]
) -> None:
    files = render(_inventory(tmp_path, name), role)
    golden(GOLDEN / f"{name}-{role}.txt", "\n".join(f"==> {file.path} <==\n{file.text}" for file in files))


@pytest.mark.parametrize("name", VARIANTS)
def test_rendering_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert render(_inventory(tmp_path, name), "login") == render(_inventory(tmp_path, name), "login")


@pytest.mark.parametrize(("name", "path"), [("isc-dhcp", DHCPD), ("dnsmasq", RESERVATIONS), ("kea", KEA)])
def test_login_and_backup_have_the_same_reservations_and_exports(name: str, path: object, tmp_path: Path) -> None:
    inventory = _inventory(tmp_path, name)
    lines = []
    for role in ROLES:
        text = _text(inventory, path, role)
        lines.append([line for line in text.splitlines() if "192.168.2." in line and "pool" not in line])
    assert lines[0] == lines[1]
    assert len(lines[0]) >= len(inventory.nodes)
    assert exports(serving(inventory, "login")) == exports(serving(inventory, "backup"))


def test_a_cluster_without_a_backup_server_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    text = LAB.read_text().replace("    backup: {node: pi_backup", "    # backup: {node: pi_backup")
    path.write_text(text)
    with pytest.raises(InputError, match="has no backup server"):
        render(load_inventory(path), "backup")


def test_login_and_backup_share_the_dynamic_pool_without_a_common_address(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path, "kea")
    login, backup = (dynamic_pool(serving(inventory, role)) for role in ROLES)
    assert login is not None
    assert backup is not None
    assert (str(login), str(backup)) == ("192.168.2.100-192.168.2.104", "192.168.2.105-192.168.2.109")


@pytest.mark.parametrize(
    ("written", "seconds"), [("infinite", INFINITE), ("12h", 43200), ("30s", 30), ("5m", 300), ("1d", 86400)]
)
def test_lease_times(written: str, seconds: int) -> None:
    assert lease_seconds(written) == seconds


def test_option_43_is_what_boards_were_recorded_to_boot_with() -> None:
    recorded = "0601030a04005058450914000011526173706265727279205069 20426f6f74ff".replace(" ", "")
    assert pxe_option().hex() == recorded


def test_kea_is_json_behind_its_first_line(tmp_path: Path) -> None:
    document = json.loads(_text(_inventory(tmp_path, "kea"), KEA).partition("\n")[2])["Dhcp4"]
    assert document["match-client-id"] is False
    reservations = {one["hostname"]: one for one in document["subnet4"][0]["reservations"]}
    assert reservations["yellow3"]["client-classes"] == ["netboot"]
    assert "client-classes" not in reservations["pi-backup"]


def test_a_node_is_exported_to_its_own_address_alone_under_ids_that_stay(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path)
    listed = exports(serving(inventory, "login"))
    assert {str(export.client) for export in listed} == {
        str(node.address) for node in inventory.nodes if node.boot == "network"
    }
    assert len({export.fsid for export in listed}) == len({export.id for export in listed}) == len(listed) == 34
    fewer = replace(inventory, nodes=tuple(node for node in inventory.nodes if node.name != "green1"))
    kept = exports(serving(fewer, "login"))
    assert set(kept) < set(listed)  # a node that leaves changes no other's
    assert "no_root_squash" in _text(inventory, EXPORTS)


def test_nodes_with_a_shared_root_read_the_generations(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path)
    inventory = replace(inventory, nodes=tuple(replace(node, root="shared") for node in inventory.nodes))
    first = _text(inventory, EXPORTS).splitlines()[3]
    assert first.startswith("/srv/netboot/generations 192.168.2.0/24(ro,")


def test_ganesha_cannot_number_the_exports_of_a_huge_subnet(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path, "dnsmasq")
    far = replace(inventory.nodes[3], address=IPv4Address("192.171.2.9"))
    with pytest.raises(InputError, match="cannot number the exports"):
        render(replace(inventory, nodes=(*inventory.nodes[:3], far)), "login")


def test_a_server_without_an_uplink_translates_no_addresses(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(LAB.read_text().replace(", uplink: wlan0", ""))
    paths = {file.path for file in render(load_inventory(path), "login")}
    assert not paths & {NAT, SYSCTL}


def test_names_written_with_an_underscore_are_aliases(tmp_path: Path) -> None:
    assert "192.168.2.2 mlops-master mlops_master\n" in _text(_inventory(tmp_path), HOSTS)


def test_dnsmasq_is_checked_with_its_reservations_in_it(tmp_path: Path) -> None:
    inventory = _inventory(tmp_path, "dnsmasq")
    text = checked(_text(inventory, DNSMASQ), _text(inventory, RESERVATIONS))
    assert "hostsfile" not in text
    assert text.count("\ndhcp-host=") == len(inventory.nodes)


def test_what_can_reload_is_not_restarted(tmp_path: Path) -> None:
    names = {unit.name for unit in (DNSMASQ_UNIT, NFS, NAT_SERVICE, KEA_UNIT, ISC, TFTPD_UNIT)}
    here = serving(_inventory(tmp_path), "login")
    wanted = States(active=frozenset(names - {KEA_UNIT.name}))
    assert commands(here, [HOSTS], wanted) == [("systemctl", "reload", "dnsmasq.service")]
    assert commands(here, [EXPORTS], wanted) == [("exportfs", "-ra")]
    assert commands(here, [NAT], wanted) == [("systemctl", "reload", "pibuild-nat.service")]
    assert commands(here, [DHCPD], wanted) == [("systemctl", "restart", "isc-dhcp-server.service")]
    assert commands(here, [TFTPD, SYSCTL], wanted) == [
        ("sysctl", "-q", "-p", str(SYSCTL)),
        ("systemctl", "restart", "tftpd-hpa.service"),
    ]
    assert commands(here, [], wanted) == []


def test_another_dhcp_server_takes_over_from_the_one_that_ran(tmp_path: Path) -> None:
    here = serving(_inventory(tmp_path, "kea"), "backup")
    others = {NFS.name, NAT_SERVICE.name, DNSMASQ_UNIT.name, MOUNT.name, BOOT_MOUNT.name}
    running = States(active=frozenset({ISC.name, *others}))
    assert retiring(here, [KEA], running) == [("systemctl", "disable", "--now", "isc-dhcp-server.service")]
    assert commands(here, [KEA], running) == [
        ("systemctl", "enable", "kea-dhcp4-server.service"),
        ("systemctl", "start", "kea-dhcp4-server.service"),
    ]
    assert commands(here, [KEA], States(active=frozenset({*running.active, KEA_UNIT.name}))) == [
        ("systemctl", "kill", "--signal=HUP", "kea-dhcp4-server.service")
    ]


def test_a_server_that_failed_unconfigured_is_started_all_the_same_and_from_now_on_at_boot(tmp_path: Path) -> None:
    here = serving(_inventory(tmp_path), "login")
    others = frozenset({NFS.name, NAT_SERVICE.name, DNSMASQ_UNIT.name, TFTPD_UNIT.name})
    states = States(active=others, failed=frozenset({ISC.name, KEA_UNIT.name}), disabled=frozenset({NFS.name}))
    assert retiring(here, [], states) == [("systemctl", "disable", "--now", "kea-dhcp4-server.service")]
    assert commands(here, [DHCPD], states) == [
        ("systemctl", "reset-failed", "isc-dhcp-server.service"),
        ("systemctl", "enable", "isc-dhcp-server.service"),
        ("systemctl", "start", "isc-dhcp-server.service"),
        ("systemctl", "enable", "nfs-server.service"),
    ]


def test_a_dnsmasq_of_somebody_elses_is_left_alone_and_ours_is_not(tmp_path: Path) -> None:
    path = variant(tmp_path, changes=[("  timezone:", "  dns: [192.0.2.53]\n  timezone:")])
    here = serving(load_inventory(path), "login")
    assert dnsmasq.NAMES not in wanted(here)
    states = States(active=frozenset({DNSMASQ_UNIT.name}))
    assert retiring(here, [DHCPD], states) == []
    assert retiring(here, [DNSMASQ], states) == [("systemctl", "disable", "--now", "dnsmasq.service")]
    orphan = States(active=frozenset({FLEET.name}), fileless=frozenset({FLEET.name}))
    assert retiring(here, [], orphan) == [("systemctl", "stop", FLEET.name)]


def test_only_who_was_told_hears_of_an_undo(tmp_path: Path) -> None:
    here = serving(_inventory(tmp_path), "login")
    states = States(active=frozenset({NFS.name, DNSMASQ_UNIT.name, KEA_UNIT.name, NAT_SERVICE.name}))
    said = [*retiring(here, [], states), *commands(here, [EXPORTS, DHCPD, HOSTS], states)]
    assert said == [
        ("systemctl", "disable", "--now", "kea-dhcp4-server.service"),
        ("systemctl", "enable", "isc-dhcp-server.service"),
        ("systemctl", "start", "isc-dhcp-server.service"),
        ("systemctl", "reload", "dnsmasq.service"),
        ("systemctl", "enable", "tftpd-hpa.service"),
        ("systemctl", "start", "tftpd-hpa.service"),
        ("exportfs", "-ra"),
    ]
    ran = states.active
    back = ("systemctl", "enable", "--now", "kea-dhcp4-server.service")
    assert (halting([], ran), undoing([], ran)) == ([], [])
    assert (halting(said[:1], ran), undoing(said[:1], ran)) == ([], [back])
    assert halting(said[:3], ran) == [("systemctl", "disable", "--now", "isc-dhcp-server.service")]
    assert undoing(said, ran) == [said[3], said[6], back]
    paused = [("systemctl", "stop", "dnsmasq.service"), ("systemctl", "start", "dnsmasq.service")]
    assert (halting(paused, ran), undoing(paused, ran)) == ([], [("systemctl", "restart", "dnsmasq.service")])


def installed(root: Path, units: Iterable[str], tools: Iterable[str]) -> Path:
    """Make of a directory a machine that has these units and programs."""
    for place, names in (("usr/lib/systemd/system", units), ("usr/bin", tools)):
        (root / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / place / name).touch(mode=0o755)
    return root


@pytest.mark.parametrize("name", VARIANTS)
def test_all_that_is_not_installed_is_named_at_once_with_one_command(name: str, tmp_path: Path) -> None:
    here, root = serving(_inventory(tmp_path, name), "login"), tmp_path / "root"
    all_of_it = packages(here)
    with pytest.raises(HostError) as caught:
        require_installed(here, root)
    assert caught.value.hint == f"sudo apt-get install {' '.join(all_of_it)}"
    assert all(package in caught.value.message for package in all_of_it)
    first, *others = programs([row for row in wanted(here) if row.package])
    units = [row.unit.name for row in others]
    installed(root, units, [*TOOLS, *nat.SERVER.tools, *(row.program for row in others)])
    (root / "usr/lib/aarch64-linux-gnu/ganesha").mkdir(parents=True)
    (root / "usr/lib/aarch64-linux-gnu/ganesha/libfsalvfs.so").touch()
    assert missing(here, root) == (first.package,)
    (root / "etc/init.d").mkdir(parents=True)
    (root / "etc/init.d" / first.unit.name.removesuffix(".service")).touch()  # as Debian has dhcpd and tftpd
    assert missing(here, root) == (first.package,)  # what a package leaves that is removed and not purged
    installed(root, [], [first.program])
    require_installed(here, root)


def test_the_docs_name_a_login_nodes_packages() -> None:
    here = serving(load_inventory(LAB), "login")
    said = (LAB.parent / "README.md").read_text()
    assert f"sudo apt-get install {' '.join(packages(here))}\n" in said
    part = (LAB.parent / "recipes/parts/login.yaml").read_text()
    assert {line.strip(" -") for line in part.splitlines()} >= set(packages(here))


@pytest.mark.parametrize("name", VARIANTS)
def test_ten_thousand_nodes_are_rendered_in_seconds(name: str, tmp_path: Path) -> None:
    inventory = _inventory(tmp_path, name)
    pattern, base = inventory.nodes[5], int(IPv4Address("192.168.3.0"))
    nodes = tuple(
        replace(pattern, name=f"n{number}", serial=f"{number:08x}", address=IPv4Address(base + number))
        for number in range(10_000)
    )
    begun = time.process_time()
    files = render(replace(inventory, nodes=(*inventory.nodes, *nodes)), "login")
    assert time.process_time() - begun < 5
    assert sum(file.text.count("n9999") for file in files) >= 4


def test_ganesha_exports_each_node_to_itself(tmp_path: Path) -> None:
    text = _text(_inventory(tmp_path, "dnsmasq"), GANESHA)
    assert text.count("EXPORT {") == 34
    assert "Clients = 192.168.2.30;" in text


@pytest.mark.parametrize(
    ("url", "server", "said"),
    [
        ("http://192.168.2.1:9340", "login", "--listen 192.168.2.1:9340 --dest /srv/netboot\n"),
        ("https://pi-backup:9443", "backup", "--listen 192.168.2.3:9443 --dest /srv/netboot --certificate "),
        ("http://elsewhere.example:9340", "", ""),
    ],
)
def test_the_server_that_nodes_report_to_gets_the_fleet_managers_unit(
    url: str, server: str, said: str, tmp_path: Path
) -> None:
    path = variant(tmp_path)
    assert not any(file.path == FLEET_UNIT for file in render(load_inventory(path), "login"))
    path.write_text(path.read_text().replace("  netboot:", f"  fleet: {{url: '{url}'}}\n  netboot:"))
    inventory = load_inventory(path)
    roles: tuple[ServerRole, ...] = ("login", "backup")
    for role in roles:
        here = serving(inventory, role)
        found = [file.text for file in render(inventory, role) if file.path == FLEET_UNIT]
        assert (len(found), FLEET in wanted_units(here)) == (int(server == role), server == role)
        assert all(said in text for text in found)
        states = States(active=frozenset({FLEET.name}))
        told = commands(here, [FLEET_UNIT], states)
        assert told[0] == ("systemctl", "daemon-reload")
        assert (("systemctl", "restart", FLEET.name) in told) == (server == role)
        gone = retiring(here, [FLEET_UNIT], states)
        assert gone == [("systemctl", "disable", "--now", FLEET.name)] * (server != role)

"""A server is one module: whoever lists servers finds a new one without being told."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest

from builder.host.data import PROJECT
from builder.inventory import choices
from builder.inventory.load import load_inventory
from builder.inventory.schema import Cluster
from builder.run import run
from builder.services.files import serving
from builder.services.server import Server
from builder.services.servers import every, of_kind, programs
from tests.clusters import LAB, variant

KINDS: tuple[choices.Kind, ...] = get_args(choices.Kind)

# All that a newcomer writes.
ANOTHER = '''"""udhcpd, of busybox."""

from pathlib import PurePosixPath

from builder.services.files import ConfigFile
from builder.services.server import Checker, Foreground, Leases, Server, Unit

CONF = PurePosixPath("/etc/udhcpd.conf")
SERVER = Server(
    name="udhcpd",
    units=(Unit(name="udhcpd.service", restart_on=(CONF,)),),
    files=(lambda here: [ConfigFile(path=CONF, text=f"interface {here.entry.interface}\\n")],),
    package="udhcpd",
    program="busybox",
    checkers=(Checker(path=CONF, program="busybox", package="busybox", argv=lambda file: ("udhcpd", str(file))),),
    foreground=lambda _: Foreground(
        name="udhcpd", program="sh", package="dash", argv=("udhcpd", "-f"), ports=frozenset({("udp", 67)})
    ),
    writes=("/var/lib/udhcpd",),
    leases=Leases(path=PurePosixPath("/var/lib/misc/udhcpd.leases"), kept=lambda text, _: text.replace("old", "")),
    given=r"sending ACK to (?P<address>[\\d.]+) for {mac}",
)
'''
ASKED = """
import json, sys
from pathlib import Path
from builder.inventory.load import load_inventory
from builder.lab import servers as lab
from builder.services import leases, packages, servers, units
from builder.services.files import serving
from builder.services.render import render
inventory = load_inventory(Path(sys.argv[1]))
here, root = serving(inventory, "login"), Path(sys.argv[2])
json.dump({
    "files": [str(file.path) for file in render(inventory, "login")],
    "units": [unit.name for unit in units.wanted_units(here)],
    "retired": units.retiring(here, [], units.States(active=frozenset({"isc-dhcp-server.service"}))),
    "packages": packages.packages(here),
    "checkers": [str(one.path) for row in servers.every() for one in row.checkers],
    "leases": {str(path): text for path, text in leases.contradicting(inventory, root).items()},
    "lab": [server.name for server in lab.servers(here)],
    "given": [str(each) for each in lab.addresses_given("sending ACK to 192.168.2.30 for aa:bb", "aa:bb")],
}, sys.stdout)
"""


@pytest.mark.tools
def test_a_new_dhcp_server_is_one_file(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "builder", project / "builder", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "overlays").symlink_to(PROJECT / "overlays")
    (project / "builder/services/dhcp/udhcpd.py").write_text(ANOTHER)
    book = tmp_path / "root/var/lib/misc/udhcpd.leases"
    book.parent.mkdir(parents=True)
    book.write_text("old new\n")
    path = variant(tmp_path, dhcp="udhcpd", nfs="ganesha")
    command: list[str | Path] = [sys.executable, "-P", "-c", ASKED, path, tmp_path / "root"]
    env = {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    told = json.loads(run(command, env=env).stdout)
    assert "/etc/udhcpd.conf" in told["files"]
    assert "/etc/dhcp/dhcpd.conf" not in told["files"]
    assert told["units"][0] == "udhcpd.service"
    assert told["retired"] == [["systemctl", "disable", "--now", "isc-dhcp-server.service"]]
    assert {"udhcpd", "dnsmasq"} <= set(told["packages"])
    assert "/etc/udhcpd.conf" in told["checkers"]
    assert told["leases"] == {"/var/lib/misc/udhcpd.leases": " new\n"}
    assert told["lab"][:2] == ["udhcpd", "dnsmasq"]
    assert told["given"] == ["192.168.2.30"]
    path.write_text(path.read_text().replace("server: udhcpd", "server: udhcp"))
    refused = run(command, env=env, check=False).stderr
    assert "'udhcp' is not one of isc-dhcp, dnsmasq, kea, udhcpd; did you mean 'udhcpd'?" in refused


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_of_a_kind_is_a_server_that_the_inventory_offers(kind: choices.Kind) -> None:
    rows = of_kind(kind)
    assert all(isinstance(row, Server) and row.units and row.files and row.package for row in rows.values())
    files = [path.stem for path in choices.FOLDERS[kind].glob("*.py") if path.stem != "__init__"]
    assert sorted(rows) == sorted(name.replace("_", "-") for name in files)
    field = Cluster.model_fields[kind].annotation
    assert field is not None
    offered = field.model_fields["server"]
    assert get_args(offered.annotation) == choices.servers(kind)
    assert offered.default == choices.servers(kind)[0]


def test_the_lab_runs_every_server_but_the_kernels() -> None:
    without = [row.name for kind in KINDS for row in of_kind(kind).values() if row.foreground is None]
    assert without == ["nfs"]


def test_docs_and_makefile_name_every_servers_packages() -> None:
    rows = [row for row in programs(every()) if row.package]
    said = (PROJECT / "docs/login-node.md").read_text()
    assert not {name for row in rows for name in (row.package, *row.libraries) if not re.search(rf"\b{name}\b", said)}
    makefile = (PROJECT / "Makefile").read_text().replace("\\\n", " ")
    installed = set(re.findall(r"^TEST_PACKAGES := (.*)$", makefile, re.MULTILINE)[0].split())
    here = serving(load_inventory(LAB), "login")
    in_lab = [row.foreground(here) for row in every() if row.foreground is not None]
    assert {package for one in in_lab for package in one.package.split()} <= installed
    checkers = {checker.package for row in every() for checker in row.checkers}
    assert checkers <= installed
    quiet = re.findall(r"^SERVERS := (.*)$", makefile, re.MULTILINE)[0].split()
    started = {row.unit.name.removesuffix(".service") for row in rows if row.package in installed}
    assert started <= set(quiet)

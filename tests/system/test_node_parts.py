"""The golden image without each of its parts, without all of them, and with those it has not: built, booted, clean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.inventory.load import load_inventory
from builder.lab.lab import Lab, LabNode
from tests.system.lab import PATIENCE, PROJECT, explode, lab_of, pibuild
from tests.unit.recipe.test_parts import PARTS

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network]
RECIPES = PROJECT / "recipes"
CLUSTER = PROJECT / "cluster.yaml"
FILES = {  # one that each part brings
    "monitoring": "/usr/bin/vmagent",
    "backup": "/usr/bin/restic",
    "models": "/usr/local/lib/pibuild/pibuild-fetch-model",
    "cluster": "/etc/systemd/system/k3s-agent.service",
    "bootstrap": "/etc/systemd/system/pibuild-bootstrap.service",
    "hardening": "/etc/systemd/system/pibuild-firewall.service",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Layers that golden is built without, recipes/parts that are added.

    `absent` are programs and `unknown` units that it then has not, `active` units that run.
    """

    drop: list[str] = field(default_factory=list)
    add: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)

    def recipe(self, path: Path) -> Path:
        bases = json.dumps([str(RECIPES / "golden.yaml"), *(str(RECIPES / f"parts/{part}.yaml") for part in self.add)])
        text = f"name: {path.stem}\nextends: {bases}\ndrop: {json.dumps(self.drop)}\ndisk: {{compress: []}}\n"
        path.write_text(text)
        return path


VARIANTS = {f"without {part}": Variant(drop=[part]) for part in PARTS} | {
    "without any": Variant(
        drop=PARTS,
        absent=["/usr/sbin/nft", "/usr/bin/curl", "/usr/bin/restic", "/usr/bin/vmagent"],
        unknown=["k3s-agent.service"],
    ),
    "with more": Variant(
        add=["backup-gateway", "opentelemetry", "store-victoria-metrics", "watchdog"],
        active=["restic-rest-server.service", "pibuild-backup-upkeep.timer", "victoria-metrics.service"],
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """A lab with a node for each variant."""

    lab: Lab
    hosts: Mapping[str, str]

    def up(self, name: str) -> LabNode:
        """Return a variant's node that has come up. The next one boots meanwhile, on this machine's other processor."""
        names = list(self.hosts)
        for each in names[names.index(name) :][:2]:
            if self.hosts[each] not in self.lab.nodes:
                self.lab.boot(self.hosts[each], at_once=2)
        node = self.lab.nodes[self.hosts[name]]
        node.wait_until_up(PATIENCE)
        return node


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    home = tmp_path_factory.mktemp("parts")
    workers = [node.name for node in load_inventory(CLUSTER).nodes if node.role == "worker"]
    hosts = dict(zip(VARIANTS, workers, strict=False))
    for name, host in hosts.items():
        recipe = VARIANTS[name].recipe(home / f"{host}.yaml")
        pibuild("build", recipe, "--output", home)
        explode(home / "netboot", home / recipe.stem / "latest", "--node", host)
    with lab_of(CLUSTER, home / "netboot") as here:
        yield Rack(lab=here, hosts=hosts)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_runs_clean(rack: Rack, name: str) -> None:
    node, variant = rack.up(name), VARIANTS[name]
    running = node.ssh("systemctl is-system-running --wait", timeout=PATIENCE).stdout.strip()
    failed = node.ssh("systemctl list-units --state=failed --plain --no-legend").stdout
    warnings = node.ssh("sudo journalctl -b -p warning --no-pager | tail -n 40").stdout
    assert (running, failed) == ("running", ""), warnings
    there = node.ssh(f"ls {' '.join(FILES.values())} 2>/dev/null").stdout.split()
    assert set(there) == {path for part, path in FILES.items() if part not in variant.drop}
    assert [path for path in variant.absent if node.ssh(f"test -e {path}").returncode != 1] == []
    for unit in variant.unknown:
        assert node.ssh(f"systemctl show -p LoadState {unit}").stdout == "LoadState=not-found\n"
    for unit in variant.active:
        assert node.ssh(f"systemctl is-active {unit}").stdout == "active\n", unit
    node.power_off()


def test_every_part_has_its_variant(rack: Rack) -> None:
    assert set(FILES) == set(PARTS)
    assert len(rack.hosts) == len(VARIANTS) == len(PARTS) + 2

"""Nodes of the golden image, booted over the network once for all tests that look at running nodes.

A test asks for `netlab` (tests/system/conftest.py) and for a node by `netlab.up("yellow3")`: it is booted when the
first test asks, and stays. What a test changes on a node it changes back. The inventory is the lab's, with Kea
for its DHCP server, a fleet manager, a volume for k3s and, for yellow4, a model: what is not there is away until a test
serves it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.inventory import load_inventory
from builder.lab import Lab, LabNode, LabOptions, lab
from builder.run import Completed, run
from tests import machine
from tests.clusters import LAB

PROJECT = Path(__file__).parents[2]
NODES = ("yellow3", "yellow4")
MODELS = 8090  # the port of the store
SETTINGS = f"""\
  fleet: {{url: 'http://192.168.2.1:9340'}}
  models:
    store: http://192.168.2.1:{MODELS}/
    window: {{start: "00:00", length: 24h}}
"""
PATIENCE = 900.0  # seconds for a node to come up: two boot at once, emulated, beside other work


def pibuild(*words: str | Path, check: bool = True, timeout: float | None = None) -> Completed:
    """Run the command in the project's directory."""
    env = {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    return run([sys.executable, "-m", "builder", *words], cwd=PROJECT, env=env, check=check, timeout=timeout)


def explode(dest: Path, image: Path, *words: str | Path) -> list[dict[str, Any]]:
    """Explode an image; servers that are not root must come to `dest`."""
    dest.mkdir(parents=True, exist_ok=True)
    for path in (dest, *dest.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    done: list[dict[str, Any]] = json.loads(
        pibuild("explode", *words, "--image", image, "--dest", dest, "--json").stdout
    )
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class NetLab:
    """The running lab, its cluster.yaml, and the directory that its nodes boot from."""

    lab: Lab
    cluster: Path
    dest: Path

    def up(self, *names: str) -> list[LabNode]:
        """Return nodes that answer; those that nobody has asked for before boot at the same time."""
        nodes = [self.lab.nodes.get(name) or self.lab.boot(name) for name in names]
        for node in nodes:
            node.wait_until_up(PATIENCE)
        return nodes


def inventory_of(home: Path) -> Path:
    """Write the inventory of the shared lab; return its path."""
    text = LAB.read_text()
    for old, new in (
        ("  netboot:", f"{SETTINGS}  netboot:"),
        ("  worker:\n", "  worker:\n    k3s: {volume: 64M}\n"),
        ("dhcp: {server: isc-dhcp", "dhcp: {server: kea"),
        ("{name: yellow4, ", '{name: yellow4, models: {jen: "1"}, '),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path = home / "cluster.yaml"
    path.write_text(text)
    return path


@contextlib.contextmanager
def netlab_of(image: Path, dest: Path) -> Iterator[NetLab]:
    """Run a lab of nodes that have roots of their own. The leak guard knows its processes; at its end none is left."""
    cluster = inventory_of(dest.parent)
    words = [word for node in NODES for word in ("--node", node)]
    explode(dest, image, *words, "--method", "copy", "--cluster", cluster)
    before = machine.traces()
    options = LabOptions(logs=dest.parent / "logs")
    with (
        lab(load_inventory(cluster), dest, options) as running,
        machine.known(running.namespace.holder),
    ):
        yield NetLab(lab=running, cluster=cluster, dest=dest)
    left = machine.wait_until_gone(before, seconds=5)
    assert not left, f"the lab left behind: {'; '.join(sorted(left))}"

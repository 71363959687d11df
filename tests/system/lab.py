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

from builder.inventory.load import load_inventory
from builder.lab.lab import Lab, LabNode, LabOptions, lab
from builder.run import Completed, run
from tests import machine
from tests.clusters import variant

PROJECT = Path(__file__).parents[2]
NODES = ("yellow3", "yellow4")
MODELS = 8090  # the port of the store
FOR_ALL = f"""\
  fleet: {{url: 'http://192.168.2.1:9340'}}
  models:
    store: http://192.168.2.1:{MODELS}/
    window: {{start: "00:00", length: 24h}}
"""
SETTINGS = (
    ("  netboot:", f"{FOR_ALL}  netboot:"),
    ("  worker:\n", "  worker:\n    k3s: {volume: 64M}\n"),
    ("{name: yellow4, ", '{name: yellow4, models: {jen: "1"}, '),
)
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


@contextlib.contextmanager
def lab_of(cluster: Path, dest: Path) -> Iterator[Lab]:
    """Run a lab. The leak guard knows its processes; at its end none is left."""
    before = machine.traces()
    options = LabOptions(logs=dest.parent / "logs")
    with lab(load_inventory(cluster), dest, options) as running, machine.known(running.namespace.holder):
        yield running
    left = machine.wait_until_gone(before, seconds=5)
    assert not left, f"the lab left behind: {'; '.join(sorted(left))}"


@contextlib.contextmanager
def netlab_of(image: Path, dest: Path) -> Iterator[NetLab]:
    """Run the shared lab, of nodes that have roots of their own."""
    cluster = variant(dest.parent, dhcp="kea", changes=SETTINGS)
    words = [word for node in NODES for word in ("--node", node)]
    explode(dest, image, *words, "--method", "copy", "--cluster", cluster)
    with lab_of(cluster, dest) as running:
        yield NetLab(lab=running, cluster=cluster, dest=dest)

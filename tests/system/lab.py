"""Nodes of the golden image, booted over the network once for all tests that look at running nodes.

A test asks for `netlab` (tests/system/conftest.py) and for a node by `netlab.up("yellow3")`: it is booted when the
first test asks, and stays. What a test changes on a node it changes back.
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

PROJECT = Path(__file__).parents[2]
NODES = ("yellow3", "yellow4")
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
    """The running lab, the image that its nodes booted at first, and the directory that they boot from."""

    lab: Lab
    image: Path
    dest: Path

    def up(self, *names: str) -> list[LabNode]:
        """Return nodes that answer; those that nobody has asked for before boot at the same time."""
        nodes = [self.lab.nodes.get(name) or self.lab.boot(name) for name in names]
        for node in nodes:
            node.wait_until_up(PATIENCE)
        return nodes


@contextlib.contextmanager
def netlab_of(image: Path, dest: Path) -> Iterator[NetLab]:
    """Run a lab of nodes that have roots of their own. The leak guard knows its processes; at its end none is left."""
    explode(dest, image, *(word for node in NODES for word in ("--node", node)), "--method", "copy")
    before = machine.traces()
    options = LabOptions(logs=dest.parent / "logs")
    with (
        lab(load_inventory(PROJECT / "cluster.yaml"), dest, options) as running,
        machine.known(running.namespace.holder),
    ):
        yield NetLab(lab=running, image=image, dest=dest)
    left = machine.wait_until_gone(before, seconds=5)
    assert not left, f"the lab left behind: {'; '.join(sorted(left))}"

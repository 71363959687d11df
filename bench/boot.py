"""What a node pays for each part of the image: one is booted over the network under QEMU, and its systemd is asked.

Seconds are those of an emulated machine: a board is several times faster. What they compare is parts with each other.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.builds import Bench
from bench.results import Result
from builder import console
from builder.inventory.load import load_inventory
from builder.lab.lab import LabNode, lab

_NODE = "yellow3"
_PATIENCE = 900  # seconds
_UNIT = re.compile(r"(?P<name>.+)\.(service|timer)")
_ASKED = "Id,MemoryPeak,ActiveEnterTimestampMonotonic,InactiveEnterTimestampMonotonic"


def boot(bench: Bench) -> Iterator[Result]:
    """Boot a node; of each layer, what its services hold in memory at most, and when the last of them was running."""
    image = bench.image()
    _, report = bench.build()
    layers = {layer["name"]: bench.cache / "layers" / layer["key"] / "fs" for layer in report["layers"]}
    # servers that are not root read from there
    with tempfile.TemporaryDirectory(prefix="pibuild-bench-boot-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        dest = Path(directory) / "netboot"
        bench.pibuild("explode", "--node", _NODE, "--image", image, "--dest", dest, "--cluster", bench.cluster)
        with lab(load_inventory(bench.cluster), dest) as here, console.progress(f"boot {_NODE}"):
            node = here.boot(_NODE)
            seconds = node.wait_until_up(_PATIENCE)
            node.ssh("systemctl is-system-running --wait", timeout=_PATIENCE)
            said = answer(node, f"systemctl show --all --property={_ASKED} '*.service'")
            free = answer(node, "cat /proc/meminfo")
    yield Result(name="boot of a node", seconds=seconds, memory=used(free), note="to ssh; memory in use in all")
    facts = services(said)
    for name, layer in layers.items():
        own = {unit: facts[unit] for unit in sorted(units(layer)) if unit in facts}
        if own:
            yield Result(
                name=f"on the node: {name}",
                seconds=max(ready for _, ready in own.values()),
                memory=sum(memory for memory, _ in own.values()),
                note=", ".join(f"{unit} {console.size(memory)}" for unit, (memory, _) in own.items()),
            )


def answer(node: LabNode, command: str) -> str:
    """Return what a command says on a node. Raises CommandError when it fails."""
    done = node.ssh(command)
    done.raise_for_status()
    return done.stdout


def units(layer: Path) -> set[str]:
    """Return the services that a layer's tree has started at boot, by themselves or by a timer."""
    links = (layer / "etc/systemd/system").glob("*.wants/*")
    return {f"{match['name']}.service" for path in links if (match := _UNIT.fullmatch(path.name))}


def services(said: str) -> Mapping[str, tuple[int, float]]:
    """Return of services that have run their peak memory (bytes) and when they were ready (seconds after the kernel).

    `said` is what `systemctl show` says: blocks of KEY=VALUE, times in microseconds. What runs once and ends is ready
    when it has ended.
    """
    found = {}
    for block in said.split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        times = [int(facts[f"{state}EnterTimestampMonotonic"]) for state in ("Active", "Inactive")]
        ready = next((time for time in times if time), 0)
        if ready and facts["MemoryPeak"].isdigit():
            found[facts["Id"]] = (int(facts["MemoryPeak"]), ready / 1e6)
    return found


def used(meminfo: str) -> int:
    """Return the bytes of memory in use as /proc/meminfo has it: the total less what is available."""
    figures = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines()}
    return figures["MemTotal"] - figures["MemAvailable"]

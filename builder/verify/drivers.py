"""Whether a kernel has the drivers to reach its root on a board: built in, or as modules inside the initramfs.

What is built in: `modules.builtin`, which lists all that could be a module (Documentation/kbuild/kbuild.rst), and the
configuration for what could not. What a module needs in turn: `modules.dep` (modules.dep(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from builder.firmware.boards import Board, Driver, Way

WAY_NAMES: Mapping[str, str] = MappingProxyType(
    {"sd": "SD card", "usb": "USB disk", "nvme": "NVMe disk", "network": "network"}
)
DISK = (Driver(option="EXT4_FS", modules=("ext4",)),)
UNTOLD = "the image has neither modules.builtin nor the configuration of this kernel"
OVERLAY = (Driver(option="OVERLAY_FS", modules=("overlay",)),)

Read = Callable[[str], "bytes | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    """What a kernel can drive before its root is there. Module names have `_` for `-`.

    `builtin` are its modules that are no files, `options` its configuration symbols set to y, `loadable` the modules in
    the initramfs, `depends` what each module that it has needs. `told`: whether it could be told what is built in.
    """

    builtin: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()
    loadable: frozenset[str] = frozenset()
    depends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: bool = False


def find_drivers(read: Read, version: str, loadable: Iterable[str]) -> Drivers:
    """Return a kernel's drivers. `read` returns a file of the root file system, None where there is none."""
    modules = f"/usr/lib/modules/{version}"
    builtin = read(f"{modules}/modules.builtin") or read(f"/lib/modules/{version}/modules.builtin")
    depends = read(f"{modules}/modules.dep") or read(f"/lib/modules/{version}/modules.dep") or b""
    config = read(f"/boot/config-{version}") or read(f"{modules}/config")
    return Drivers(
        builtin=frozenset(_name(line) for line in _lines(builtin)),
        options=frozenset(
            line.removeprefix("CONFIG_").removesuffix("=y")
            for line in _lines(config)
            if line.startswith("CONFIG_") and line.endswith("=y")
        ),
        loadable=frozenset(loadable),
        depends={_name(name): tuple(map(_name, needed.split())) for name, _, needed in _parted(depends)},
        told=builtin is not None or config is not None,
    )


def lacking(drivers: Drivers, way: Way, more: Iterable[Driver] = (), *, dtb: bytes | None = None) -> tuple[str, ...]:
    """Return in words what a way to the root lacks; `more` are drivers of the file system, `dtb` the device tree."""
    if not drivers.told:
        return (f"not seen: {UNTOLD}",)
    found: dict[str, list[str]] = {}
    for driver in (*way.drivers, *more):
        if fault := _fault(drivers, driver):
            found.setdefault(fault[0], []).append(fault[1])
    said = [f"{kind} {', '.join(names)}" for kind, names in found.items()]
    if dtb is not None and not any(device.encode() + b"\0" in dtb for device in way.devices):
        said.append(f"the device tree has no {way.devices[0]}")
    return tuple(said)


def _fault(drivers: Drivers, driver: Driver) -> tuple[str, str] | None:
    names = [name.replace("-", "_") for name in driver.modules]
    if driver.option in drivers.options or drivers.builtin & set(names):
        return None
    for name in names:
        if name in drivers.loadable:
            missing = [each for each in drivers.depends.get(name, ()) if each not in drivers.loadable | drivers.builtin]
            return ("the initramfs has not what its modules need:", ", ".join(missing)) if missing else None
    if any(name in drivers.depends for name in names):
        return "the initramfs has no", driver.modules[0]
    return "the kernel has no", driver.modules[0]


def board_ways(board: Board, drivers: Drivers, dtb: bytes | None) -> Mapping[str, tuple[str, ...]]:
    """Return for each way to a root that the board has what is lacking; nothing where it holds."""
    return {name: lacking(drivers, way, () if name == "network" else DISK, dtb=dtb) for name, way in board.ways.items()}


def _name(path: str) -> str:
    """Return a module's name: `kernel/drivers/mmc/host/sdhci-iproc.ko.xz` is sdhci_iproc."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _lines(content: bytes | None) -> list[str]:
    return (content or b"").decode(errors="replace").splitlines()


def _parted(depends: bytes) -> Iterator[tuple[str, str, str]]:
    return (line.partition(":") for line in _lines(depends))

"""A board is bootable when its kernel has what its root needs: told by the facts of real kernels, in tests/kernels.

Those of 6.12 are Debian trixie's, with the initramfs of the default image; 7.3 is trixie-backports', with the same and
the modules that a Pi 5 needs besides. Of each the lines that concern boards.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from builder.firmware.boards import BOARDS
from builder.verify.drivers import DISK, Drivers, board_ways, find_drivers, lacking

KERNELS = Path(__file__).parents[2] / "kernels"
TRIXIE, BACKPORTS = "6.12.118+deb13-arm64", "7.3.4+deb13-arm64"


def loadable(version: str) -> set[str]:
    lines = (KERNELS / version / "initramfs").read_text().splitlines()
    return {Path(line).name.partition(".")[0].replace("-", "_") for line in lines}


def drivers(version: str, modules: set[str] | None = None, *, without: tuple[str, ...] = ()) -> Drivers:
    def read(path: str) -> bytes | None:
        name = "config" if path == f"/boot/config-{version}" else path.removeprefix(f"/usr/lib/modules/{version}/")
        file = KERNELS / version / name
        return file.read_bytes() if name not in without and file.is_file() else None

    return find_drivers(read, version, loadable(version) if modules is None else modules)


def ways(board: str, found: Drivers) -> set[str]:
    return {name for name, lacks in board_ways(BOARDS[board], found, None).items() if not lacks}


@pytest.mark.parametrize(
    ("version", "board", "wanted"),
    [
        (TRIXIE, "pi3", {"sd", "usb"}),
        (TRIXIE, "zero2w", {"sd", "usb"}),
        (TRIXIE, "pi4", {"sd", "usb", "network"}),
        (TRIXIE, "pi400", {"sd", "usb", "network"}),
        (TRIXIE, "cm4", {"sd", "usb", "nvme", "network"}),
        (TRIXIE, "pi5", set()),
        (TRIXIE, "pi500", set()),
        (BACKPORTS, "pi4", {"sd", "usb", "network"}),
        (BACKPORTS, "pi5", {"sd", "usb", "nvme", "network"}),
        (BACKPORTS, "cm5", {"sd", "usb", "nvme", "network"}),
    ],
)
def test_what_real_kernels_can_drive(version: str, board: str, wanted: set[str]) -> None:
    assert ways(board, drivers(version)) == wanted


def test_what_trixies_kernel_lacks_on_a_pi_5_is_named() -> None:
    lacks = board_ways(BOARDS["pi5"], drivers(TRIXIE), None)
    assert lacks["sd"] == ("the kernel has no sdhci-brcmstb, gpio-brcmstb, pinctrl-brcmstb-bcm2712",)
    assert lacks["network"] == ("the kernel has no irq-bcm2712-mip, rp1_pci, clk-rp1, pinctrl-rp1",)


def test_a_module_that_the_initramfs_has_not_is_told_from_one_that_the_kernel_has_not() -> None:
    lacks = board_ways(BOARDS["pi5"], drivers(BACKPORTS, loadable(TRIXIE)), None)
    assert lacks["sd"] == ("the initramfs has no sdhci-brcmstb, gpio-brcmstb, pinctrl-brcmstb-bcm2712",)
    assert lacks["network"] == ("the initramfs has no irq-bcm2712-mip, rp1_pci, clk-rp1, pinctrl-rp1",)


def test_what_a_module_needs_must_be_there_too() -> None:
    modules = loadable(TRIXIE) - {"sdhci_pltfm", "bcm_phy_lib"}
    lacks = board_ways(BOARDS["pi4"], drivers(TRIXIE, modules), None)
    assert lacks["sd"] == ("the initramfs has not what its modules need: sdhci_pltfm",)
    assert lacks["network"] == ("the initramfs has not what its modules need: bcm_phy_lib",)


def test_a_device_that_the_device_tree_does_not_have_is_missed() -> None:
    way = BOARDS["pi5"].ways["network"]
    old, new = b"brcm,bcm2712-sdhci\0", b"brcm,bcm2712-sdhci\0raspberrypi,rp1-gem\0"
    assert lacking(drivers(BACKPORTS), way, dtb=old) == ("the device tree has no raspberrypi,rp1-gem",)
    assert lacking(drivers(BACKPORTS), way, dtb=new) == ()


def test_what_cannot_be_a_module_is_in_the_configuration_alone() -> None:
    everything = drivers(TRIXIE)
    assert lacking(drivers(TRIXIE, without=("modules.builtin",)), BOARDS["pi4"].ways["sd"], DISK) == ()
    alone = replace(everything, options=frozenset(), builtin=everything.builtin - {"pinctrl_bcm2835"})
    assert lacking(alone, BOARDS["pi4"].ways["sd"], DISK) == ("the kernel has no pinctrl-bcm2835",)


def test_without_facts_it_is_not_seen_rather_than_fine() -> None:
    lacks = board_ways(BOARDS["pi4"], drivers(TRIXIE, without=("modules.builtin", "config")), None)
    assert {why[0].partition(":")[0] for why in lacks.values()} == {"not seen"}

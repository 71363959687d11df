"""The boards: one row each of how it starts, what config.txt calls it, and what a kernel needs to reach its root there.

Recipes, inventories, `--board`, the boot chain and the simulated bootloader know the boards of this table and no other.

Sources: documentation of Raspberry Pi (Boot options, Conditional filters, revision codes); drivers and devices: the
device trees and Kconfig of Linux 6.12 and 7.3, and of Raspberry Pi's own kernel where it has other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

WAYS = ("sd", "usb", "nvme", "network")  # to its root: SD card or eMMC, USB disk, NVMe disk, NFS


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What a kernel must have: one of some modules (their names of different kernels), built in or loaded.

    `option` is the kernel's configuration symbol, for kernels that cannot have it as a module and so do not list it.
    """

    modules: tuple[str, ...]
    option: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to a root: the drivers it needs, and the device (`compatible`, one of them) that the device tree has."""

    devices: tuple[str, ...]
    drivers: tuple[Driver, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What tells one model from another while it boots.

    `filters` are the model filters it sees, `type` its number for `[board-type=]` (revision codes, bits 4 to 11),
    `dtb` the device tree it asks for and `upstream_dtb` the one with upstream_kernel=1, `kernels` the 64-bit kernels it
    looks for, best first. `family` is the loader: pi3 = bootcode.bin from the card, pi4 = start4.elf beside the kernel,
    pi5 = all in the EEPROM.
    """

    name: str
    title: str
    family: str
    filters: frozenset[str]
    type: int
    dtb: str
    upstream_dtb: str
    kernels: tuple[str, ...]
    ways: Mapping[str, Way]


def _drivers(text: str) -> tuple[Driver, ...]:
    """Read drivers: OPTION=module, or OPTION=module|module."""
    pairs = (word.partition("=") for word in text.split())
    return tuple(Driver(option=option, modules=tuple(names.split("|"))) for option, _, names in pairs)


def _way(devices: str, drivers: str) -> Way:
    return Way(devices=tuple(devices.split()), drivers=_drivers(drivers))


_NFS = " NFS_FS=nfs NFS_V3=nfsv3"
_USB_DISK = " USB_STORAGE=usb-storage BLK_DEV_SD=sd_mod"
_CARD = " MMC_BLOCK=mmc_block"
_FIRMWARE = " BCM2835_MBOX=bcm2835-mailbox RASPBERRYPI_FIRMWARE=raspberrypi PINCTRL_BCM2835=pinctrl-bcm2835"

_PI3 = {
    "sd": _way("brcm,bcm2835-sdhost", "MMC_BCM2835=bcm2835|bcm2835-sdhost" + _CARD + _FIRMWARE),
    "usb": _way("brcm,bcm2835-usb brcm,bcm2708-usb", "USB_DWC2=dwc2|dwc_otg" + _USB_DISK + _FIRMWARE),
}
_PI4 = {
    "sd": _way(
        "brcm,bcm2711-emmc2",
        "MMC_SDHCI_IPROC=sdhci-iproc REGULATOR_GPIO=gpio-regulator REGULATOR_FIXED_VOLTAGE=fixed"
        " GPIO_RASPBERRYPI_EXP=gpio-raspberrypi-exp" + _CARD + _FIRMWARE,
    ),
    "usb": _way("brcm,bcm2711-pcie", "PCIE_BRCMSTB=pcie-brcmstb USB_XHCI_PCI=xhci-pci" + _USB_DISK),
    "network": _way(
        "brcm,bcm2711-genet-v5", "BCMGENET=genet MDIO_BCM_UNIMAC=mdio-bcm-unimac BROADCOM_PHY=broadcom" + _NFS
    ),
}
_CM4 = {**_PI4, "nvme": _way("brcm,bcm2711-pcie", "PCIE_BRCMSTB=pcie-brcmstb BLK_DEV_NVME=nvme")}
# RP1, behind PCIe, holds Ethernet and USB; macb names no dependency on it.
_PCIE5 = "PCIE_BRCMSTB=pcie-brcmstb BCM2712_MIP=irq-bcm2712-mip RESET_BRCMSTB_RESCAL=reset-brcmstb-rescal"
_RP1 = _PCIE5 + " MISC_RP1=rp1_pci|rp1 COMMON_CLK_RP1=clk-rp1 PINCTRL_RP1=pinctrl-rp1"
_PI5 = {
    "sd": _way(
        "brcm,bcm2712-sdhci",
        "MMC_SDHCI_BRCMSTB=sdhci-brcmstb REGULATOR_GPIO=gpio-regulator REGULATOR_FIXED_VOLTAGE=fixed"
        " GPIO_BRCMSTB=gpio-brcmstb PINCTRL_BCM2712=pinctrl-brcmstb-bcm2712|pinctrl-bcm2712" + _CARD,
    ),
    "usb": _way("snps,dwc3", _RP1 + " USB_DWC3=dwc3 USB_XHCI_PLATFORM=xhci-plat-hcd" + _USB_DISK),
    "nvme": _way("brcm,bcm2712-pcie", _PCIE5 + " BLK_DEV_NVME=nvme"),
    "network": _way("raspberrypi,rp1-gem cdns,macb", _RP1 + " MACB=macb BROADCOM_PHY=broadcom" + _NFS),
}


def _board(name: str, title: str, number: int, dtbs: str, ways: Mapping[str, Way], filters: str = "") -> Board:
    """Return a row; `dtbs` are the device tree's name and, where it is another, the upstream one, with `|` between."""
    family = "pi3" if ways is _PI3 else "pi5" if ways is _PI5 else "pi4"
    dtb, _, upstream = dtbs.partition("|")
    return Board(
        name=name,
        title=title,
        family=family,
        filters=frozenset(filters.split() or {name, family}),
        type=number,
        dtb=dtb,
        upstream_dtb=upstream or dtb,
        kernels=("kernel_2712.img", "kernel8.img") if family == "pi5" else ("kernel8.img",),
        ways=MappingProxyType(ways),
    )


BOARDS: Mapping[str, Board] = MappingProxyType(
    {
        board.name: board
        for board in (
            _board("pi3", "Pi 3 B", 0x08, "bcm2710-rpi-3-b.dtb|bcm2837-rpi-3-b.dtb", _PI3),
            _board(
                *("zero2w", "Zero 2 W", 0x12, "bcm2710-rpi-zero-2-w.dtb|bcm2837-rpi-zero-2-w.dtb", _PI3), "pi0 pi02"
            ),
            _board("pi4", "Pi 4 B", 0x11, "bcm2711-rpi-4-b.dtb", _PI4),
            _board("pi400", "Pi 400", 0x13, "bcm2711-rpi-400.dtb", _PI4),
            _board("cm4", "CM4", 0x14, "bcm2711-rpi-cm4.dtb|bcm2711-rpi-cm4-io.dtb", _CM4),
            _board("cm4s", "CM4S", 0x15, "bcm2711-rpi-cm4s.dtb", _PI4),
            _board("pi5", "Pi 5", 0x17, "bcm2712-rpi-5-b.dtb", _PI5),
            _board("cm5", "CM5", 0x18, "bcm2712-rpi-cm5-cm5io.dtb", _PI5),
            _board("pi500", "Pi 500", 0x19, "bcm2712-rpi-500.dtb", _PI5),
        )
    }
)
NAMES = ", ".join(BOARDS)
NETBOOTED = tuple(name for name, board in BOARDS.items() if "network" in board.ways)

"""A simulated Raspberry Pi bootloader: what a board asks its TFTP server for, and why it would stop.

Request order of the Pi 4: server logs of real boards (github.com/raspberrypi/rpi-eeprom #74, #87, #417) and the
documentation (Bootloader configuration, EEPROM boot flow). The Pi 5 has no published order: what is known comes from
its UART logs (raspberrypi/linux #7319, rpi-eeprom #720, #857), and its report says so.
"""

from __future__ import annotations

import re

from builder.errors import InputError, Problem
from builder.firmware.boards import BOARDS, NAMES
from builder.firmware.boot_files import Tree
from builder.firmware.boot_state import Boot, BootReport, Eeprom, Request, Stop, StopKind, Stopped
from builder.firmware.config_eval import Config, evaluate

__all__ = ["BootReport", "Eeprom", "Request", "Stop", "StopKind", "explain", "simulate"]

_WITH_VL805 = frozenset({"pi4", "pi400"})  # the USB controller whose firmware the bootloader may update
PI5_ORDER = "the Pi 5's request order is known in part only; what it needs to boot is as documented"
_NO_FIRMWARE = "On its screen: 'Firmware not found'; its LED blinks 4 times."
_NO_OS = (
    "On its screen: 'The installed operating system (OS) does not indicate support for Raspberry Pi 5. "
    "Update the OS or set os_check=0 in config.txt to skip this check.'"
)


def explain(report: BootReport) -> list[tuple[str, ...]]:
    """Return the chain as rows: number, file, outcome, bytes, note."""
    return [
        (str(number), asked.name, asked.outcome, "" if asked.size is None else str(asked.size), asked.note)
        for number, asked in enumerate(report.requests, start=1)
    ]


def simulate(tree: Tree, board: str, serial: str, *, mac: str = "", eeprom: Eeprom | None = None) -> BootReport:
    """Do what `board` (a key of BOARDS) with this serial (8 hex digits) and MAC address does over the network.

    Raises InputError for an unknown board; everything that may go wrong with the files is in the report.
    """
    if board not in BOARDS:
        raise InputError(Problem(message=f"unknown board '{board}'", hint=f"one of {NAMES}"))
    boot = Boot(tree=tree, serial=serial.lower(), board=board, eeprom=eeprom or Eeprom())
    boot.prefix = boot.first_prefix(mac)
    stopped = None
    try:
        if boot.identity.board.family == "pi3":
            _card_stage_pi3(boot)
        elif boot.identity.board.family == "pi4":
            _eeprom_stage(boot)
        else:
            _eeprom_stage_pi5(boot)
        _system_stage(boot)
    except Stopped as why:
        stopped = why
    return boot.report(stopped)


def _eeprom_stage(boot: Boot) -> None:
    """Find start4.elf, see to updates and recovery, load the firmware (Pi 4 family)."""
    own = boot.prefix
    if not boot.probe("start4.elf") and not boot.probe("start.elf"):
        boot.note(f"neither start4.elf nor start.elf came from {own}: the board asks in the TFTP root from here on")
        boot.prefix = ""
    config = evaluate(boot.fetch(boot.config_name) or b"", boot.identity, name=boot.config_name)
    if boot.board in _WITH_VL805 and boot.fetch("vl805.sig") is not None:
        boot.fetch("vl805.bin")
    _self_update(boot, config)
    if boot.probe("recover4.elf") or boot.probe("recovery.elf"):
        raise Stopped(
            StopKind.RECOVERY,
            f"{boot.requests[-1].name} is there: the board starts the recovery system, not the kernel. Remove it.",
        )
    _ramdisk(boot, config)
    start, fixup = _start_files(config)
    if boot.fetch(start) is None:
        refused = [asked for asked in boot.requests if asked.outcome == "denied"]
        reason = (
            f"{refused[0].name} is there, but the server refuses it: {refused[0].note}." if refused else boot.why(start)
        )
        if start == "start4.elf" and boot.probe("start.elf"):
            reason += " There is a start.elf, but that is the firmware of older models."
        where = f" It looked in {own} first." if own and not boot.prefix else ""
        raise Stopped(
            StopKind.FIRMWARE,
            f"{reason}{where} {_NO_FIRMWARE} Is {own or 'the TFTP root'} complete, and the serial right?",
            file=start,
        )
    if boot.fetch(fixup) is None:
        boot.note(f"{fixup} was not received: the board may see little of its memory. It belongs beside {start}")


def _card_stage_pi3(boot: Boot) -> None:
    """Load bootcode.bin and the firmware from the card (Pi 3 family; documentation: Boot flow, The boot folder)."""
    if boot.fetch("bootcode.bin") is None:
        raise Stopped(StopKind.FIRMWARE, f"{boot.why('bootcode.bin')} {_NO_FIRMWARE}", file="bootcode.bin")
    config = evaluate(boot.fetch(boot.config_name) or b"", boot.identity, name=boot.config_name)
    start, fixup = (name.replace("4.", ".").replace("4", "_") for name in _start_files(config))
    if boot.fetch(start) is None:
        raise Stopped(StopKind.FIRMWARE, f"{boot.why(start)} {_NO_FIRMWARE}", file=start)
    if boot.fetch(fixup) is None:
        boot.note(f"{fixup} was not received: the board may see little of its memory. It belongs beside {start}")


def _self_update(boot: Boot, config: Config) -> None:
    if boot.fetch("pieeprom.sig") is None or not config.enabled("bootloader_update", default=True):
        return
    boot.note("pieeprom.sig is there: a board with another bootloader flashes pieeprom.upd and resets before it boots")
    boot.fetch("pieeprom.upd")


def _ramdisk(boot: Boot, config: Config) -> None:
    if config.enabled("boot_ramdisk"):
        boot.probe("boot.img")
        raise Stopped(
            StopKind.RAMDISK, "boot_ramdisk=1: the board takes everything out of boot.img, which is not simulated here."
        )


def _start_files(config: Config) -> tuple[str, str]:
    """Return the firmware and its fixup file (documentation: Boot options, The boot folder)."""
    kind = "4"
    if config.enabled("start_debug"):
        kind = "4db"
    elif config.enabled("start_x"):
        kind = "4x"
    elif config.settings.get("gpu_mem") == "16":
        kind = "4cd"
    start = config.settings.get("start_file", f"start{kind}.elf")
    return start, config.settings.get("fixup_file", f"fixup{kind}.dat")


def _eeprom_stage_pi5(boot: Boot) -> None:
    """Decide whether there is a system to boot: config.txt and a device tree (Pi 5 family)."""
    boot.note(PI5_ORDER)
    own = boot.prefix
    raw = boot.fetch(boot.config_name)
    reason = ""
    if raw is None:
        reason = boot.why(boot.config_name)
        boot.prefix = ""
        raw = boot.fetch(boot.config_name)
    if raw is None:
        raise Stopped(
            StopKind.SYSTEM,
            f"{reason} Neither is one in the TFTP root. A Pi 5 boots nothing without {boot.config_name}.",
            file=boot.config_name,
        )
    if own and not boot.prefix:
        boot.note(f"no {boot.config_name} was received from {own}: the board asks in the TFTP root from here on")
    config = evaluate(raw, boot.identity, name=boot.config_name)
    _self_update(boot, config)
    _ramdisk(boot, config)
    tree = _dtb_name(boot, config)
    if tree is None or not config.enabled("os_check", default=True):
        return
    places = dict.fromkeys((_join(_wanted_prefix(config), tree), _join("", tree)))
    if not any(boot.probe(place) for place in places):
        raise Stopped(StopKind.SYSTEM, f"{boot.why(_join('', tree))} {_NO_OS}", file=_join("", tree))


def _system_stage(boot: Boot) -> None:
    """Load what the kernel needs, then the kernel: start4.elf on a Pi 4, the same code in the EEPROM on a Pi 5."""
    older = boot.identity.board.family != "pi5"
    if older:
        boot.probe("recovery.elf")
    raw = boot.load(boot.config_name)
    if raw is None:
        boot.note(f"no {boot.config_name}: the firmware's defaults hold")
    boot.config = evaluate(raw or b"", boot.identity, name=boot.config_name, include=boot.load)
    for note in boot.config.notes:
        boot.note(note)
    if older:
        boot.load("dt-blob.bin")
        boot.load("bootcfg.txt")
    prefix = _os_prefix(boot)
    kernel = _kernel_name(boot, prefix) if boot.config.enabled("auto_initramfs") and not boot.config.initramfs else None
    _load_initramfs(boot, prefix, kernel)
    _load_device_tree(boot, prefix)
    _load_overlays(boot, prefix)
    _load_cmdline(boot, prefix)
    _load_kernel(boot, kernel or _kernel_name(boot, prefix))


def _join(prefix: str, name: str) -> str:
    """Put os_prefix in front; a leading slash bypasses it (documentation: os_prefix)."""
    return name.lstrip("/") if name.startswith("/") else prefix + name


def _wanted_prefix(config: Config) -> str:
    return config.settings.get("os_prefix") or ("upstream/" if config.enabled("upstream_kernel") else "")


def _kernels(boot: Boot) -> tuple[str, ...]:
    """Return the kernels to look for, best first."""
    if named := boot.config.settings.get("kernel"):
        return (named,)
    board = boot.identity.board
    if board.family != "pi5" and not boot.config.enabled("arm_64bit", default=board.family == "pi4"):
        return ("kernel7l.img" if board.family == "pi4" else "kernel7.img",)
    return board.kernels


def _dtb_name(boot: Boot, config: Config) -> str | None:
    """Return the device tree that the board asks for; upstream_kernel=1 prefers the name of the upstream kernel."""
    board = boot.identity.board
    if board.dtb != board.upstream_dtb and config.enabled("upstream_kernel"):
        there = boot.probe(_join(_wanted_prefix(config), board.upstream_dtb)) or boot.probe(board.upstream_dtb)
        return config.settings.get("device_tree", board.upstream_dtb if there else board.dtb) or None
    return config.settings.get("device_tree", board.dtb) or None


def _os_prefix(boot: Boot) -> str:
    """Return os_prefix if the expected kernel and device tree are under it, else nothing; the firmware says nothing."""
    wanted = _wanted_prefix(boot.config)
    if not wanted:
        return ""
    tree = _dtb_name(boot, boot.config)
    if any(boot.probe(_join(wanted, kernel)) for kernel in _kernels(boot)) and (
        tree is None or boot.probe(_join(wanted, tree))
    ):
        return wanted
    slash = "" if wanted.endswith("/") else "; a directory needs its trailing '/'"
    boot.note(f"os_prefix={wanted} is ignored: {boot.requests[-1].name} was not received{slash}")
    return ""


def _kernel_name(boot: Boot, prefix: str) -> str:
    """Return the kernel's name with its prefix; without `kernel=` the first of the defaults that is there."""
    names = _kernels(boot)
    if boot.config.settings.get("kernel"):
        return _join(prefix, names[0])
    if boot.identity.board.family != "pi5":
        boot.probe(_join(prefix, names[0].replace("kernel", "recovery")))
    if len(names) == 1:
        return _join(prefix, names[0])
    return next(
        (_join(prefix, name) for name in names[:-1] if boot.probe(_join(prefix, name))), _join(prefix, names[-1])
    )


def _load_initramfs(boot: Boot, prefix: str, kernel: str | None) -> None:
    for name in boot.config.initramfs:
        full = _join(prefix, name)
        data = boot.load(full)
        if data is None:
            raise Stopped(
                StopKind.INITRAMFS,
                f"{boot.why(full)} The kernel would start without it and find no root.",
                file=full,
            )
        _keep(boot, boot.initramfs, full, data)
    if kernel is None:
        return
    folder, _, base = kernel.rpartition("/")
    match = re.fullmatch(r"kernel(.*)\.img", base)
    if match is None:
        boot.note(f"auto_initramfs does nothing for a kernel called {base}; write 'initramfs NAME followkernel'")
        return
    if boot.identity.board.family == "pi5" and (prefix or boot.config.settings.get("kernel")):
        boot.note(
            "auto_initramfs with os_prefix or kernel= was broken in some Pi 5 bootloaders; write the initramfs line out"
        )
    full = f"{folder}/initramfs{match[1]}".lstrip("/")
    data = boot.load(full)
    if data is None:
        boot.note(f"auto_initramfs: {boot.why(full)} The kernel starts without one")
    else:
        _keep(boot, boot.initramfs, full, data)


def _keep(boot: Boot, names: list[str], name: str, data: bytes) -> None:
    names.append(boot.prefix + name)
    boot.contents[boot.prefix + name] = data


def _load_device_tree(boot: Boot, prefix: str) -> None:
    name = _dtb_name(boot, boot.config)
    if name is None:
        boot.note("device_tree= is empty: the kernel gets none")
        return
    full = _join(prefix, name)
    data = boot.load(full)
    if data is None:
        raise Stopped(StopKind.DTB, f"{boot.why(full)} The kernel would hang before its first message.", file=full)
    boot.dtb = boot.prefix + full
    boot.contents[boot.dtb] = data


def _load_overlays(boot: Boot, prefix: str) -> None:
    folder = boot.config.settings.get("overlay_prefix", "overlays/")
    if prefix and not boot.probe(f"{prefix}{folder}README"):
        boot.note(f"{prefix}{folder}README is not there: overlays come from {folder}, not from under os_prefix")
        prefix = ""
    boot.load(f"{prefix}{folder}overlay_map.dtb")
    for name in boot.config.overlays:
        full = f"{prefix}{folder}{name}.dtbo"
        if boot.load(full) is None:
            boot.note(f"dtoverlay={name}: {boot.why(full)} The board boots without it")
        else:
            boot.overlays.append(boot.prefix + full)


def _load_cmdline(boot: Boot, prefix: str) -> None:
    name = _join(prefix, boot.config.settings.get("cmdline", "cmdline.txt"))
    data = boot.load(name)
    if data is None:
        raise Stopped(
            StopKind.CMDLINE,
            f"{boot.why(name)} The kernel would start without root= and panic.",
            file=name,
        )
    lines = data.decode(errors="replace").splitlines()
    boot.cmdline = lines[0].strip() if lines else ""
    if any(line.strip() for line in lines[1:]):
        boot.note(f"{name} has more than one line; only the first counts")
    if not boot.cmdline:
        raise Stopped(
            StopKind.CMDLINE,
            f"the first line of {boot.prefix}{name} is empty; the kernel gets no root=.",
        )


def _load_kernel(boot: Boot, name: str) -> None:
    family = boot.identity.board.family
    stubs = {"pi3": "armstub8.bin", "pi4": "armstub8-gic.bin", "pi5": "armstub8-2712.bin"}
    stub = boot.config.settings.get("armstub", stubs[family])
    if boot.load(stub) is None and "armstub" in boot.config.settings:
        raise Stopped(StopKind.ARMSTUB, f"{boot.why(stub)} It is named by armstub= in config.txt.", file=stub)
    data = boot.load(name)
    shown = (
        "Its LED blinks 7 times."
        if family != "pi5"
        else "On its screen: 'Kernel or device-tree not found or is not compatible'."
    )
    if data is None:
        raise Stopped(StopKind.KERNEL, f"{boot.why(name)} {shown}", file=name)
    if not data:
        raise Stopped(StopKind.KERNEL, f"{boot.prefix}{name} is empty: copied while the disk was full? {shown}")
    boot.kernel = boot.prefix + name
    boot.contents[boot.kernel] = data

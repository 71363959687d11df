"""A board's boot as far as it has come: what it asked the server for, and what it got."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from builder.firmware.boards import BOARDS
from builder.firmware.boot_files import Answer, Tree
from builder.firmware.config_eval import Config, Identity

_BLOCKS = 65535  # of a 16-bit counter that may not roll over (rpi-eeprom #720, #375)

Outcome = Literal["probed", "sent", "missing", "denied", "too large", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eeprom:
    """The bootloader's own settings. `block_size` in bytes: 1468 since 2022-10-03, 1024 before.

    `rolls_over`: the TFTP block counter may pass 65535 (EEPROM of 2025-09-23 and later). `tftp_prefix`: 0 = the serial,
    1 = `tftp_prefix_str`, 2 = the MAC address. `tryboot`: the board was rebooted with the tryboot flag.
    """

    block_size: int = 1468
    rolls_over: bool = False
    tftp_prefix: int = 0
    tftp_prefix_str: str = ""
    tryboot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to the server. `size` in bytes; probed = opened and aborted with 'Early terminate'."""

    name: str
    outcome: Outcome
    size: int | None = None
    note: str = ""


class StopKind(enum.StrEnum):
    """What a board stops for."""

    SERVER = "server"
    RECOVERY = "recovery"
    RAMDISK = "ramdisk"
    FIRMWARE = "firmware"
    SYSTEM = "system"
    INITRAMFS = "initramfs"
    DTB = "dtb"
    CMDLINE = "cmdline"
    ARMSTUB = "armstub"
    KERNEL = "kernel"


_LACKS = MappingProxyType(
    {
        StopKind.FIRMWARE: "No firmware",
        StopKind.SYSTEM: "No system for this board",
        StopKind.INITRAMFS: "No initramfs",
        StopKind.DTB: "No device tree",
        StopKind.CMDLINE: "No kernel command line",
        StopKind.ARMSTUB: "No ARM stub",
        StopKind.KERNEL: "No kernel",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a board does not start its kernel: its kind, the file that it lacks, as asked ("" for none), and in words."""

    kind: StopKind
    file: str
    said: str

    @classmethod
    def of(cls, kind: StopKind, why: str, *, file: str) -> Stop:
        """Return a stop whose words begin with what is lacking."""
        return cls(kind=kind, file=file, said=f"{_LACKS[kind]}: {why}" if kind in _LACKS else why)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """What a board did. File names are as asked of the server; `cmdline` is the kernel command line of cmdline.txt.

    `stop` says why a real board would not come up, None if it starts its kernel. `contents` has the bytes of kernel,
    initramfs and device tree by name.
    """

    board: str
    serial: str
    requests: tuple[Request, ...]
    kernel: str | None = None
    initramfs: tuple[str, ...] = ()
    dtb: str | None = None
    overlays: tuple[str, ...] = ()
    cmdline: str | None = None
    stop: Stop | None = None
    notes: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)


class Stopped(Exception):  # noqa: N818 - not an error of the program: the board stops here
    """Why the board stops: of which kind, in words, and for want of which file where it is one (without the prefix)."""

    def __init__(self, kind: StopKind, why: str, *, file: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        self.file = file


@dataclass(slots=True, kw_only=True)
class Boot:
    """A boot as far as it has come."""

    tree: Tree
    serial: str
    board: str
    eeprom: Eeprom
    prefix: str = ""
    requests: list[Request] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: Config = field(default_factory=Config)
    kernel: str | None = None
    initramfs: list[str] = field(default_factory=list)
    dtb: str | None = None
    overlays: list[str] = field(default_factory=list)
    cmdline: str | None = None
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """Whom config.txt's filters are asked about."""
        return Identity(board=BOARDS[self.board], serial=self.serial, tryboot=self.eeprom.tryboot)

    @property
    def config_name(self) -> str:
        """The file that stands for config.txt in this boot (documentation: Fail-safe OS updates)."""
        return "tryboot.txt" if self.eeprom.tryboot else "config.txt"

    def first_prefix(self, mac: str) -> str:
        """Return what is put before every name at first (documentation: TFTP_PREFIX)."""
        own = {0: f"{self.serial}/", 1: self.eeprom.tftp_prefix_str, 2: mac.lower().replace(":", "-") + "/"}
        return own[self.eeprom.tftp_prefix]

    def note(self, text: str) -> None:
        """Keep what a person should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def probe(self, name: str) -> bool:
        """Open a file and abort; return whether it is there."""
        answer = self.tree.probe(self.prefix + name)
        return self.record(name, answer, "probed")

    def fetch(self, name: str) -> bytes | None:
        """Read a file at one go, as the EEPROM's stage does."""
        answer = self.tree.read(self.prefix + name)
        return answer.data if self.record(name, answer, "sent") else None

    def load(self, name: str) -> bytes | None:
        """Open, abort and open again, as start4.elf does; what the counter cannot reach the end of is not read."""
        if not self.probe(name):
            return None
        size = self.requests[-1].size
        if size is not None and self.beyond(size):
            self.record(name, Answer(outcome="found", size=size), "too large")
            return None
        return self.fetch(name)

    def beyond(self, size: int) -> bool:
        """Return whether a file has more blocks than the counter can number, the last, short one included."""
        return not self.eeprom.rolls_over and size >= _BLOCKS * self.eeprom.block_size

    def record(self, name: str, answer: Answer, outcome: Outcome) -> bool:
        """Note a request and its answer; return whether the file was had. Raises Stopped when the server is silent."""
        full = self.prefix + name
        if answer.outcome != "found":
            self.requests.append(Request(name=full, outcome=answer.outcome, note=answer.detail))
            if answer.outcome == "failed":
                raise Stopped(StopKind.SERVER, f"{full}: {answer.detail}", file=name)
            return False
        if outcome == "sent" and self.beyond(len(answer.data)):
            outcome = "too large"
        self.requests.append(Request(name=full, outcome=outcome, size=answer.size))
        return outcome != "too large"

    def why(self, name: str) -> str:
        """Say why a file was not received, by the last answer to it."""
        full = self.prefix + name
        last = next(asked for asked in reversed(self.requests) if asked.name == full)
        if last.outcome == "denied":
            return f"{full} is there, but the server refuses it: {last.note}."
        if last.outcome == "too large":
            most = _BLOCKS * self.eeprom.block_size
            return (
                f"{full} has {last.size} bytes; this bootloader's TFTP counts {_BLOCKS} blocks of "
                f"{self.eeprom.block_size} and ends at {most}. Update the EEPROM and firmware to 2025-09-23 or later, "
                "or make the file smaller (MODULES=netboot for an initramfs)."
            )
        return f"{full} is not on the server{': ' + last.note if last.note else ''}."

    def report(self, stopped: Stopped | None) -> BootReport:
        """Return all of it as data."""
        file = self.prefix + stopped.file if stopped and stopped.file else ""
        return BootReport(
            board=self.board,
            serial=self.serial,
            requests=tuple(self.requests),
            kernel=self.kernel,
            initramfs=tuple(self.initramfs),
            dtb=self.dtb,
            overlays=tuple(self.overlays),
            cmdline=self.cmdline,
            stop=Stop.of(stopped.kind, str(stopped), file=file) if stopped else None,
            notes=tuple(self.notes),
            settings=MappingProxyType(dict(self.config.settings)),
            contents=MappingProxyType(self.contents),
        )

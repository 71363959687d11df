"""Check from files alone, in about a second, that an image would boot: what would be a rainbow screen fails here.

Which files a board loads is asked of the simulated bootloader, with the boot partition in the place of a TFTP server.
What it loads is then looked into, and followed on to the root file system, init included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from builder.errors import PibuildError
from builder.firmware.boards import BOARDS
from builder.firmware.boot_files import MOST_BYTES, Answer, too_big
from builder.firmware.boot_state import BootReport, Eeprom, Stop, StopKind
from builder.firmware.config_eval import CONFIG_LIMIT, LINE_LIMIT
from builder.firmware.simulate import PI5_ORDER, simulate
from builder.image.filesystem import FileSystem
from builder.image.initramfs import BrokenInitramfsError, Initramfs, read_initramfs
from builder.image.kernel import KernelImage, read_kernel
from builder.image.open import Image
from builder.verify.boot_chain_root import check_root
from builder.verify.drivers import WAY_NAMES, Drivers, board_ways, find_drivers
from builder.verify.finding import Finding, judge

DEFAULT_BOARDS = ("pi4", "pi5")
_SERIAL = "00000000"
_STUB = b"(missing)"
_DTB_MAGIC = b"\xd0\x0d\xfe\xed"
_FREE_PERCENT = 10
_FACTS = 16 << 20  # bytes of modules.dep and its like that are read; the biggest have one
_HINTS: Mapping[StopKind, str] = MappingProxyType(
    {
        StopKind.FIRMWARE: (
            "raspi-firmware brings start4.elf and fixup4.dat; they belong at the top of the boot partition"
        ),
        StopKind.SYSTEM: "the kernel package's device trees (*.dtb) belong on the boot partition",
        StopKind.KERNEL: (
            "is kernel= in config.txt right, and did the kernel package's hook copy it to the boot partition?"
        ),
        StopKind.INITRAMFS: "run update-initramfs -u in the image, or mend the initramfs line of config.txt",
        StopKind.DTB: "the kernel package's device trees (*.dtb) belong on the boot partition",
        StopKind.CMDLINE: "write cmdline.txt: one line with root=, rootwait and a console",
    }
)

__all__ = ["DEFAULT_BOARDS", "Finding", "boards_of", "boot_files", "check_boot_chain", "load_all"]


@dataclass(slots=True, kw_only=True)
class FatTree:
    """A boot partition as the simulated bootloader asks it: a Tree. Files in `stubs` are answered though missing."""

    system: FileSystem
    stubs: frozenset[str] = frozenset()
    read_already: dict[str, bytes] = field(default_factory=dict)

    def probe(self, name: str) -> Answer:
        """Say whether a file is there, and its size in bytes."""
        if name in self.stubs:
            return Answer(outcome="found", size=len(_STUB))
        found = self.system.find(name)
        if found is None or found.directory:
            return Answer(outcome="missing")
        if found.size > MOST_BYTES:
            return Answer(outcome="denied", size=found.size, detail=too_big(found.size))
        return Answer(outcome="found", size=found.size)

    def read(self, name: str) -> Answer:
        """Return a file's content."""
        answer = self.probe(name)
        if answer.outcome != "found":
            return answer
        if name not in self.read_already:
            self.read_already[name] = _STUB if name in self.stubs else self.system.read(name)
        data = self.read_already[name]
        return Answer(outcome="found", size=len(data), data=data)


def boot_files(boot: FileSystem, board: str) -> BootReport:
    """Return what a board loads from a card's or disk's boot partition. Raises InputError for an unknown board."""
    return _simulate(FatTree(system=boot), board)


def _simulate(tree: FatTree, board: str) -> BootReport:
    card = Eeprom(tftp_prefix=1, tftp_prefix_str="", rolls_over=True)  # the same files at the top, of any size
    return simulate(tree, board, _SERIAL, eeprom=card)


def boards_of(image: Image) -> tuple[str, ...]:
    """Return the boards that an image is made for: those that its manifest names.

    Without a manifest those of pi4 and pi5 whose device tree is somewhere on the boot partition, both when none is.
    """
    if named := _named_boards(image.given):
        return named
    names = set() if image.boot is None else {entry.name.lower() for entry in image.boot.walk()}
    return tuple(board for board in DEFAULT_BOARDS if BOARDS[board].dtb in names) or DEFAULT_BOARDS


def _named_boards(given: Path) -> tuple[str, ...]:
    """Return the boards that the manifest of a published image names: of its directory, or of the image file in it."""
    try:
        with ((given if given.is_dir() else given.parent) / "manifest.json").open("rb") as file:
            facts = json.loads(file.read(_FACTS))
    except (OSError, ValueError, RecursionError):  # a file, or a directory that no build published
        return ()
    if not isinstance(facts, dict) or not (given.is_dir() or facts.get("image") == given.name):
        return ()
    build = facts.get("build")
    named = build.get("boards") if isinstance(build, dict) else None
    return tuple(board for board in BOARDS if isinstance(named, list) and board in named)


def check_boot_chain(image: Image, boards: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Follow the boot of every board through the files and say of each link whether it holds; nothing is raised for it.

    Without `boards` those of boards_of(image). Raises InputError for a board that nobody knows.
    """
    if image.boot is None:
        hint = "the first partition must be FAT (type 0x0c) and hold config.txt"
        return (Finding(check="boot partition", result="broken", seen="the image has no FAT partition", hint=hint),)
    findings = [_check_free(image), *_check_config_lines(image.boot)]
    read: dict[str, bytes] = {}
    reports = {}
    for board in boards or boards_of(image):
        reports[board], stops = load_all(image.boot, board, read)
        findings.append(_check_loads(board, reports[board], stops))
        findings.extend(_check_dtb(board, reports[board]))
        findings.extend(_notes(board, reports[board]))
    kernels: dict[str, KernelImage] = {}
    for report in reports.values():
        findings.extend(_check_kernel(image, report, kernels))
    unpacked: dict[str, Initramfs] = {}
    findings.extend(_check_initramfs(reports, kernels, unpacked))
    findings.extend(_check_ways(image, reports, kernels, unpacked))
    cmdlines = _cmdlines(image.boot, reports)
    initramfs = any(report.initramfs for report in reports.values())
    findings.extend(check_root(image, cmdlines, initramfs=initramfs))
    return tuple(dict.fromkeys(findings))


def load_all(boot: FileSystem, board: str, read: dict[str, bytes]) -> tuple[BootReport, tuple[Stop, ...]]:
    """Simulate a board; return what it does, and what stops it, all of it at once.

    For a missing file that stops it, it is simulated again with a stub in its place. `read` keeps what was read for the
    next board. Raises InputError for an unknown board.
    """
    stops: list[Stop] = []
    stubs: set[str] = set()
    while True:
        report = _simulate(FatTree(system=boot, stubs=frozenset(stubs), read_already=read), board)
        lacking = {asked.name for asked in report.requests if asked.outcome == "missing"}
        stop = report.stop
        if stop is None or stop.file not in lacking - stubs:
            for name in stubs:
                read.pop(name, None)
            return report, tuple(dict.fromkeys([*stops, *([stop] if stop else [])]))
        stubs.add(stop.file)
        stops.append(Stop.of(stop.kind, f"{stop.file} is not on the boot partition", file=stop.file))


def _notes(board: str, report: BootReport) -> list[Finding]:
    """Return what the firmware makes otherwise of config.txt and its files than it may look."""
    return [Finding(check=f"{board}: firmware", seen=told, result="note") for told in report.notes if told != PI5_ORDER]


def _check_loads(board: str, report: BootReport, stops: Sequence[Stop]) -> Finding:
    check = f"{board}: boot files"
    if stops:
        hints = dict.fromkeys(_HINTS[stop.kind] for stop in stops if stop.kind in _HINTS)
        seen = "; ".join(stop.said for stop in stops)
        return Finding(check=check, result="broken", seen=seen, hint="; ".join(hints))
    firmware = [
        asked.name for asked in report.requests if asked.outcome == "sent" and asked.name.endswith((".elf", ".dat"))
    ]
    files = [*firmware, report.kernel, *report.initramfs, report.dtb]
    lacks_fixup = BOARDS[board].family != "pi5" and not any(name.endswith(".dat") for name in firmware)
    if lacks_fixup:
        name = "fixup4.dat" if BOARDS[board].family == "pi4" else "fixup.dat"
        detail = f"{name} is not on the boot partition: the board sees little of its memory"
        return Finding(check=check, result="broken", seen=detail, hint=_HINTS[StopKind.FIRMWARE])
    return Finding(check=check, result="ok", seen=", ".join(file for file in files if file))


def _check_dtb(board: str, report: BootReport) -> list[Finding]:
    data = report.contents.get(report.dtb or "", _STUB)
    if data != _STUB and not data.startswith(_DTB_MAGIC):
        hint = "copied while the disk was full? install the kernel package again"
        detail = f"{report.dtb} is no device tree ({len(data)} bytes)"
        return [Finding(check=f"{board}: device tree", result="broken", seen=detail, hint=hint)]
    return []


def _check_free(image: Image) -> Finding:
    assert image.boot is not None  # noqa: S101 - asked by the only caller
    percent = 100 * image.boot.free // max(1, image.boot.size)
    return judge(
        check="boot partition",
        ok=percent >= _FREE_PERCENT,
        seen=f"{image.boot.label or 'no label'}, {percent} % free",
        hint=f"less than {_FREE_PERCENT} % is no room for the next kernel: raise disk.boot.size in the recipe",
    )


def _check_config_lines(boot: FileSystem) -> list[Finding]:
    if boot.find("/config.txt") is None:
        hint = "a Pi 5 does not boot without; write at least kernel= and initramfs lines"
        return [Finding(check="config.txt", result="broken", seen="there is none on the boot partition", hint=hint)]
    long, todo, seen = [], ["config.txt"], set()
    while todo:
        name = todo.pop()
        if name in seen or (entry := boot.find(name)) is None or entry.directory:
            continue
        seen.add(name)
        for number, line in enumerate(boot.head(name, CONFIG_LIMIT).decode(errors="replace").splitlines(), start=1):
            if len(line) > LINE_LIMIT and not line.lstrip().startswith("#"):
                long.append(f"{name}:{number}")
            if line.strip().startswith("include "):
                todo.append(line.split(maxsplit=1)[1].strip())
    detail = f"longer than {LINE_LIMIT} characters: {', '.join(long)}" if long else f"{len(seen)} file(s) read"
    hint = f"the firmware cuts lines after {LINE_LIMIT} characters without a word: split them"
    return [judge(check="config.txt", ok=not long, seen=detail, hint=hint)]


def _check_kernel(image: Image, report: BootReport, kernels: dict[str, KernelImage]) -> list[Finding]:
    data = report.contents.get(report.kernel or "", _STUB)
    name = report.kernel
    if name is None or data == _STUB or name in kernels:
        return []
    kernel = kernels[name] = read_kernel(data)
    if not kernel.bootable:
        said = {
            "zboot": "is an EFI program with a kernel packed inside, which the firmware cannot start",
            "broken": "is gzip-compressed and damaged",
            "too big": "unpacks to more than any kernel",
        }
        detail = f"{name} {said.get(kernel.format, 'is no arm64 kernel (no magic ARMd at 0x38)')}"
        hint = "put an arm64 Image there, plain or gzip-compressed; is the kernel package of architecture arm64?"
        return [Finding(check="kernel", result="broken", seen=detail, hint=hint)]
    found = Finding(
        check="kernel", result="ok", seen=f"{name}: {kernel.format} {kernel.version or 'of unknown version'}"
    )
    return [found, _check_modules(image, name, kernel.version)]


def _check_modules(image: Image, name: str, version: str) -> Finding:
    there = image.root.find("/lib/modules")
    versions = [entry.name for entry in image.root.list("/lib/modules")] if there and there.directory else []
    if version:
        ok = version in versions and image.root.find(f"/lib/modules/{version}/modules.dep") is not None
    else:
        ok = bool(versions)
    detail = (
        f"/lib/modules/{version}" if ok else f"{name} is {version or 'unknown'}, /lib/modules has {versions or 'none'}"
    )
    hint = "kernel and modules come from one package: install it again; did its hook copy this kernel to the FAT?"
    return judge(check="modules", ok=ok, seen=detail, hint=hint)


def _check_initramfs(
    reports: Mapping[str, BootReport], kernels: Mapping[str, KernelImage], unpacked: dict[str, Initramfs]
) -> list[Finding]:
    """Check each initramfs with each kernel that gets it; `unpacked` keeps what could be looked into."""
    unique = {}
    for report in reports.values():
        kernel = kernels.get(report.kernel or "")
        for name in report.initramfs:
            if report.contents[name] != _STUB:
                unique[name, kernel.version if kernel else ""] = report.contents[name]
    return [_initramfs(name, version, data, unpacked) for (name, version), data in unique.items()]


def _initramfs(name: str, version: str, data: bytes, unpacked: dict[str, Initramfs]) -> Finding:
    hint = f"update-initramfs -c -k {version or 'VERSION'} in the image, then copy it to the boot partition as {name}"
    try:
        found = unpacked.get(name) or read_initramfs(data)
    except BrokenInitramfsError as error:
        return Finding(check="initramfs", result="broken", seen=f"{name}: {error.message}", hint=hint)
    except PibuildError as error:
        return Finding(
            check="initramfs", result="broken", seen=f"{name}: not seen: {error.message}", hint=error.hint or hint
        )
    unpacked[name] = found
    made_of = f"{'+'.join(found.compressions)}, {found.files} files"
    if not found.init:
        return Finding(check="initramfs", result="broken", seen=f"{name} ({made_of}) has no /init", hint=hint)
    if version and found.modules and version not in found.modules:
        detail = f"{name} is for {', '.join(found.modules)}, the kernel is {version}"
        return Finding(check="initramfs", result="broken", seen=detail, hint=hint)
    return Finding(
        check="initramfs", result="ok", seen=f"{name}: {made_of}, modules {', '.join(found.modules) or 'none'}"
    )


def _check_ways(
    image: Image,
    reports: Mapping[str, BootReport],
    kernels: Mapping[str, KernelImage],
    unpacked: Mapping[str, Initramfs],
) -> list[Finding]:
    """Check that each board's kernel reaches its root the way the command line says, and say which other ways hold."""
    findings = []
    for board, report in reports.items():
        kernel = kernels.get(report.kernel or "")
        dtb = report.contents.get(report.dtb or "")
        if kernel is None or not kernel.version or any(name not in unpacked for name in report.initramfs):
            continue  # FAILED already
        drivers = _drivers(image, kernel.version, [unpacked[name] for name in report.initramfs])
        wanted = "network" if "root=/dev/nfs" in (report.cmdline or "").split() else "sd"
        findings.append(_check_way(board, wanted, board_ways(BOARDS[board], drivers, None if dtb == _STUB else dtb)))
    return findings


def _drivers(image: Image, version: str, initramfs: Sequence[Initramfs]) -> Drivers:
    def read(path: str) -> bytes | None:
        found = image.root.find(path)
        return None if found is None or found.kind != "file" else image.root.head(path, _FACTS)

    loadable = {name for each in initramfs for name in each.drivers.get(version, ())}
    return find_drivers(read, version, loadable)


def _check_way(board: str, wanted: str, ways: Mapping[str, tuple[str, ...]]) -> Finding:
    title = BOARDS[board].title
    if wanted not in ways:
        detail = f"a {title} is not known to reach its root over the {WAY_NAMES[wanted]}"
        return Finding(check=f"{board}: root", result="broken", seen=detail, hint="root= of a disk in cmdline.txt")
    good = [WAY_NAMES[name] for name, lacks in ways.items() if not lacks]
    bad = [f"{WAY_NAMES[name]}: {'; '.join(lacks)}" for name, lacks in ways.items() if lacks]
    if ways[wanted]:
        detail = ". ".join([*bad, *([f"Only by {', '.join(good)}"] if good else [])])
        hint = (
            f"a {title} needs another kernel or these in /etc/initramfs-tools/modules: docs/boards.md; "
            "without this board: --board, or boards: in the recipe"
        )
        return Finding(check=f"{board}: root", result="broken", seen=detail, hint=hint)
    return Finding(check=f"{board}: root", result="ok", seen=". Not by ".join([", ".join(good), *bad]))


def _cmdlines(boot: FileSystem, reports: dict[str, BootReport]) -> dict[str, bytes]:
    """Return the command line files that the boards read, by name."""
    found = {}
    for report in reports.values():
        name = next((asked.name for asked in report.requests if asked.name.endswith(_cmdline_name(report))), None)
        if name is not None and boot.find(name) is not None:
            found[name] = boot.read(name)
    return found


def _cmdline_name(report: BootReport) -> str:
    return report.settings.get("cmdline", "cmdline.txt").lstrip("/")

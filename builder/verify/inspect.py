"""Say what is in an image: `pibuild inspect`. Everything is read from the files, nothing is mounted or run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from builder.console import size
from builder.firmware.simulate import PI5_ORDER
from builder.image.filesystem import FileSystem
from builder.image.kernel import read_kernel
from builder.image.open import Image
from builder.image.partitions import Partition
from builder.image.passwd import parse_id
from builder.packages.dpkg_status import STATUS, Package, parse_status
from builder.printable import one_line
from builder.verify.boot_chain import boards_of, load_all
from builder.verify.boot_chain_root import passwords_of

_UNIT_DIRECTORY = "/etc/systemd/system"
_NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")
_MACHINES = {183: "arm64", 40: "armhf", 62: "amd64", 3: "i386", 243: "riscv64"}  # elf.h: EM_*
_BIGGEST = 12
_DEPTH = 3  # of the directories whose sizes are told


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel file on the boot partition; `version` empty when it cannot be told."""

    file: str
    version: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFiles:
    """What a board loads or asks for. `stop` says why it would not come up, empty when it would."""

    board: str
    firmware: tuple[str, ...]
    kernel: str
    initramfs: tuple[str, ...]
    dtb: str
    overlays: tuple[str, ...]
    cmdline: str
    stop: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account with a login shell. `password` is locked, set or empty; `keys` counts authorized SSH keys."""

    name: str
    uid: int
    shell: str
    password: str
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Systemd units that /etc/systemd/system enables (by a link in some .wants or .requires) and masks, sorted."""

    enabled: tuple[str, ...]
    masked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is in an image. Sizes are bytes; `os` is os-release; `largest` has directories with all they hold."""

    image: str
    size: int
    table: str
    disk_id: str
    partitions: tuple[Partition, ...]
    os: Mapping[str, str]
    hostname: str
    architecture: str
    kernels: tuple[Kernel, ...]
    modules: tuple[str, ...]
    boards: tuple[BoardFiles, ...]
    packages: tuple[Package, ...]
    units: Units
    users: tuple[User, ...]
    files: int
    largest: tuple[tuple[str, int], ...]


def inspect(image: Image) -> Inspection:
    """Read it all; a few seconds for a system of 40 000 files."""
    root = image.root
    files, largest = _sizes(root)
    read: dict[str, bytes] = {}
    boards = tuple(_board_files(image.boot, board, read) for board in boards_of(image)) if image.boot else ()
    modules = root.list("/lib/modules") if root.find("/lib/modules") else ()
    return Inspection(
        image=str(image.given),
        size=image.size,
        table=image.table.kind,
        disk_id=image.table.disk_id,
        partitions=image.partitions,
        os=_os_release(root),
        hostname=text_of(root, "/etc/hostname").strip(),
        architecture=_architecture(root),
        kernels=_kernels(image.boot, boards),
        modules=tuple(entry.name for entry in modules if entry.directory),
        boards=boards,
        packages=packages_of(root),
        units=units_of(root),
        users=_users(root),
        files=files,
        largest=largest,
    )


def to_dict(found: Inspection) -> dict[str, Any]:
    """Return an inspection as JSON has it."""
    return dataclasses.asdict(found)


def text_of(root: FileSystem, path: str) -> str:
    """Return a text file's content, nothing when there is no such file."""
    entry = root.find(path)
    return root.text(path) if entry is not None and not entry.directory else ""


def packages_of(root: FileSystem) -> tuple[Package, ...]:
    """Return the installed Debian packages; none when the system has no dpkg."""
    return parse_status(text_of(root, STATUS))


def units_of(root: FileSystem) -> Units:
    """Return what the image's administrator enabled and masked (systemctl(1); a mask is a link to /dev/null)."""
    if not root.find(_UNIT_DIRECTORY):
        return Units(enabled=(), masked=())
    enabled: set[str] = set()
    masked: set[str] = set()
    for entry in root.list(_UNIT_DIRECTORY):
        if entry.directory and entry.name.endswith((".wants", ".requires")):
            enabled.update(link.name for link in root.list(entry.path))
        elif entry.target == "/dev/null" or (entry.kind == "file" and entry.size == 0):
            masked.add(entry.name)
    return Units(enabled=tuple(sorted(enabled - masked)), masked=tuple(sorted(masked)))


def _os_release(root: FileSystem) -> dict[str, str]:
    """Return os-release's fields (os-release(5))."""
    text = text_of(root, "/etc/os-release") or text_of(root, "/usr/lib/os-release")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.strip().strip("\"'") for name, value in pairs}


def _architecture(root: FileSystem) -> str:
    init = next((path for path in ("/sbin/init", "/bin/sh", "/usr/bin/dpkg") if root.find(path)), None)
    head = root.head(init, 20) if init else b""
    if not head.startswith(b"\x7fELF"):
        return "unknown"
    machine = int.from_bytes(head[18:20], "little")
    return _MACHINES.get(machine, f"ELF machine {machine}")


def _board_files(boot: FileSystem, board: str, read: dict[str, bytes]) -> BoardFiles:
    report, stops = load_all(boot, board, read)
    loaded = [asked.name for asked in report.requests if asked.outcome == "sent"]
    return BoardFiles(
        board=board,
        firmware=tuple(dict.fromkeys(name for name in loaded if name.endswith((".elf", ".dat", ".bin")))),
        kernel=report.kernel or "",
        initramfs=report.initramfs,
        dtb=report.dtb or "",
        overlays=report.overlays,
        cmdline=report.cmdline or "",
        stop="; ".join(stop.said for stop in stops),
        notes=tuple(note for note in report.notes if note != PI5_ORDER),
    )


def _kernels(boot: FileSystem | None, boards: tuple[BoardFiles, ...]) -> tuple[Kernel, ...]:
    """Return the kernels that boards load and those that lie beside them."""
    if boot is None:
        return ()
    names = dict.fromkeys(board.kernel for board in boards if board.kernel)
    for entry in boot.list("/"):
        if entry.kind == "file" and entry.name.lower().startswith(("kernel", "vmlinuz")):
            names.setdefault(entry.name)
    found = []
    for name in filter(boot.find, names):
        kernel = read_kernel(boot.read(name))
        found.append(Kernel(file=name, version=kernel.version, format=kernel.format))
    return tuple(found)


def _users(root: FileSystem) -> tuple[User, ...]:
    passwords = passwords_of(root)
    users = []
    for line in text_of(root, "/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) != 7 or fields[6].rpartition("/")[2] in _NO_LOGIN:  # noqa: PLR2004 - passwd(5)
            continue
        keys = text_of(root, f"{fields[5]}/.ssh/authorized_keys").splitlines()
        users.append(
            User(
                name=fields[0],
                uid=-1 if (uid := parse_id(fields[2])) is None else uid,
                shell=fields[6] or "/bin/sh",
                password=passwords.get(fields[0], "locked"),
                keys=sum(1 for key in keys if key.strip() and not key.startswith("#")),
            )
        )
    return tuple(users)


def _sizes(root: FileSystem) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return how many entries there are, and the biggest directories; a file with several names counts at its first."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    count = 0
    for entry in root.walk():
        count += 1
        if entry.kind != "file" or entry.inode in seen:
            continue
        seen.add(entry.inode)
        for parent in PurePosixPath(entry.path).parents:
            if 1 < len(parent.parts) <= _DEPTH + 1:
                sizes[str(parent)] += entry.size
    return count, tuple(sizes.most_common(_BIGGEST))


def rows(found: Inspection) -> list[tuple[str, str]]:
    """Return the inspection as (what, value) for people; an empty `what` continues the one above."""
    table = [("image", f"{found.image}  {size(found.size)}  {found.table} {found.disk_id}")]
    for part in found.partitions:
        used = f"{size(part.size - part.free)} of {size(part.size)}" if part.filesystem else size(part.size)
        table.append(
            (f"partition {part.number}", f"{part.filesystem or '?'} {part.label}  {used}  PARTUUID={part.partuuid}")
        )
    table += [
        ("system", found.os.get("PRETTY_NAME", "unknown")),
        ("architecture", found.architecture),
        ("hostname", found.hostname or "none"),
        *_list("kernel", [f"{each.file}  {each.format} {each.version}".rstrip() for each in found.kernels]),
        ("modules", ", ".join(found.modules) or "none"),
    ]
    for board in found.boards:
        files = (*board.firmware, *(board.overlays), board.kernel, *board.initramfs, board.dtb)
        lines = [", ".join(name for name in files if name), board.cmdline, board.stop, *board.notes]
        table += _list(f"boot {board.board}", [line for line in lines if line])
    biggest = sorted(found.packages, key=lambda package: -package.size)[:_BIGGEST]
    table.append(("packages", f"{len(found.packages)}, {size(sum(each.size for each in found.packages))} installed"))
    table += _list("biggest packages", [f"{size(each.size):>10}  {each.name} {each.version}" for each in biggest])
    table += _list("units enabled", [", ".join(found.units.enabled) or "none"])
    table += _list("units masked", [", ".join(found.units.masked) or "none"])
    table += _list(
        "users", [f"{u.name} ({u.uid}) {u.shell}, password {u.password}, {u.keys} keys" for u in found.users]
    )
    table.append(("files", str(found.files)))
    table += _list("biggest directories", [f"{size(taken):>10}  {path}" for path, taken in found.largest])
    return table


def _list(what: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(what if index == 0 else "", line) for index, line in enumerate(lines)]


def render(found: Inspection) -> list[str]:
    """Return the inspection as lines for people."""
    table = rows(found)
    width = max(len(what) for what, _ in table)
    return [one_line(f"{what:<{width}}  {value}") for what, value in table]

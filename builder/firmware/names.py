"""Give a FAT's files the names that the firmware asks for: a FAT ignores case, a TFTP server does not.

Source of the names: Raspberry Pi documentation, "config.txt" and "What boot folder contents mean"; they are lower case,
but for those that config.txt gives, which are asked for as it writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from builder.errors import InputError, Problem

_ASKED = re.compile(
    r"(config|cmdline|autoboot|tryboot|usercfg|syscfg|nobtcfg)\.txt|bootcode\.bin|start.*\.elf|fixup.*\.dat"
    r"|kernel.*\.img|initramfs.*|armstub.*\.bin|pieeprom\..*|recovery\..*|overlays|.*\.dtb|.*\.dtbo|current|boot\.(img|sig)",
    re.IGNORECASE,
)
_FILES = frozenset(
    {"kernel", "cmdline", "device_tree", "start_file", "fixup_file", "ramfsfile", "armstub", "os_prefix"}
    | {"overlay_prefix", "initramfs", "include", "dtoverlay", "device_tree_overlay"}
)
_LINE = re.compile(r"\s*([A-Za-z_]\w*)\s*[=\s]\s*(.*)")
_MOST_TEXT = 1 << 20  # bytes of a config.txt that are looked at


def name_for_firmware(boot: Path) -> None:
    """Rename what lies in a copy of a boot partition. Raises InputError for two files that one name would be."""
    _require_distinct(boot)
    for path in sorted(boot.rglob("*"), key=lambda each: -len(each.parts)):
        if _ASKED.fullmatch(path.name):
            _rename(path, path.name.lower())
    config = boot / "config.txt"
    if config.is_file():
        with config.open("rb") as file:
            text = file.read(_MOST_TEXT).decode(errors="replace")
        for written in dict.fromkeys(_written(text)):
            _name_as_written(boot, written)


def _require_distinct(boot: Path) -> None:
    seen: dict[tuple[Path, str], Path] = {}
    for path in boot.rglob("*"):
        other = seen.setdefault((path.parent, path.name.lower()), path)
        if other != path:
            names = f"{path.relative_to(boot)} and {other.relative_to(boot)}"
            hint = "check it with `fsck.fat -n`: do not use this image"
            raise InputError(Problem(message=f"the boot partition holds {names}, which a FAT cannot", hint=hint))


def _written(text: str) -> Iterator[PurePosixPath]:
    """Yield the paths that a config.txt names."""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or found[1] not in _FILES:
            continue
        words = found[2].split("#")[0].split()
        if not words:
            continue
        if found[1] in ("dtoverlay", "device_tree_overlay"):
            yield PurePosixPath("overlays", words[0].split(",")[0].split(":")[0] + ".dtbo")
        else:
            yield from (PurePosixPath(name) for name in words[0].split(",") if name)


def _name_as_written(boot: Path, written: PurePosixPath) -> None:
    place = boot
    for name in written.parts:
        if name in ("/", "..") or not place.is_dir():
            return
        wanted = place / name
        if not wanted.exists():
            there = next((path for path in place.iterdir() if path.name.lower() == name.lower()), None)
            if there is None:
                return
            _rename(there, name)
        place = wanted


def _rename(path: Path, name: str) -> None:
    if path.name == name:
        return
    before = path.parent.stat()
    path.rename(path.with_name(name))
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))

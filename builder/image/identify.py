"""How a booting image names its own partitions: root= in every cmdline.txt, and /etc/fstab. Pure text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.console import note
from builder.firmware.cmdline_txt import CmdlineEdit, edit
from builder.host.confine import resolve_in
from builder.host.named_file import text_in
from builder.image.fstab import waits_for_disk
from builder.image.partitions import DiskSpec, Layout, reference

_FSTAB = "etc/fstab"
_FSTAB_FIELDS = 6
_ROOT_LINE = ("ext4", "defaults,noatime,errors=remount-ro", "0", "1")
_BOOT_LINE = ("vfat", "defaults", "0", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """Rewritten files: `boot` by path within the boot partition, `root` by path within the root file system."""

    boot: Mapping[str, bytes] = field(default_factory=dict)
    root: Mapping[str, bytes] = field(default_factory=dict)


def boot_files(tree: Path, spec: DiskSpec, layout: Layout) -> BootFiles:
    """Return every cmdline.txt and the fstab of a tree, naming the partitions of `layout`. Nothing is written.

    Every `cmdline.txt` below the boot mount counts (releases with `os_prefix` have several), and what a `cmdline=` of a
    config.txt names. Where there is none, there is one in the top. Raises OSError where one cannot be read.
    """
    root, boot = reference(spec, layout.root), reference(spec, layout.boot)
    source = resolve_in(tree, spec.boot_mount)
    lines = {name: _read(tree, source, name) for name in _cmdlines(source) or ("cmdline.txt",)}
    fstab = resolve_in(tree, _FSTAB)
    text = text_in(tree, _FSTAB, errors="surrogateescape")
    edited = edit_fstab(text, {"/": root, spec.boot_mount: boot})
    for line in text.splitlines():
        if line not in edited.splitlines() and (words := line.split())[1] not in ("/", spec.boot_mount):
            note(f"/etc/fstab: {words[0]} at {words[1]} is left out: no partition of the image (nofail keeps it)")
    return BootFiles(
        boot={name: set_root(line, root).encode(errors="surrogateescape") for name, line in lines.items()},
        root={str(fstab.relative_to(tree)): edited.encode(errors="surrogateescape")},
    )


def set_root(cmdline: str, root: str) -> str:
    """Return a kernel command line whose root is the ext4 file system `root` (`PARTUUID=…`), and that waits for it."""
    return edit(cmdline, CmdlineEdit(set={"root": [root], "rootfstype": ["ext4"]}, add=["rootwait"]))


def edit_fstab(text: str, references: Mapping[str, str]) -> str:
    """Return an fstab(5) where each mount point of `references` is mounted from what it maps to.

    A line that is there keeps its options; one that is missing is added. A disk that is none of them, such as a base's
    partition that was dropped, goes if the boot would wait for it. All other lines stay as they are.
    """
    missing = dict(references)
    lines = []
    for line in text.splitlines():
        words = line.split()
        if line.lstrip().startswith("#") or len(words) < _FSTAB_FIELDS - 2 or words[1] not in references:
            if not waits_for_disk(words):
                lines.append(line)
        elif words[1] in missing:
            lines.append(line.replace(words[0], missing.pop(words[1]), 1))
    for point, device in missing.items():
        lines.append(" ".join((device, point, *(_ROOT_LINE if point == "/" else _BOOT_LINE))))
    return "\n".join(lines) + "\n"


def _cmdlines(boot: Path) -> tuple[str, ...]:
    """Return the command line files that a boot partition has, by relative path."""
    found = {path for path in boot.rglob("cmdline.txt") if path.is_file() or path.is_symlink()}
    for config in boot.rglob("config.txt"):
        named = re.findall(r"^\s*cmdline=(\S+)", text_in(boot, str(config.relative_to(boot))), re.MULTILINE)
        found |= {path for name in named if (path := boot / name.lstrip("/")).is_file()}
    return tuple(sorted(str(path.relative_to(boot)) for path in found))


def _read(tree: Path, boot: Path, name: str) -> str:
    return text_in(tree, str((boot / name).relative_to(tree)), errors="surrogateescape")

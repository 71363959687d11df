"""What of an image's fstab and kernel command line is for a machine with a disk, or for the first boot of an SD card.

A node boots the same root again and again, over the network: it would wait for a partition that it does not have
(systemd.mount(5): 90 s, then the emergency shell), or do at every boot what was meant for the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.firmware.cmdline_txt import CmdlineEdit, edit, key_of, split
from builder.image.fstab import is_entry, waits_for_disk

_ROOT = frozenset(
    {"root", "rootfstype", "rootflags", "nfsroot", "ip", "rootwait", "rootdelay", "ro", "rw", "resize", "fsck.repair"}
)
# what the kernel starts when nobody says otherwise (init/main.c), and where it lives today
_INITS = frozenset({"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"})
_RUN = ("systemd.run", "systemd.run_success_action", "systemd.run_failure_action")  # systemd-run-generator(8)
_RUN_UNIT = "kernel-command-line.target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What stays, and what was left out, in words."""

    lines: tuple[str, ...]
    left_out: tuple[str, ...]


def fstab_without_disks(text: str, boot_mount: str) -> Kept:
    """Return an fstab's lines without the disks that a diskless node does not have: root, boot, swap and all others.

    A disk that may be missing (nofail, noauto, automount) stays, as nobody waits for it; so does one on the network.
    """
    kept, left_out = [], []
    for line in text.splitlines():
        words = line.split()
        if is_entry(words) and (words[1] in ("/", boot_mount) or words[2] == "swap"):
            continue
        if waits_for_disk(words):
            told = f"{words[0]} at {words[1]} is left out: a node would wait for a disk (nofail keeps it)"
            left_out.append(f"/etc/fstab: {told}")
        else:
            kept.append(line)
    return Kept(lines=tuple(kept), left_out=tuple(left_out))


def cmdline_for_nfs(text: str, words: Sequence[str]) -> str:
    """Return a command line whose root is what `words` say, without what is a disk's or an SD card's first boot's."""
    remove = [*_ROOT, *(word for word in _words(text) if _why(word))]
    return edit(text, CmdlineEdit(remove=remove, add=words))


def cmdline_left_out(text: str) -> tuple[str, ...]:
    """Return in words what cmdline_for_nfs leaves out, but for what says where the root is."""
    return tuple(f"cmdline.txt: {word} is left out: {why}" for word in _words(text) if (why := _why(word)))


def _words(text: str) -> list[str]:
    """Return the words that are the kernel's: those after `--` are init's."""
    words = split(text)
    return words[: words.index("--")] if "--" in words else words


def _why(word: str) -> str:
    key, value = key_of(word), word.partition("=")[2].strip('"')
    for keys, is_meant, why in _ONCE:
        if key in keys and is_meant(value):
            return why
    return ""


_ONCE: tuple[tuple[frozenset[str], Callable[[str], bool], str], ...] = (
    (
        frozenset({"init"}),
        lambda value: str(PurePosixPath(value)) not in _INITS,
        "it would start instead of the system (cmdline: [init=…] of a node keeps it)",
    ),
    (frozenset(_RUN), lambda _: True, "it runs once from an SD card, and ends in a reboot"),
    (frozenset({"systemd.unit"}), lambda value: value == _RUN_UNIT, "it belongs to systemd.run="),
    (frozenset({"boot"}), lambda value: value != "nfs", "the root is on the network"),
    (frozenset({"overlayroot"}), lambda value: value != "disabled", "the root is the node's own, and kept"),
)

"""fstab(5): which entries a boot waits for, so that a disk that is not there stops it (systemd.mount(5))."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAG = re.compile(r"(?:LABEL|UUID|PARTLABEL|PARTUUID|ID)=.+", re.IGNORECASE)
_NO_DISK = re.compile(r"/dev/(?:zram|ram|loop|nbd|rbd|drbd|shm|fuse)\d*(?:p\d+)?")
_STAYS = frozenset({"nofail", "noauto", "x-systemd.automount", "_netdev"})  # the last: a disk on the network
_TYPED = 3  # fields of an entry, with its type


def is_entry(words: Sequence[str]) -> bool:
    """Return whether a line's words are an entry."""
    return len(words) >= _TYPED and not words[0].startswith("#")


def waits_for_disk(words: Sequence[str]) -> bool:
    """Return whether an entry names a disk of the machine's own, and the boot waits for it."""
    if not is_entry(words):
        return False
    disk = _TAG.fullmatch(words[0]) or (words[0].startswith("/dev/") and not _NO_DISK.fullmatch(words[0]))
    return bool(disk) and not _STAYS & set(",".join(words[_TYPED : _TYPED + 1]).split(","))

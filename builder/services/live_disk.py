"""What the file system under the netboot directory lets nodes reach: they can make up the handle of any file on it.

Exports are checked by directory when they are mounted and by file system afterwards (exports(5), no_subtree_check): a
compromised node's root may read and write whatever lies on the same one, by guessed inode numbers.
"""

from __future__ import annotations

import os
from pathlib import Path

from builder.services.files import Serving, netboot


def sharing(here: Serving) -> list[str]:
    """Return what nodes could reach that is not theirs, and what mount options are missing."""
    served = netboot(here.inventory)
    if not here.netbooting or not served.roots.is_dir():
        return []
    told = []
    exported = served.roots.stat().st_dev
    if exported == Path("/").stat().st_dev:
        told.append(
            f"{served.dest} shares a file system with /: a compromised node can reach every file of this machine; "
            "give it one of its own (docs/security.md)"
        )
    elif served.state.is_dir() and served.state.stat().st_dev == exported:
        told.append(
            f"{served.state}, with every node's keys, is on the file system that nodes mount: a compromised node can "
            "read them; mount a directory of another one there (docs/security.md)"
        )
    flags = os.statvfs(served.roots).f_flag
    lacking = [name for name, flag in (("nosuid", os.ST_NOSUID), ("nodev", os.ST_NODEV)) if not flags & flag]
    if lacking:
        told.append(f"{served.roots} is mounted without {' and '.join(lacking)}: what a node puts there works here too")
    return told

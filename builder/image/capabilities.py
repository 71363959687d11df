"""File capabilities in a tree: which files have them, and whether its programs can give them back."""

from __future__ import annotations

import os
from pathlib import Path

from builder.host.confine import resolve_in

CAPABILITY = "security.capability"  # the extended attribute


def capable_files(root: Path) -> list[Path]:
    """Return the files of a tree that have capabilities (capabilities(7)), which NFS does not carry."""
    paths = [Path(top, name) for top, _, names in os.walk(root) for name in names]
    return sorted(path for path in paths if not path.is_symlink() and CAPABILITY in os.listxattr(path))


def can_mend(root: Path) -> bool:
    """Return whether a root has what overlays/node's pibuild-node needs to give capabilities back."""
    return all(resolve_in(root, f"/usr/{place}").is_file() for place in ("sbin/setcap", "bin/mountpoint"))

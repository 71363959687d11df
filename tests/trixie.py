"""Programs of Debian trixie for this machine: the servers and checkers that the nodes' own ones talk to.

Taken from the archive with the builder's own resolution and checksums, and unpacked beside each other, so that a test
on any host meets the versions that the nodes have. Most are written in Go and need no library of the release.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from builder.build.archives import open_archive
from builder.host.cache import Cache, commit
from builder.packages.apt import Request
from builder.recipe.load import load_recipe
from builder.run import find_tool, run

RECIPE = Path(__file__).resolve().parents[1] / "recipes/debian.yaml"


def program(package: str, path: str) -> Path:
    """Return a program of a package, at its path in the unpacked package; what it depends on is not unpacked."""
    return unpacked(package) / path.lstrip("/")


@functools.cache
def unpacked(package: str) -> Path:
    """Return the directory of a package's files, unpacked once for each version."""
    cache = Cache(Path(os.environ.get("PIBUILD_CACHE", "/var/cache/pibuild")))
    with cache.room():
        cache.prepare()
        apt = open_archive(cache, "debian", "trixie", load_recipe(RECIPE, {}), "amd64")
        (deb,) = (deb for deb in apt.resolve(Request(install=(package,))).debs if deb.name == package)
        final = cache.root / "test-programs" / f"{deb.name}_{deb.sha256[:16]}"
        if not final.is_dir():
            apt.download([deb])
            with cache.scratch("program") as work:
                run([find_tool("dpkg-deb", package="dpkg"), "-x", cache.archives / deb.archive_name, work / "tree"])
                final.parent.mkdir(exist_ok=True)
                commit(work / "tree", final)
    return final

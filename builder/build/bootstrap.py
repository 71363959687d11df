"""Put packages into a root: a first root from nothing, and more packages on top, with the target's own dpkg."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.emulation.chroot import Bind, Chroot
from builder.errors import FetchError
from builder.host.confine import resolve_in
from builder.host.hashing import file_digest
from builder.packages.apt import Deb, Resolution
from builder.packages.contents import require_contained
from builder.recipe.schema import BaseImage, Bootstrap
from builder.run import find_tool, run

ARCHIVES = "/run/pibuild/archives"
# an interrupted layer is thrown away whole, so nothing needs to be synced; configuration files of a layer below win
_DPKG = ("dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--no-triggers")
_FIRST = ("base-passwd", "base-files", "libc6", "dpkg")
_PARALLEL = os.cpu_count() or 1


def verify(debs: Iterable[Deb], archives: Path) -> None:
    """Raise FetchError unless every package file is the one the lock names."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        debs = list(debs)
        for deb, digest in zip(debs, pool.map(lambda d: file_digest(archives / d.archive_name), debs), strict=True):
            if digest != deb.sha256:
                (archives / deb.archive_name).unlink()
                raise FetchError(f"{deb.archive_name} in the cache was damaged and is removed", hint="build again")
            os.utime(archives / deb.archive_name)  # used now: gc keeps it


def prepare_root(root: Path, debs: Sequence[Deb], archives: Path) -> None:
    """Unpack packages into an empty directory, so that programs can run there; nothing is configured yet."""
    verify(debs, archives)
    merged = {name: f"usr/{name}" for name in ("bin", "sbin", "lib")}
    require_contained([archives / deb.archive_name for deb in debs], links=merged)
    for name in merged:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    (root / "tmp").chmod(0o1777)
    unpack = find_tool("dpkg-deb", package="dpkg")
    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda deb: run([unpack, "-x", archives / deb.archive_name, root]), debs))


def install(chroot: Chroot, answer: Resolution, archives: Path, *, first: bool = False) -> None:
    """Remove and install what a resolution says, inside a root. Raises CommandError with dpkg's words.

    All packages are unpacked, then configured in the order their dependencies ask for, then triggers run, once.
    """
    verify(answer.debs, archives)
    shop = Chroot(
        root=chroot.root,
        emulation=chroot.emulation,
        native=chroot.native,
        env=chroot.env,
        binds=[*chroot.binds, Bind(source=archives, target=ARCHIVES)],
    )
    if answer.removes:
        shop.run([*_DPKG, "--force-depends", "--purge", *answer.removes])
    if answer.debs:
        ordered = sorted(
            answer.debs, key=lambda deb: (_FIRST.index(deb.name) if deb.name in _FIRST else len(_FIRST), deb.name)
        )
        paths = [f"{ARCHIVES}/{deb.archive_name}" for deb in ordered]
        force = ["--force-depends"] if first else ["--force-depends", "--auto-deconfigure"]
        shop.run([*_DPKG, *force, "--unpack", *paths])
    shop.run([*_DPKG[:-1], "--configure", "--pending"])


def write_sources(root: Path, base: Bootstrap | BaseImage, text: str) -> None:
    """Give an image its own apt sources, whatever mirror it was built from."""
    if isinstance(base, Bootstrap):
        # maintainer scripts ran in the root: its links are not the host's
        path = resolve_in(root, f"etc/apt/sources.list.d/{base.distribution}.sources")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        resolve_in(root, "etc/apt/sources.list", follow=False).unlink(missing_ok=True)

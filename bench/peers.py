"""Another builder on the same task: mkosi, which makes the recipe's packages a directory, fully emulated."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bench.builds import Bench
from bench.emulation import SUITE, lock_of, make_root, packages_of
from bench.measure import measure
from bench.results import Result, ratio, row
from builder import console
from builder.emulation.mode import full_emulation
from builder.errors import HostError
from builder.host import mounts
from builder.host.cache import Cache
from builder.packages.mirrors import candidate_sources, find_keyring
from builder.run import find_tool, run

_MAJOR = 14  # Debian 12's: later ones take other options
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


def mkosi(bench: Bench) -> Iterator[Result]:
    """Make the recipe's root, then let mkosi make a directory of the same packages, package files cached for both."""
    program = find_tool("mkosi", package="mkosi")
    version = re.findall(r"\d+", run([program, "--version"]).stdout)[0]
    if int(version) != _MAJOR:
        raise HostError(f"mkosi {version} takes other options than mkosi {_MAJOR}", hint="measure on Debian 12")
    root = make_root(bench)
    yield root.row("native tools: root", "with its initramfs, no image")
    names = packages_of(lock_of(bench))
    with console.progress("mkosi"), arm64_handler():
        made = measure([program, *options(bench, names)])
    # it runs apt with INITRD=No
    note = f"mkosi {version}, directory, {len(names)} packages, package files cached, no initramfs"
    yield row("mkosi", made, note=note)
    yield ratio("mkosi / native tools (goal 7)", made.seconds, root.seconds, least=4)
    yield ratio("  the same, processor time", made.cpu, root.cpu)


def options(bench: Bench, names: list[str]) -> list[str | Path]:
    """Write down what mkosi needs, and return its options; its cache of packages gets the files of ours."""
    work = bench.directory.absolute() / "mkosi"
    packages, skeleton, scratch = work / f"cache/debian~{SUITE}", work / "skeleton", work / "tmp"
    for path in (packages, skeleton / "etc/apt/apt.conf.d", scratch):
        path.mkdir(parents=True, exist_ok=True)
    for file in (bench.cache / "archives").resolve().glob("*.deb"):
        with contextlib.suppress(FileExistsError):
            os.link(file, packages / file.name)
    # mkosi hides the machine's own configuration of apt: proxies and validity checks
    said = run([find_tool("apt-config", package="apt"), "dump", "Acquire"]).stdout
    (skeleton / "etc/apt/apt.conf.d/00machine").write_text(said)
    keyring, cache = find_keyring("debian"), Cache(bench.cache)
    first = next(candidate_sources("debian", SUITE, ("main",), mirror="auto", keyring=keyring, cache=cache))[0]
    return [
        *("--distribution", "debian", "--release", SUITE, "--architecture", "aarch64", "--mirror", first.uris),
        *("--repositories", "main,non-free-firmware", "--package", ",".join(names), "--with-docs", "yes"),
        *("--format", "directory", "--bootable", "no", "--force", "--output", work / "root"),
        *("--cache", work / "cache", "--skeleton-tree", skeleton, "--workspace-dir", scratch, "build"),
    ]


@contextlib.contextmanager
def arm64_handler() -> Iterator[None]:
    """Have a handler for arm64 programs during the block: the machine's own, else one that ends with the block.

    Needs a private mount namespace.
    """
    registration = full_emulation().registration()
    mounts.mount("binfmt_misc", _BINFMT, "binfmt_misc")
    own = _BINFMT / "pibuild"
    try:
        if registration and not (_BINFMT / "qemu-aarch64").exists() and not own.exists():
            (_BINFMT / "register").write_text(registration)
        yield
    finally:
        if own.exists():
            own.write_text("-1")
        mounts.unmount(_BINFMT)

"""The native tools tree: the host architecture's builds of the programs that a package installation spends its time in.

    tools/KEY/root/            the packages, unpacked (not configured)
    tools/KEY/libraries/       loader and libraries, seen at /run/pibuild/libamd64 while a program runs
    tools/KEY/lower/           what libraries load by a compiled-in path; the bottom-most overlay directory
    tools/KEY/perl/            the same for the modules of a full perl, for targets that have one
    tools/KEY/programs.json    {path in the target: [package, version]}

A program stands in only where the target holds the same package in the same version. What a program's result says about
the machine (uname, the architecture of dpkg) decides whether it may be here at all: docs/emulation.md.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import HostError
from builder.host.cache import Cache, commit, read_json, write_json
from builder.host.hashing import digest_of
from builder.packages.apt import Apt, Deb, Request
from builder.packages.contents import require_contained
from builder.run import find_tool, run

VERSION = 5
PACKAGES = (
    "base-files", "bash", "bsdutils", "bzip2", "ca-certificates", "coreutils", "cpio", "dash", "debconf",
    "debianutils", "diffutils", "dpkg", "dracut-install", "findutils", "gpgv", "grep", "gzip", "hostname",
    "init-system-helpers", "initramfs-tools-bin", "kmod", "libc-bin", "locales", "man-db", "mawk", "openssh-client",
    "openssl", "passwd", "perl-base", "procps", "python3-minimal", "sed", "shared-mime-info", "systemd", "tar",
    "udev", "ucf", "util-linux", "xz-utils", "zstd",
)  # fmt: skip
_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/lib/dracut", "usr/lib/systemd", "usr/lib/initramfs-tools")
# What tells of the machine, or reads and writes the target's own libraries: always emulated.
_EMULATED = frozenset({
    "arch", "chroot", "dpkg-architecture", "getconf", "getent", "i386", "ischroot", "kernel-install", "ldconfig",
    "ldconfig.real", "ldd", "linux32", "linux64", "login", "lscpu", "mount", "nproc", "nsenter", "perlbug", "runuser",
    "setarch", "su", "sudo", "systemd-detect-virt", "umount", "uname", "unshare", "x86_64",
})  # fmt: skip
# Programs that ask for the architecture they were built for; the name is compiled in and has the same length.
_PATCHED = (
    "dpkg",
    "dpkg-deb",
    "dpkg-query",
    "dpkg-divert",
    "dpkg-split",
    "dpkg-statoverride",
    "dpkg-trigger",
    "update-alternatives",
)
_ELF = b"\x7fELF"
_LIBPERL = "?name(^libperl5[.][0-9]+$)"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"
# Where programs look for their loader, and the loader for libraries: constants, replaced by others of the same length.
# At their own places a hook of the target could take them for its own (`for library in /usr/lib/*/libkmod.so.*`).
_INTERPRETER = (b"/lib64/ld-linux-x86-64.so.2\0", b"/run/pibuild/libamd64/ld.so\0")
_SEARCHED = (b"\0/lib/x86_64-linux-gnu/\0", b"\0/run/pibuild/libamd64/\0")


def resolve_tools(apt: Apt) -> tuple[Deb, ...]:
    """Return the packages of a tools tree from one archive, remembered per state of the archive."""
    memo = apt.cache.resolutions / f"tools-{digest_of([VERSION, list(PACKAGES), apt.release_digest()])[:32]}.json"
    known = read_json(memo)
    if known is None:
        known = apt.resolve(Request(install=("?essential", *PACKAGES, _LIBPERL))).to_json()
        write_json(memo, known)
    return tuple(Deb(**fields) for fields in known["debs"])


def make_tools_tree(cache: Cache, apt: Apt, debs: Sequence[Deb]) -> Path:
    """Return the finished tools tree for these packages; it is built when it is not in the cache yet."""
    final = cache.tools / digest_of([VERSION, sorted(deb.sha256 for deb in debs)])[:32]
    if final.is_dir():
        os.utime(final)  # used now: gc keeps it
        return final
    apt.download(debs)
    unpack = find_tool("dpkg-deb", package="dpkg")
    with cache.scratch("tools") as work:
        root = work / "tree" / "root"
        merged = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        require_contained([cache.archives / deb.archive_name for deb in debs], links=merged)
        for link in merged:
            (root / "usr" / link).mkdir(parents=True)
            (root / link).symlink_to(f"usr/{link}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            places = [work / "tree" / "perl" if is_libperl(deb.name) else root for deb in debs]
            list(
                pool.map(lambda deb, place: run([unpack, "-x", cache.archives / deb.archive_name, place]), debs, places)
            )
        for path in (work / "tree" / "perl" / "usr").iterdir():
            if path.name != "lib":
                shutil.rmtree(path)
        for name in _PATCHED:
            _patch(root / "usr/bin" / name, b"\0amd64\0", b"\0arm64\0")
        programs = _programs(cache, root, debs)
        for program in programs:
            _patch(root / program[1:], *_INTERPRETER)
        write_json(work / "tree" / "programs.json", programs)
        _make_libraries(root / _LIBRARIES, work / "tree" / "libraries")
        _make_lower(root / _LIBRARIES, work / "tree" / "lower" / _LIBRARIES)
        for path in (work / "tree" / "perl" / _LIBRARIES).iterdir():
            if not path.is_dir():
                path.unlink()
        commit(work / "tree", final)
    return final


def is_libperl(package: str) -> bool:
    """Return whether a package holds the compiled modules of a full perl."""
    return package.startswith("libperl5.")


def read_programs(tools: Path) -> dict[str, tuple[str, str]]:
    """Return the programs of a tools tree: path in the target to (package, version)."""
    return {path: (package, version) for path, (package, version) in read_json(tools / "programs.json").items()}


def source_version(version: str) -> str:
    """Return a version without the mark of a rebuild (`+b1`), which each architecture counts for itself."""
    return re.sub(r"\+b[0-9]+$", "", version)


def _patch(program: Path, old: bytes, new: bytes) -> None:
    """Replace a constant of a program by another of the same length: all it takes to answer, or look, elsewhere."""
    if program.is_file() and not program.is_symlink():
        program.write_bytes(program.read_bytes().replace(old, new))


def _programs(cache: Cache, root: Path, debs: Sequence[Deb]) -> dict[str, list[str]]:
    """Return which of the tree's programs may stand in, with the package and version each comes from."""
    found: dict[str, list[str]] = {}
    for deb in debs:
        listed = run([find_tool("dpkg-deb", package="dpkg"), "--contents", cache.archives / deb.archive_name]).stdout
        for line in listed.splitlines():
            words = line.split(maxsplit=5)
            path = merged_path(words[5].removeprefix("./"))
            name = path.rpartition("/")[2]
            if not path.startswith(_DIRECTORIES) or name in _EMULATED or name.startswith("apt") or is_libperl(deb.name):
                continue
            if (
                words[0].startswith("-")
                and words[0][3] != "s"
                and (root / path).read_bytes()[:4] == _ELF
                and _may_stand_in(path)
            ):
                found[f"/{path}"] = [deb.name, deb.version]
    return found


def _may_stand_in(path: str) -> bool:
    return not path.startswith("usr/lib/systemd/") or path.rpartition("/")[2] in ("systemd-sysusers", "systemd-hwdb")


def merged_path(path: str) -> str:
    """Return a package's path below /usr, where the target's links lead it."""
    return f"usr/{path}" if path.startswith(("bin/", "sbin/", "lib/", "lib64/")) else path


def _make_libraries(source: Path, into: Path) -> None:
    """Copy the libraries, and the loader, made to look for them where they will be seen. Raises HostError."""
    into.mkdir()
    for path in source.iterdir():
        if not path.is_dir():
            shutil.copy2(path, into / path.name, follow_symlinks=False)
    loader = (source / _LOADER).read_bytes()
    old, new = _SEARCHED
    if loader.count(old) != 1:
        raise HostError(
            f"the C library's loader {_LOADER} has no search path that could be changed",
            hint="--emulation full builds without native tools",
        )
    (into / "ld.so").write_bytes(loader.replace(old, new))
    (into / "ld.so").chmod(0o755)


def _make_lower(source: Path, into: Path) -> None:
    """Copy what is loaded by a compiled-in path (perl's modules, gconv, private libraries): directories alone."""
    into.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_dir():
            shutil.copytree(path, into / path.name, symlinks=True)

"""How arm64 programs run on this host: directly, through qemu-user, or with native stand-ins from a tools tree.

The stand-ins are builds for the host's architecture of the same packages in the same versions. The launcher
(launcher.c) is what the kernel starts for an arm64 program; it hands over to the stand-in where there is one, else to
qemu. See docs/emulation.md for what may stand in and how that is proven.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError
from builder.host.cache import Cache, commit
from builder.host.hashing import digest_of
from builder.run import find_tool, run

# include/uapi/linux/elf.h: 64-bit little-endian, ET_EXEC or ET_DYN, EM_AARCH64 (0xb7), as binfmt_misc wants it escaped
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_PRIVATE_BINFMT = (6, 7)  # binfmt_misc is per user namespace from this kernel on
_QEMU, _LAUNCHER = "/run/pibuild/qemu", "/run/pibuild/launcher"  # where a root sees them


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """One way to run arm64 programs. `mode` is "none", "full" or "native-tools"."""

    mode: str
    qemu: Path | None = None
    launcher: Path | None = None
    tools: Path | None = None
    log: Path | None = None

    def registration(self) -> str:
        """Return the line for binfmt_misc's register file, empty where no handler is needed.

        Flags: P keeps argv[0], O passes the opened program, C takes its credentials (sudo, su), F opens the interpreter
        now: a root within the root needs no path to it. It is the one that the root sees, over a read-only mount, so
        that no program can write to what runs it (/proc/PID/exe).
        """
        interpreter = _LAUNCHER if self.launcher else _QEMU if self.qemu else ""
        return f":pibuild:M::{_MAGIC}:{_MASK}:{interpreter}:POCF" if interpreter else ""

    def binds(self) -> tuple[tuple[Path, str], ...]:
        """Return what a root must see below /run/pibuild: (host path, path inside)."""
        if self.qemu is None:
            return ()
        if self.launcher is None or self.tools is None:
            return ((self.qemu, _QEMU),)
        shown: tuple[tuple[Path, str], ...] = (
            (self.qemu, _QEMU),
            (self.launcher, _LAUNCHER),
            (self.tools / "root", "/run/pibuild/tools"),
            (self.tools / "libraries", "/run/pibuild/libamd64"),
        )
        return (*shown, (self.log, "/run/pibuild/log")) if self.log else shown

    def lowers(self, *, full_perl: bool) -> tuple[Path, ...]:
        """Return the bottom-most overlay directories: what the stand-ins load by compiled-in paths.

        `full_perl`: the target has more of perl than its base package, so its native modules must be found too.
        """
        if self.tools is None:
            return ()
        return (self.tools / "lower", *((self.tools / "perl",) if full_perl else ()))


NONE = Emulation(mode="none")


def is_native() -> bool:
    """Return whether this host runs arm64 programs itself."""
    return platform.machine() == "aarch64"


def full_emulation() -> Emulation:
    """Return plain qemu-user. Raises HostError where qemu-user-static or the kernel feature is missing.

    On kernels before 6.7 the handler must be the host's own (the package registers it): pibuild never changes the
    host's handlers.
    """
    if is_native():
        return NONE
    qemu = find_tool("qemu-aarch64-static", package="qemu-user-static")
    if kernel_version() >= _PRIVATE_BINFMT:
        return Emulation(mode="full", qemu=qemu)
    handler = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
    if not handler.exists() or "F" not in handler.read_text().split("flags:", 1)[-1].splitlines()[0]:
        raise HostError(
            f"Linux {platform.release()} has no private binfmt handlers and the host registers none for arm64",
            hint="sudo apt-get install --reinstall qemu-user-static binfmt-support, or use Linux 6.7 or newer",
        )
    return Emulation(mode="full")


def kernel_version() -> tuple[int, int]:
    """Return the running kernel's (major, minor)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def can_use_native_tools() -> bool:
    """Return whether stand-ins help here: an x86-64 host with private handlers."""
    return platform.machine() == "x86_64" and kernel_version() >= _PRIVATE_BINFMT


def native_emulation(cache: Cache, tools: Path, *, log: Path | None = None) -> Emulation:
    """Return emulation with the stand-ins of a finished tools tree."""
    plain = full_emulation()
    return Emulation(mode="native-tools", qemu=plain.qemu, launcher=_launcher(cache), tools=tools, log=log)


def _launcher(cache: Cache) -> Path:
    """Return the launcher, compiled once per source."""
    source = Path(__file__).with_name("launcher.c")
    final = cache.tools / f"launcher-{digest_of(source.read_text())[:16]}"
    if not final.exists():
        compiler = find_tool("gcc", package="gcc libc6-dev")
        with cache.scratch("launcher") as work:
            run([compiler, "-O2", "-static", "-Wall", "-o", work / "launcher", source], what="compile the launcher")
            (work / "launcher").chmod(0o755)
            commit(work / "launcher", final)
    return final

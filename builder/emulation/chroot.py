"""Run one program inside a root: own namespaces, nothing of it left behind, arm64 programs emulated where needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.emulation.mode import NONE, Emulation
from builder.host.confine import resolve_in
from builder.run import ENVIRONMENT, Argv, Completed, run

_SEGV = 128 + 11  # as a shell gives it
STAGE = Path(__file__).with_name("chroot_init.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory seen at `target` inside the root while a program runs there."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chroot:
    """A root to run programs in.

    `native` are the in-root paths whose native builds may stand in, with the modification time (ns) that their files
    must have; 0 for a file that is not there yet (see stand_ins).
    """

    root: Path
    emulation: Emulation = NONE
    native: Mapping[str, int] = field(default_factory=dict)
    binds: Sequence[Bind] = field(default_factory=tuple)
    env: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Argv,
        *,
        network: bool = False,
        input: bytes | None = None,  # noqa: A002 - subprocess's own word
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed:
        """Run `argv` inside the root and return what it printed (stderr merged in).

        Raises CommandError on a non-zero exit code when `check`. With `network` the host's network and resolver are
        there; without, only a loopback device.
        """
        log = self.emulation.log
        binds = [*self.binds, *(Bind(source=s, target=t, writable=s == log) for s, t in self.emulation.binds())]
        if network:
            binds.extend(_resolver(self.root))
        spec = {
            "root": str(self.root),
            "argv": [str(word) for word in argv],
            "env": {**ENVIRONMENT, **self.env, **(env or {})},
            "network": network,
            "binds": [[str(bind.source), bind.target, "rw" if bind.writable else "ro"] for bind in binds],
            "register": self.emulation.registration(),
            "native": dict(self.native),
        }
        # the JSON is the stage's only argument: what a person sees in an error is the program's own command line
        with _resolver_in(self.root) if network else contextlib.nullcontext():
            completed = run(
                [sys.executable, "-I", "-S", STAGE, json.dumps(spec)], input=input, merge=True, check=False, shown=argv
            )
        if check:
            completed.raise_for_status(hint=crash_hint(completed))
        return completed


def crash_hint(completed: Completed) -> str:
    """Return what to do when an emulator died, with the program it died in where the kernel told; else nothing."""
    named = re.findall(r"^pibuild: qemu-user crashed in (\S+)", completed.stdout, re.MULTILINE)
    if not named and "qemu: uncaught target signal" not in completed.stdout and completed.returncode != _SEGV:
        return ""
    programs = ", ".join(dict.fromkeys(named)) or completed.argv[0]
    return (
        f"qemu-user crashed in {programs}; a newer qemu-user-static often mends it (backports), "
        "or build with --emulation native-tools, or on an arm64 machine"
    )


def _resolver(root: Path) -> list[Bind]:
    """Return the bind that gives a root the host's resolver configuration.

    A link into /run is met there, on the root's private tmpfs; a plain file is covered by the mount, and so is the one
    that stands in where there is none.
    """
    host = Path("/etc/resolv.conf")
    if not host.exists():
        return []
    inside = resolve_in(root, "etc") / "resolv.conf"
    if inside.is_symlink():
        target = inside.readlink()
        absolute = target if target.is_absolute() else Path("/etc") / target
        return [Bind(source=host, target=str(_normal(absolute)))]
    return [Bind(source=host, target="/etc/resolv.conf")]


@contextlib.contextmanager
def _resolver_in(root: Path) -> Iterator[None]:
    """Take away what stood in for a missing /etc/resolv.conf, unless the program has written one."""
    inside = resolve_in(root, "etc") / "resolv.conf"
    missing = not os.path.lexists(inside)
    try:
        yield
    finally:
        if missing and inside.is_file() and not inside.is_symlink() and inside.stat().st_size == 0:
            inside.unlink()


def _normal(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return Path("/", *parts)

"""Where the simulated bootloader's files come from: a directory, or a real TFTP server."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from builder.host import tftp_client as tftp
from builder.host.confine import read_in

MOST_BYTES = 192 << 20  # of one boot file: no board has a use for a bigger one, and this is read into memory
Outcome = Literal["found", "missing", "denied", "failed"]
_REFUSALS: Mapping[int | None, Outcome] = MappingProxyType({tftp.NOT_FOUND: "missing", None: "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server says to one request. `size` in bytes where known, `detail` its reason in words."""

    outcome: Outcome
    size: int | None = None
    data: bytes = b""
    detail: str = ""


def too_big(size: int) -> str:
    """Say of a boot file that it is bigger than any board's."""
    return f"it has {size} bytes, and no boot file is bigger than {MOST_BYTES >> 20} MiB"


class Tree(Protocol):
    """What a bootloader can ask files of. Names are as requested: relative, with `/`."""

    def probe(self, name: str) -> Answer:
        """Open a file and abort after the first answer, which says whether it exists and how big it is."""

    def read(self, name: str) -> Answer:
        """Return the whole file in `data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryTree:
    """A TFTP root on disk, judged as a TFTP server would: confined to `root`, and only what every user may read.

    tftpd-hpa serves world-readable files alone (tftpd(8)) and with --secure follows no link out of its root.
    """

    root: Path

    def probe(self, name: str) -> Answer:
        """Return whether the server would send the file, without its content."""
        return self._look(name)[0]

    def read(self, name: str) -> Answer:
        """Return the file as the server would send it."""
        answer, path = self._look(name)
        if path is None:
            return answer
        # a node writes in its boot directory: what was looked at may be something else by now
        root = self.root.resolve()
        data = read_in(root, str(path.relative_to(root)), limit=MOST_BYTES, follow=True)
        if data is None:
            return Answer(outcome="failed", detail=f"no file, or one of more than {MOST_BYTES >> 20} MiB")
        return Answer(outcome="found", size=len(data), data=data)

    def _look(self, name: str) -> tuple[Answer, Path | None]:
        written = self.root / name.lstrip("/")
        try:
            (root, _), (real, found) = _reached(self.root), _reached(written)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last one for a NUL in the name
            dangling = f"a link that leads nowhere: {written.readlink()}" if written.is_symlink() else ""
            return Answer(outcome="missing", detail=dangling), None
        except OSError as error:
            return Answer(outcome="denied", detail=str(error)), None
        if not real.is_relative_to(root):
            return Answer(outcome="denied", detail=f"a link leads out of the TFTP directory, to {real}"), None
        if not stat.S_ISREG(found.st_mode):
            return Answer(outcome="missing", detail="not a file"), None
        if refused := _refused(root, real, found):
            return Answer(outcome="denied", detail=refused), None
        return Answer(outcome="found", size=found.st_size), real


def _reached(path: Path) -> tuple[Path, os.stat_result]:
    """Return where a path leads, all links followed, and what lies there; it is not opened (O_PATH in open(2))."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor)  # noqa: PTH115 - Path costs as much
    finally:
        os.close(descriptor)


def _refused(root: Path, file: Path, found: os.stat_result) -> str:
    """Say why a server that is nobody special would not send a file, "" if it would."""
    if not found.st_mode & stat.S_IROTH:
        return f"mode {stat.S_IMODE(found.st_mode):04o}: the TFTP server may not read it (chmod 0644)"
    for parent in list(file.parents)[: len(file.relative_to(root).parts) - 1]:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            return f"{parent} has mode {mode:04o}: the TFTP server may not enter it (chmod 0755)"
    return too_big(found.st_size) if found.st_size > MOST_BYTES else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTree:
    """A TFTP server, asked over the network in the way the firmware asks."""

    host: str
    port: int = 69
    block_size: int = tftp.BLOCK_SIZE
    timeout: float = 5.0

    def probe(self, name: str) -> Answer:
        """Ask for the file and abort with ERROR 0 after the first answer."""
        return self._ask(name, abort=True)

    def read(self, name: str) -> Answer:
        """Ask for the file and take all of it."""
        return self._ask(name, abort=False)

    def _ask(self, name: str, *, abort: bool) -> Answer:
        server = tftp.Server(host=self.host, port=self.port, timeout=self.timeout)
        try:
            got = tftp.get(server, name, block_size=self.block_size, abort=abort)
        except tftp.TftpError as error:
            return Answer(outcome=_REFUSALS.get(error.code, "denied"), detail=error.message)
        return Answer(outcome="found", size=got.size, data=got.data)

"""What the root user of a node that has been broken into does where it may write: `roots/NODE`, `tftp/boot/NODE`.

It does so over NFS, from the directories that it has mounted, or in place: what pibuild meets is the same. Python's own
library is all that it takes, so that a machine without the tests' packages runs it as a program:

    python3 hostile_node.py ROOTS BOOT NAME OUTSIDE ATTACK …
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HostileNode:
    """Where a node writes: `home` and `boot` hold its roots and their boot files; `root` is the one that it booted.

    `outside` is a directory of the login node, by its path there.
    """

    home: Path
    boot: Path
    root: str
    outside: Path

    def record(self, **said: object) -> None:
        """Write a record beside its root, where earlier versions had them."""
        facts = {"generation": self.root[:12], "way": "copy", "made": 1, "previous": "", "former": "", **said}
        (self.home / f"{self.root}.json").write_text(json.dumps(facts))

    def records_of_nonsense(self) -> None:
        """Write a record of each kind that is none, beside roots that it makes up."""
        for number, make in enumerate(RECORDS.values()):
            make(self.home / f"{self.root[:12]}-{number:08x}.json")

    def keep_by_a_link(self) -> None:
        """Let what it keeps be elsewhere."""
        self._keep_nothing()
        (self.home / "persist").symlink_to(self.outside)

    def keep_by_a_link_within(self) -> None:
        """Let a part of what it keeps be elsewhere."""
        self._keep_nothing()
        (self.home / "persist").mkdir()
        (self.home / "persist/var").symlink_to(self.outside)

    def _keep_nothing(self) -> None:
        persist = self.home / "persist"
        if persist.is_symlink():
            persist.unlink()
        else:
            shutil.rmtree(persist)

    def spoil_what_is_read(self) -> None:
        """Let the files that are compared with its next root be endless, or elsewhere."""
        etc = self.home / self.root / "etc"
        os.truncate(etc / "hostname", 1 << 40)
        (etc / "machine-id").unlink()
        os.mkfifo(etc / "machine-id")
        (etc / "ssh").rename(etc / "ssh.away")
        (etc / "ssh").symlink_to(self.outside)

    def leave_bad_names(self) -> None:
        """Leave links that lead out, under the names that roots have, and a name that a terminal obeys."""
        (self.home / "0123456789ab-01234567").symlink_to(self.outside)
        (self.home / os.fsdecode(b"\x1b[2J\xff\n")).mkdir()
        (self.boot / "junk").symlink_to(self.outside)

    def link_in_its_boot_directory(self) -> None:
        """Link what the TFTP server is not to give away."""
        for name, target in BOOT_LINKS.items():
            (self.boot / self.root / name).symlink_to(target.format(outside=self.outside))

    def put_setuid_programs(self) -> None:
        """Put a program where an account of the login node may start it, and get its owner's rights: root's."""
        for directory in (self.home / self.root, self.boot / self.root):
            shutil.copy("/usr/bin/id", directory / "id")
            (directory / "id").chmod(0o6755)

    def put_devices(self) -> None:
        """Make the login node's kernel log and its first disk files that anybody may open, and a pipe to wait for."""
        for directory in (self.home / self.root, self.boot / self.root):
            os.mkfifo(directory / "pipe")
            os.mknod(directory / "kmsg", stat.S_IFCHR, os.makedev(1, 11))
            os.mknod(directory / "vda", stat.S_IFBLK, os.makedev(254, 0))
            for name in ("pipe", "kmsg", "vda"):
                (directory / name).chmod(0o666)

    def write_on(self) -> None:
        """Go on writing in what looks like a root until it is gone for good, in a process of its own."""
        if os.fork():
            return
        with open(WRITTEN, "w") as log:  # noqa: PTH123 - of the standard streams
            for stream in (0, 1, 2):
                os.dup2(log.fileno(), stream)
        root = self.home / f"{self.root[:12]}-deadbeef"
        root.mkdir()
        with writing(root) as writer:
            writer.join()
        sys.exit(0)


def _make_huge(path: Path) -> None:
    path.touch(exist_ok=False)
    os.truncate(path, 1 << 40)


RECORDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "an open brace": lambda path: path.write_text("{"),
    "a list": lambda path: path.write_text("[1]"),
    "nested deep": lambda path: path.write_text("[" * 60000),
    "a directory": Path.mkdir,
    "a link to zeros": lambda path: path.symlink_to("/dev/zero"),
    "huge": _make_huge,
    "former elsewhere": lambda path: path.write_text('{"former": "../../outside", "previous": ""}'),
}
WRITTEN = "/tmp/written"  # on the machine that the node is; empty unless writing failed
BOOT_LINKS = {"rootfs": "/", "up": "../../../..", "file": "{outside}/hostname", "dir": "{outside}"}


@contextmanager
def writing(root: Path) -> Iterator[threading.Thread]:
    """Go on making files and directories through what is open of a root, as a node does whose root is removed."""
    descriptor, stop = os.open(root, os.O_RDONLY | os.O_DIRECTORY), threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.001):  # no faster than over a network
            number += 1
            try:
                os.mkdir(f"again{number}", dir_fd=descriptor)
                os.symlink("/", f"root{number}", dir_fd=descriptor)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                return  # gone for good; over NFS its handle is stale

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()
        os.close(descriptor)


def main(home: str, boot: str, root: str, outside: str, *attacks: str) -> None:
    """Do what attacks are called, in order."""
    node = HostileNode(home=Path(home), boot=Path(boot), root=root, outside=Path(outside))
    for attack in attacks:
        getattr(node, attack)()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Read a FAT file system inside an image through mtools: no mount, no root.

Boot partitions are small: at the first look all of it is copied to a directory of our own with one mcopy (100 MB in a
quarter of a second), and everything after that reads the copy.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat as st
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.errors import InputError, Problem
from builder.host.scratch import temporary
from builder.image.fat_check import NoEndError, check_fat
from builder.image.filesystem import Entry, FileSystem
from builder.run import CommandError, find_tool, run

_PACKAGE = "mtools"
_PIECE = 1 << 20
PATIENCE = 300  # seconds for a boot partition: 512 MiB from a slow card
# Without it mtools refuses a size that is no whole number of tracks.
_ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1"}


def is_fat(data: mmap.mmap, offset: int) -> bool:
    """Say whether a FAT file system begins `offset` bytes into the image (the type's name in its boot sector)."""
    boot = data[offset : offset + 512]
    return boot[510:512] == b"\x55\xaa" and (boot[54:57] == b"FAT" or boot[82:87] == b"FAT32")


class FatReader(FileSystem):
    """A FAT file system at `offset` bytes in the image file. Names are found in any case. Owners are root's."""

    kind = "vfat"

    def __init__(self, image: Path, offset: int, size: int, name: str) -> None:
        """`size` is the partition's, in bytes; `name` says in messages which file system of which image it is."""
        self._drive = f"{image}@@{offset}"
        self._name = name
        self._copy: Path | None = None
        self._held = contextlib.ExitStack()
        self._directories: dict[str, dict[str, Entry]] = {}
        self._endless: InputError | None = None
        try:
            check_fat(image, offset, name)
            listing = self._tool("mdir", "-i", self._drive, "::")
        except NoEndError as error:  # its partition is known by its place; who looks into it is told
            self._endless, listing = error, ""
        serial = re.search(r"Volume Serial Number is ([0-9A-F]{4}-[0-9A-F]{4})", listing)
        label = re.search(r"Volume in drive : is (.+)", listing)
        free = re.search(r"([0-9][0-9 ]*) bytes free", listing)
        self.uuid = serial[1] if serial else ""
        self.label = label[1].split(" (abbr=")[0].strip() if label else ""
        self.size = size
        self.free = int(free[1].replace(" ", "")) if free else 0
        self._empty = "No files" in listing

    def _tool(self, tool: str, *words: str) -> str:
        try:
            return run([find_tool(tool, package=_PACKAGE), *words], env=_ENVIRONMENT, timeout=PATIENCE).stdout
        except CommandError as error:
            said = error.completed.stderr.strip()
            raise InputError(
                Problem(message=f"{self._name}: mtools cannot read it: {said}", hint="fetch or build the image again")
            ) from error

    @property
    def top(self) -> Entry:
        """The root directory."""
        return Entry(path="/", kind="directory", mode=0o755, uid=0, gid=0, size=0, mtime=0)

    def fold(self, name: str) -> str:
        """Return the name in lower case: FAT ignores case."""
        return name.lower()

    def _local(self, path: str) -> Path:
        if self._copy is None:
            if self._endless is not None:
                raise self._endless
            self._copy = self._held.enter_context(temporary("fat"))
            if not self._empty:
                self._tool("mcopy", "-s", "-p", "-m", "-Q", "-n", "-i", self._drive, "::*", str(self._copy))
        return self._copy / path.lstrip("/")

    def children(self, directory: Entry) -> Mapping[str, Entry]:
        """Return the entries of a directory by their names in lower case."""
        known = self._directories.get(directory.path)
        if known is None:
            known = {}
            for place in sorted(self._local(directory.path).iterdir()):
                known[place.name.lower()] = _entry(f"{directory.path.rstrip('/')}/{place.name}", place.lstat())
            self._directories[directory.path] = known
        return known

    def chunks(self, file: Entry) -> Iterator[bytes]:
        """Yield the content of a file."""
        with self._local(file.path).open("rb") as content:
            while piece := content.read(_PIECE):
                yield piece

    def close(self) -> None:
        """Remove the copy."""
        self._held.close()
        self._copy = None


def _entry(path: str, found: os.stat_result) -> Entry:
    directory = st.S_ISDIR(found.st_mode)
    return Entry(
        path=path,
        kind="directory" if directory else "file",
        mode=0o755,
        uid=0,
        gid=0,
        size=0 if directory else found.st_size,
        mtime=int(found.st_mtime),
    )

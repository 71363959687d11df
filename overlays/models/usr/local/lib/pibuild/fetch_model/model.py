"""The versions of a model on this node: which there are, which is in use, and switching."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from files import read_json, sync_directory, write
from manifest import read_manifest


class Model:
    """What lies in /var/lib/models/NAME."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self.home = home / name

    def current(self) -> str:
        """Return the version in use, "" for none."""
        try:
            version = str((self.home / "current").readlink())
        except OSError:
            return ""
        return version if self.has(version) else ""

    def previous(self) -> str:
        """Return the version that was in use before, "" for none."""
        return str(self.pointer().get("previous", ""))

    def pointer(self) -> dict[str, object]:
        """Return what pointer.json says."""
        return read_json(self.home / "pointer.json")

    def has(self, version: str) -> bool:
        """Whether a version is here, as long as it should be."""
        manifest = read_manifest(self.home / version)
        if manifest is None:
            return False
        path = self.home / version / manifest.file
        return path.is_file() and path.stat().st_size == manifest.size

    def directories(self) -> list[Path]:
        """Return the directories of versions, whole or not."""
        found = self.home.iterdir() if self.home.is_dir() else ()
        return [path for path in found if path.is_dir() and not path.is_symlink()]

    def pieces(self) -> dict[str, tuple[Path, int]]:
        """Return where each chunk lies that is on the disk: sha256 to file and offset, not compared yet."""
        found: dict[str, tuple[Path, int]] = {}
        for directory in self.directories():
            manifest = read_manifest(directory)
            if manifest is None:
                continue
            for path in (directory / manifest.file, directory / f"{manifest.file}.part"):
                size = path.stat().st_size if path.is_file() else 0
                for chunk in manifest.chunks:
                    if chunk.off + chunk.len <= size:
                        found.setdefault(chunk.sha256, (path, chunk.off))
        return found

    def switch(self, version: str, store: str) -> bool:
        """Let `current` point to a version that is here, and pointer.json say so. Returns whether it did not yet."""
        before = self.current()
        if before != version:
            new = self.home / ".current.new"
            new.unlink(missing_ok=True)
            new.symlink_to(version)
            new.replace(self.home / "current")
            sync_directory(self.home)
        manifest, pointer = read_manifest(self.home / version), self.pointer()
        if manifest and (pointer.get("version"), pointer.get("sha256")) != (version, manifest.sha256):
            # killed between link and pointer, the pointer still names the version of before
            previous = before if before != version else pointer.get("version", "")
            told = {
                "model": self.name,
                "version": version,
                "file": manifest.file,
                "sha256": manifest.sha256,
                "size": manifest.size,
                "published": manifest.published,
                "store": store,
                "previous": previous,
                "switched": int(time.time()),
            }
            write(self.home / "pointer.json", json.dumps(told, indent=2).encode() + b"\n")
        return before != version

    def tidy(self, *keep: str) -> None:
        """Remove every version but those in `keep`; what NFS holds for a program that has it open goes another time."""
        for directory in self.directories():
            if directory.name not in keep:
                shutil.rmtree(directory, ignore_errors=True)

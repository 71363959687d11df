"""Putting a version together, front to back, from what is on the disk and what the store has."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from failures import FailedError, InterruptedTransferError, say
from files import sync_directory, write
from manifest import Chunk, Manifest, check_signature, parse
from model import Model
from store import BLOCK, WASTE, Store, Wanted

SYNC = 32 << 20  # bytes after which what came is brought to the disk: a power cut costs no more
SPOILT = 3  # times that one chunk may come wrong before a run gives up
_LARGEST_MANIFEST = 16 << 20  # as the publisher has it; read, that is a quarter of a GiB
_LARGEST_SIGNATURE = 1 << 16


class Part:
    """The file that grows: compared up to `start`, and after that `pending` bytes of the chunk that comes next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self.start = self.pending = self._unsynced = 0
        self._before = hashlib.sha256()  # of all before `start`
        self.whole, self._own = self._before.copy(), hashlib.sha256()

    def resume(self, chunks: Sequence[Chunk]) -> int:
        """Read what an earlier run left, keep what is right of it, and return how many chunks that is."""
        for number, chunk in enumerate(chunks):
            while self.pending < chunk.len and (block := self.file.read(min(chunk.len - self.pending, BLOCK))):
                self._count(block)
            if self.pending < chunk.len or not self.accept(chunk):
                return number
        return len(chunks)

    def add(self, block: bytes) -> None:
        """Write a block of the chunk."""
        view = memoryview(block)
        while view:
            view = view[self.file.write(view) :]
        self._count(block)
        self._unsynced += len(block)
        if self._unsynced >= SYNC:
            os.fdatasync(self.file.fileno())
            self._unsynced = 0

    def accept(self, chunk: Chunk) -> bool:
        """Compare the chunk with its checksum, and keep it or drop it. Returns which."""
        if self.pending != chunk.len or self._own.hexdigest() != chunk.sha256:
            self.rewind()
            return False
        self.start += self.pending
        self.pending = 0
        self._before, self._own = self.whole.copy(), hashlib.sha256()
        return True

    def rewind(self) -> None:
        """Drop what there is of the chunk, and all after it."""
        self.file.seek(self.start)
        self.file.truncate()
        self.pending = 0
        self.whole, self._own = self._before.copy(), hashlib.sha256()

    def _count(self, block: bytes) -> None:
        self.whole.update(block)
        self._own.update(block)
        self.pending += len(block)


@dataclass(frozen=True)
class Terms:
    """On what terms to fetch: who may sign (None: nobody has to), and the bytes of the disk that stay free."""

    signers: Path | None
    reserve: int


class Fetch:
    """Bringing one version. `reused` counts bytes that were on the disk, `spoilt` chunks that came wrong."""

    def __init__(self, model: Model, version: str, store: Store, terms: Terms) -> None:
        self.work = model.home / f".incoming-{version}"
        self.reused = self.spoilt = 0
        self._model = model
        self._version = version
        self._store = store
        self._terms = terms
        self._what = f"{model.name} {version}"

    def run(self) -> None:
        """Bring the version under its name, whole. Raises FailedError, and OSError where the disk does not take it."""
        self.work.mkdir(parents=True, exist_ok=True)
        manifest = self._manifest()
        part = Part(self.work / f"{manifest.file}.part")
        with part.file:
            done = part.resume(manifest.chunks)
            if part.start or part.pending:
                say(f"{self._what}: goes on after {part.start + part.pending} of {manifest.size} bytes")
            self._make_room(manifest.size - part.start - part.pending)
            write(self.work / "manifest.json", manifest.content)
            pieces = self._model.pieces()
            self._store.waste = WASTE + SPOILT * max((chunk.len for chunk in manifest.chunks), default=0)
            for chunk in manifest.chunks[done:]:
                if not self._copy(chunk, part, pieces.get(chunk.sha256)):
                    self._bring(chunk, part, manifest)
                pieces.setdefault(chunk.sha256, (part.path, chunk.off))
            if part.whole.hexdigest() != manifest.sha256:
                shutil.rmtree(self.work)
                raise FailedError(f"{self._what}: every chunk is right and the whole is not: a wrong manifest")
            part.file.truncate(manifest.size)
            os.fsync(part.file.fileno())
        self._name(part.path, manifest)

    def _name(self, path: Path, manifest: Manifest) -> None:
        """Give the file its name, and its directory."""
        path.rename(self.work / manifest.file)
        sync_directory(self.work)
        final = self._model.home / self._version
        if final.exists():  # it was found lacking
            shutil.rmtree(final)
        self.work.rename(final)
        sync_directory(self._model.home)

    def _manifest(self) -> Manifest:
        where = f"manifests/{self._model.name}/{self._version}.json"
        content = self._store.small(where, _LARGEST_MANIFEST)
        if self._terms.signers is not None:
            signature = self.work / "manifest.json.sig"
            signature.write_bytes(self._store.small(f"{where}.sig", _LARGEST_SIGNATURE))
            check_signature(content, signature, self._terms.signers)
        return parse(content, self._model.name, self._version)

    def _make_room(self, needed: int) -> None:
        """Raise FailedError unless the disk takes `needed` bytes and keeps its reserve; older versions go for it."""
        if self._free() < needed + self._terms.reserve:
            self._model.tidy(self._model.current(), self.work.name)
        free = self._free()
        if free < needed + self._terms.reserve:
            stay = self._terms.reserve
            raise FailedError(f"{self._what}: no room: {needed} bytes to come, {free} free, {stay} must stay free")

    def _free(self) -> int:
        state = os.statvfs(self.work)
        return state.f_bavail * state.f_frsize

    def _copy(self, chunk: Chunk, part: Part, source: tuple[Path, int] | None) -> bool:
        """Take a chunk from a version on the disk. Returns whether it was there, and right."""
        if source is None:
            return False
        part.rewind()
        path, offset = source
        with path.open("rb") as file:
            file.seek(offset)
            while part.pending < chunk.len and (block := file.read(min(BLOCK, chunk.len - part.pending))):
                part.add(block)
        good = part.accept(chunk)
        self.reused += chunk.len if good else 0
        return good

    def _bring(self, chunk: Chunk, part: Part, manifest: Manifest) -> None:
        """Take a chunk from the store, going on where it broke off. Raises FailedError."""
        place = manifest.plain or f"{self._store.url}chunks/{chunk.sha256[:2]}/{chunk.sha256}"
        for spoilt in range(SPOILT):
            piece = (chunk.off, chunk.len) if manifest.plain else (0, None)
            wanted = Wanted(place, offset=piece[0], length=piece[1], fresh=spoilt > 0)
            transfer = functools.partial(self._transfer, chunk, part, wanted)
            held = part.pending  # of an earlier run
            reached = lambda held=held: max(0, part.pending - held)  # noqa: E731
            self._store.patiently(transfer, f"{self._what}: chunk {chunk.sha256[:12]}", reached)
            came = reached()
            if part.accept(chunk):
                self._store.kept += came
                return
            self.spoilt += 1
            self._store.close()
            say(f"{self._what}: chunk {chunk.sha256[:12]} came with the wrong checksum")
        raise FailedError(f"{place}: wrong checksum {SPOILT} times: the store, or what is before it, is spoilt")

    def _transfer(self, chunk: Chunk, part: Part, wanted: Wanted) -> None:
        """Make one request for what is missing of a chunk."""
        if part.pending == chunk.len:  # all of it was left by an earlier run
            return
        try:
            with self._store.open(replace(wanted, begin=part.pending)) as (begin, blocks):
                if begin != part.pending:
                    part.rewind()
                for block in blocks:
                    part.add(block[: chunk.len - part.pending])
                    if part.pending == chunk.len:
                        return
        except InterruptedTransferError as interruption:
            if interruption.restart:
                part.rewind()
            raise
        # it ends early, and whole by its own account: another object, which the checksum tells

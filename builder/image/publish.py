"""Publish a golden tree: `output/NAME/DIGEST12/` with the image and what goes with it.

The tree is read, never written. Everything is made in a locked scratch directory beside the result, which gets its name
by one rename; `output/NAME/latest` is switched after that. The same request gives the same image, bit for bit, from any
copy of the tree.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from builder import console
from builder.console import size as readable
from builder.console import warn
from builder.errors import HostError, InputError
from builder.host.confine import resolve_in
from builder.host.dirmode import is_open, let_in
from builder.host.files import sync
from builder.host.hashing import digest_of, file_digest
from builder.host.locks import locked
from builder.host.scratch import sweep, work_in
from builder.host.tree import walk
from builder.host.unwritable import DiskFullError, is_full, unwritable
from builder.image.bmap import make_bmap, used_ranges
from builder.image.capabilities import CAPABILITY
from builder.image.compress import Compression, compress
from builder.image.ext4_write import Ext4, Usage, measure, select, size_for, write_ext4
from builder.image.fat_write import Fat, write_fat
from builder.image.identify import BootFiles, boot_files
from builder.image.manifest import MANIFEST, read_manifest
from builder.image.partitions import MIB, DiskSpec, Layout, Table, make_id32, make_layout, make_uuid, write_table
from builder.image.spdx import Checksums, Subject, make_sbom
from builder.run import CommandError

_VERSION = 1  # raised when the same request gives other files
_SUMS = "SHA256SUMS"
_DIGITS = 12
_NEARLY_NOTHING = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """What to publish.

    `tree` is the merged root, the boot partition's content below `disk.boot_mount`. `key` is the recipe's key, from
    which ids derive. `tree_key` is a key that covers everything in the tree (the last layer's): with it, an earlier
    result for the same request is found and no work is done; empty looks for none. `epoch` is in seconds. `manifest`
    has the engine's facts, JSON-able; `checksums` the SHA-256 of package files.
    """

    name: str
    tree: Path
    disk: DiskSpec
    key: str
    epoch: int
    output: Path
    lock_text: str
    compress: tuple[Compression, ...] = ("zst",)
    tree_key: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    checksums: Checksums = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The SHA-256 of everything the result depends on; empty without a `tree_key`."""
        if not self.tree_key:
            return ""
        told = {"version": _VERSION, "name": self.name, "key": self.key, "tree": self.tree_key, "epoch": self.epoch}
        return digest_of({**told, "disk": asdict(self.disk), "compress": self.compress, "lock": self.lock_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A whole result. `digest` is the image's SHA-256, `files` are sizes in bytes; `reused`: it was there before.

    `capable` are the files with capabilities(7) in a tree that was published now, relative to it, in order.
    """

    directory: Path
    image: Path
    digest: str
    files: Mapping[str, int]
    reused: bool
    capable: tuple[str, ...] = ()


def publish(request: PublishRequest) -> Published:
    """Publish a tree, or find that it has been, and point `latest` at the result.

    Raises InputError when the tree does not fit the disk, HostError when the output's disk is full or a tool is
    missing. Nothing is left behind on failure.
    """
    home = request.output / request.name
    if not (found := find_published(request)):
        try:
            home.mkdir(parents=True, exist_ok=True)
            home.touch()  # a read-only file system says so before an hour of work, not after it
        except OSError as error:
            raise unwritable(home, error, other="name another directory: --output") from error
        let_in(home)
        sweep(home, ".*.partial")
        with _room(home), work_in(home, prefix=".", suffix=".partial") as scratch:
            found = _make(request, scratch)
    _point_latest(home, found.directory)
    return found


def find_published(request: PublishRequest) -> Published | None:
    """Return the whole result of an earlier, equal request, if there is one. Needs no tree."""
    identity = request.identity
    if not identity:
        return None
    for manifest in sorted((request.output / request.name).glob(f"[0-9a-f]*/{MANIFEST}")):
        found = _read(manifest.parent, identity)
        if found:
            return found
    return None


def plan_layout(request: PublishRequest, usage: Usage) -> Layout:
    """Return where the partitions will lie: the root of the given size, or of what the tree takes and the slack."""
    disk = request.disk
    size = disk.root_size
    if size is None:
        size = size_for(usage, slack_percent=disk.slack_percent, slack_bytes=disk.slack_bytes)
    return make_layout(disk, disk_id=make_id32(request.key, "disk"), root_size=size)


def _make(request: PublishRequest, scratch: Path) -> Published:
    boot = resolve_in(request.tree, request.disk.boot_mount)
    mount_point = str(boot.relative_to(request.tree))
    entries = select(walk(request.tree), exclude=[mount_point])
    if not any(entry.path == mount_point and entry.kind == "directory" for entry in entries):
        raise HostError(
            f"the tree has no directory {request.disk.boot_mount}",
            hint="disk.boot.mount names the directory that holds the boot partition's content",
        )
    usage = measure(request.tree, entries)
    layout = plan_layout(request, usage)
    _check_room(request, layout)
    result = scratch / "result"
    result.mkdir()
    image = result / f"{request.name}.img"
    write_table(image, layout.table)
    files = boot_files(request.tree, request.disk, layout)
    console.step("boot partition")
    _write_boot(request, image, layout, files, scratch)  # the quick one first: what does not fit is said at once
    console.step("root partition")
    write_ext4(image, _ext4(request, layout), request.tree, entries, usage, override=files.root)
    console.step(" and ".join(["checksums", *(f"{image.name}.{kind}" for kind in request.compress)]))
    digest = _add_products(request, result, layout)
    for path in (*result.iterdir(), result):
        sync(path)
    with _alone(request.output / request.name):  # an equal build may be about to place its own
        placed = _place(request, result, digest)
    capable = (entry.path for entry in entries if any(name == CAPABILITY for name, _ in entry.xattrs))
    return replace(placed, capable=tuple(sorted(capable)))


def _write_boot(request: PublishRequest, image: Path, layout: Layout, files: BootFiles, scratch: Path) -> None:
    fat = Fat(
        offset=layout.boot.start,
        size=layout.boot.size,
        label=layout.boot.label,
        volume_id=make_id32(request.key, layout.boot.label),
        epoch=request.epoch,
    )
    source = resolve_in(request.tree, request.disk.boot_mount)
    write_fat(image, fat, source, scratch=scratch, root=request.tree, override=files.boot)


def _ext4(request: PublishRequest, layout: Layout) -> Ext4:
    return Ext4(
        offset=layout.root.start,
        size=layout.root.size,
        label=layout.root.label,
        uuid=make_uuid(request.key, layout.root.label),
        epoch=request.epoch,
    )


def _add_products(request: PublishRequest, result: Path, layout: Layout) -> str:
    """Make what goes with the image, side by side, and the sums over all of it; return the image's SHA-256."""
    image = result / f"{request.name}.img"
    with ThreadPoolExecutor() as threads:
        packing = [threads.submit(compress, image, kind) for kind in request.compress]
        bmap, digest = make_bmap(image, used_ranges(image, layout.table))
        sums = {image.name: digest}
        subject = Subject(name=request.name, digest=digest, epoch=request.epoch, checksums=request.checksums)
        texts = {
            f"{image.name}.bmap": bmap,
            f"{request.name}.spdx.json": make_sbom(request.tree, subject),
            "lock.yaml": request.lock_text,
        }
        packed = [each.result() for each in packing]
    for name, text in texts.items():
        (result / name).write_text(text)
    sums |= {path.name: file_digest(path) for path in (*packed, *(result / name for name in texts))}
    facts = _facts(request, layout, result, sums)
    (result / MANIFEST).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    sums[MANIFEST] = file_digest(result / MANIFEST)
    (result / _SUMS).write_text("".join(f"{sum_}  {name}\n" for name, sum_ in sorted(sums.items())))
    return digest


def _facts(request: PublishRequest, layout: Layout, result: Path, sums: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": request.name,
        "image": f"{request.name}.img",
        "sha256": sums[f"{request.name}.img"],
        "identity": request.identity,
        "key": request.key,
        "epoch": request.epoch,
        "disk": disk_facts(layout.table),
        "files": {name: {"sha256": sum_, "size": (result / name).stat().st_size} for name, sum_ in sums.items()},
        "build": dict(request.manifest),
    }


def disk_facts(table: Table) -> dict[str, Any]:
    """Return a disk as manifest.json has it."""
    partitions = [
        {"number": each.number, "kind": int(each.type, 16), "start": each.start, "size": each.size, "label": each.label}
        for each in table.partitions
    ]
    return {"disk_id": table.disk_id, "size": table.size, "partitions": partitions}


def _place(request: PublishRequest, result: Path, digest: str) -> Published:
    """Give the result its final name; one that is there, whole and equal, stays."""
    final = request.output / request.name / digest[:_DIGITS]
    if final.exists():
        kept = _read(final, request.identity)
        if kept:
            return kept
        final.rename(result.parent / "replaced")
    result.rename(final)
    sync(final.parent)
    placed = _read(final, request.identity)
    if placed is None:
        raise HostError(f"{final}: what was just written is not whole", hint="is something else writing there?")
    return Published(
        directory=placed.directory, image=placed.image, digest=placed.digest, files=placed.files, reused=False
    )


def _read(directory: Path, identity: str) -> Published | None:
    """Return a published directory of an identity if every file of its manifest is there in its size."""
    if not (directory / MANIFEST).is_file() or not (directory / _SUMS).is_file() or not is_open(directory):
        return None  # one of another umask holds an image with the wrong modes
    try:
        kept = read_manifest(directory)
    except InputError as error:
        warn(error.message)
        return None
    if kept.identity != identity:
        return None
    for name, size in kept.files.items():
        if not (directory / name).is_file() or (directory / name).stat().st_size != size:
            return None
    image = directory / kept.image
    return Published(directory=directory, image=image, digest=kept.sha256, files=dict(kept.files), reused=True)


def _point_latest(home: Path, directory: Path) -> None:
    latest = home / "latest"
    if latest.is_symlink() and latest.readlink() == Path(directory.name):
        return
    with _alone(home):
        new = home / ".latest.new"
        new.unlink(missing_ok=True)  # of a process that was killed between the two
        new.symlink_to(directory.name)
        new.replace(latest)
        sync(home)


def _alone(home: Path) -> contextlib.AbstractContextManager[None]:
    return locked(home, busy=f"another build is placing its image in {home}")


def _check_room(request: PublishRequest, layout: Layout) -> None:
    """Raise HostError at once where not even the root file system's content would fit on the output's disk."""
    slack = layout.root.size * request.disk.slack_percent // (100 + request.disk.slack_percent)
    needed = layout.root.size - slack if request.disk.root_size is None else 0
    free = shutil.disk_usage(request.output).free
    if free < needed:
        raise _full(request.output, f"{readable(needed)} are needed and {readable(free)} are free")


@contextlib.contextmanager
def _room(home: Path) -> Iterator[None]:
    """Turn every way in which tools say that the disk is full into one HostError."""
    try:
        yield
    except DiskFullError:
        raise
    except (OSError, CommandError, HostError) as error:
        if is_full(error) or shutil.disk_usage(home).free < _NEARLY_NOTHING:
            raise _full(home, str(error)) from error
        raise


def _full(at: Path, detail: str) -> DiskFullError:
    return DiskFullError(
        f"the disk of {at} is full: {detail}",
        hint=f"free some space (df -h {at}; pibuild gc), or give another --output",
    )

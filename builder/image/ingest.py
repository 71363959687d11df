"""Copy an image's files into one tree, the boot partition's at its mount point."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.errors import FetchError, HostError, InputError, Problem
from builder.host.confine import resolve_in
from builder.host.named_file import text_in
from builder.image.attach import Attached, Method, attached
from builder.image.open import require_readable_packing
from builder.image.partitions import Layout, Partition
from builder.run import CommandError, find_tool, require_root, run

Identify = Literal["label", "partuuid", "uuid", "device"]


_PACKED = {  # the first bytes of a file: the tool that unpacks it, and its Debian package
    b"\xfd7zXZ\0": ("xz", "xz-utils"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd"),
    b"\x1f\x8b": ("gzip", "gzip"),
}


_BOOT_MOUNTS = ("/boot/firmware", "/boot")


_COMMAND_LINES = ("cmdline.txt", "current/cmdline.txt")  # Ubuntu from 25.10 keeps it below os_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """The style of a base image, which what is published from it keeps.

    `boot_mount` is where fstab mounts the FAT partition; `identify` is how `root=` on the kernel command line (else
    fstab) names the root partition.
    """

    layout: Layout
    boot_mount: str
    identify: Identify


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlaces:
    """Where an image is looked for: its recipe's directory, the cache's for artifacts, those of hand-placed files."""

    directory: Path
    cache: Path
    search: tuple[Path, ...] = ()


def ingest(image: Path, into: Path, *, scratch: Path, method: Method = "auto") -> BaseFacts:
    """Bring a verified image's files into the empty directory `into`, the boot partition's at its mount point.

    `scratch` is an empty directory on the same file system; with what is packed it takes the image's full size. Needs
    root and a private mount namespace. Raises InputError for an image that is none of a Raspberry Pi's, FetchError for
    one that cannot be unpacked, HostError when this machine cannot read it.
    """
    with looked_into(image, scratch, method=method) as (found, facts):
        if found.mounted:
            _copy(found.root, into)
        else:
            into.rmdir()
            found.root.rename(into)
        with _times_kept(into):
            _drop(into / "lost+found")
        _lay_boot(found.boot, boot_place(into, facts.boot_mount, image))
    return facts


@contextlib.contextmanager
def looked_into(image: Path, scratch: Path, *, method: Method = "auto") -> Iterator[tuple[Attached, BaseFacts]]:
    """Give an image's files for the time of the block, in `scratch`/files, with its facts; as for `ingest`."""
    require_root("build")
    raw = unpack(image, scratch / "image")
    files = scratch / "files"
    files.mkdir()
    with attached(raw, method, files) as found:
        facts = _base_facts(found, found.root)
        boot_place(found.root, facts.boot_mount, image)
        yield found, facts
    if raw != image:
        raw.unlink()


def _base_facts(found: Attached, root: Path) -> BaseFacts:
    layout, fstab = found.layout, text_in(root, "/etc/fstab")
    return BaseFacts(
        layout=layout,
        boot_mount=find_boot_mount(fstab, layout.boot),
        identify=find_identify(_command_line(found), fstab),
    )


def unpack(image: Path, into: Path) -> Path:
    """Return the raw image: `into`, unpacked to it with holes, or the file itself when it is not packed."""
    with image.open("rb") as file:
        head = file.read(6)
    require_readable_packing(image)
    known = [packer for magic, packer in _PACKED.items() if head.startswith(magic)]
    if not known:
        return image
    tool, package = known[0]
    script = 'exec "$1" -dc -- "$2" >"$3"'
    unpacker = find_tool(tool, package=package)
    try:
        run(
            ["sh", "-c", script, "sh", unpacker, image, into],
            what="unpacking the base image",
            env={"XZ_DEFAULTS": "-T0"},
        )
    except CommandError as error:
        into.unlink(missing_ok=True)
        if "No space left" in error.message:
            raise HostError(error.message, hint=f"make room on the file system of {into.parent}") from error
        raise FetchError(error.message, hint="the file is damaged: remove it and fetch it again") from error
    run([find_tool("fallocate", package="util-linux"), "--dig-holes", into], check=False)  # saves room where it can
    return into


def _copy(source: Path, into: Path) -> None:
    """Copy a tree with all that its inodes hold; `source/.` brings the root directory's own owner and mode too."""
    preserve = "--preserve=mode,ownership,timestamps,links,xattr"
    how = ("--recursive", "--no-dereference", "--one-file-system", preserve)
    run(["cp", *how, f"{source}/.", into], what="copying the root partition")


def _command_line(found: Attached) -> str:
    return next((text for name in _COMMAND_LINES if (text := text_in(found.boot, name))), "")


def _fstab(text: str) -> list[tuple[str, str, str]]:
    """Return what is mounted, where, and as what type, from fstab(5)."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(row[0], row[1], row[2]) for row in rows if len(row) >= 3]  # noqa: PLR2004 - type is the third field


def find_boot_mount(fstab: str, boot: Partition) -> str:
    """Return where an fstab mounts the boot partition: by label, UUID or PARTUUID, else a FAT where it is usual."""
    names = {f"LABEL={boot.label}", f"UUID={boot.uuid}", f"PARTUUID={boot.partuuid}"}
    rows = _fstab(fstab)
    for what, where, _kind in rows:
        if what.replace('"', "") in names:
            return where
    for _what, where, kind in rows:
        if kind in ("vfat", "msdos") and where in _BOOT_MOUNTS:
            return where
    hint = "its fstab must mount the FAT partition, at /boot/firmware or /boot for Raspberry Pi"
    raise InputError(Problem(message="the base image's /etc/fstab does not mount its boot partition", hint=hint))


def find_identify(command_line: str, fstab: str) -> Identify:
    """Return how the root partition is named: by `root=` of the kernel command line, else by fstab."""
    roots = [word.removeprefix("root=") for word in command_line.split() if word.startswith("root=")]
    roots += [what for what, where, _kind in _fstab(fstab) if where == "/"]
    styles: tuple[Identify, ...] = ("label", "partuuid", "uuid")
    first = roots[0] if roots else ""
    return next((style for style in styles if first.startswith(f"{style.upper()}=")), "device")


def boot_place(root: Path, mount: str, image: Path) -> Path:
    """Return where a root has its boot files. Raises InputError for a place that is no directory."""
    place = resolve_in(root, mount)
    if place == root or (place.exists() and not place.is_dir()):
        raise InputError(Problem(message=f"{image}: fstab mounts the boot partition at {mount}, which is no directory"))
    return place


def _lay_boot(boot: Path, place: Path) -> None:
    """Put the boot partition's content at its mount point; what lies hidden below the mount goes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _times_kept(place.parent):
        _drop(place)
        shutil.move(boot, place)


def _drop(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory)


@contextlib.contextmanager
def _times_kept(directory: Path) -> Iterator[None]:
    """Let what is done inside a directory not show in its times."""
    before = directory.stat()
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))

"""One node's root and boot directory, made of a generation: copied, reflinked, snapshotted, or shared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from builder.confine import resolve_in
from builder.errors import HostError, InputError, Problem
from builder.generation import Generation, is_btrfs
from builder.netboot import PERSIST, Netboot
from builder.personalise import NodeFile, Personal
from builder.run import run

Method = Literal["auto", "copy", "reflink", "shared"]
Way = Literal["copy", "reflink", "snapshot", "shared"]
_SUBVOLUME = 256  # inode number of a btrfs subvolume's own directory
SHARED_SCRIPT = "usr/share/initramfs-tools/scripts/init-bottom/pibuild-shared-root"
SHARED_SCRIPT_OWN = "etc/initramfs-tools/scripts/init-bottom/pibuild-shared-root"


def find_way(netboot: Netboot, generation: Generation, method: Method) -> Way:
    """Return how a root is made here: for `auto` and `reflink` found out by trying.

    Raises HostError for `reflink` where the file system cannot, InputError for `shared` with an image that cannot.
    """
    if method == "shared":
        if not any((generation.root / path).is_file() for path in (SHARED_SCRIPT, SHARED_SCRIPT_OWN)):
            hint = "build the image anew with overlays/debian, or take another method"
            raise InputError(Problem(message="the image's initramfs cannot mount a shared root", hint=hint))
        return "shared"
    if method == "copy":
        return "copy"
    if generation.root.stat().st_ino == _SUBVOLUME and is_btrfs(generation.root):
        return "snapshot"
    with netboot.scratch() as scratch:
        (scratch / "a").write_bytes(bytes(4096))
        cloned = run(["cp", "--reflink=always", scratch / "a", scratch / "b"], check=False)
    if cloned.returncode == 0:
        return "reflink"
    if method == "reflink":
        message = f"the file system of {netboot.dest} cannot share blocks between files"
        raise HostError(message, hint="put it on btrfs, or on xfs made with reflink=1; or take --method copy")
    return "copy"


def make_root(generation: Generation, personal: Personal, way: Way, at: Path) -> None:
    """Make a node's root at `at`, which must not exist; for `shared` only what lies over the generation's."""
    if way == "shared":
        at.mkdir()
        (at / "files").mkdir(mode=0o755)
        apply_files(at / "files", personal.files, of=generation.root)
        (at / "persist").write_text("".join(f"{path}\n" for path in personal.persist))
        return
    if way == "snapshot":
        run(["btrfs", "subvolume", "snapshot", generation.root, at], what="making a root")
    else:
        reflink = "--reflink=always" if way == "reflink" else "--reflink=never"
        run(["cp", "-a", reflink, generation.root, at], what="making a root")
    apply_files(at, personal.files)


def make_boot(generation: Generation, personal: Personal, way: Way, at: Path) -> None:
    """Make a node's boot directory at `at`, which must not exist.

    With a shared root nothing on the node can write there, and the files are the generation's own (hard links).
    """
    how = "--link" if way == "shared" else "--reflink=auto"
    run(["cp", "-a", how, generation.boot, at], what="making a boot directory")
    cmdline = at / "cmdline.txt"
    cmdline.unlink(missing_ok=True)  # never through a hard link
    cmdline.write_text(personal.cmdline)
    cmdline.chmod(0o644)


def make_persistent(netboot: Netboot, generation: Generation, node: str, paths: Sequence[str]) -> None:
    """Make the directories that a node keeps, each once, with what the image has there."""
    home = netboot.root(node, PERSIST)
    for path in paths:
        kept = resolve_in(home, path)
        if kept.exists():
            continue
        kept.parent.mkdir(parents=True, exist_ok=True)
        source = resolve_in(generation.root, path)
        with netboot.scratch() as scratch:
            if source.is_dir():
                run(["cp", "-a", source, scratch / "made"])
            else:
                (scratch / "made").mkdir()
            (scratch / "made").rename(kept)


def apply_files(root: Path, files: Sequence[NodeFile], *, of: Path | None = None) -> None:
    """Write a node's files into a root. New directories are root's, those of a home its owner's.

    `of` is the tree that the root lies over: directories are made as they are there, and its links are followed.
    """
    for file in files:
        target = _target(root, file.path, of)
        _make_parents(root, target.parent, file, of)
        new = target.with_name(f".{target.name}.pibuild")
        new.unlink(missing_ok=True)
        if file.link:
            new.symlink_to(file.link)
        else:
            with new.open("xb") as opened:
                os.fchmod(opened.fileno(), 0o600)
                opened.write(file.content)
            os.chown(new, file.uid, file.gid)
            new.chmod(file.mode)
        new.replace(target)


def _target(root: Path, path: str, of: Path | None) -> Path:
    """Return where a file goes: through the links of directories on its way, replacing one in its own place."""
    if of is None:
        return resolve_in(root, path, follow=False)
    return root / resolve_in(of, path, follow=False).relative_to(of)


def _make_parents(root: Path, directory: Path, file: NodeFile, of: Path | None) -> None:
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(mode=0o755)
        model = of / path.relative_to(root) if of and path.is_relative_to(root) else None
        if model is not None and model.is_dir():
            facts = model.stat()
            os.chown(path, facts.st_uid, facts.st_gid)
            path.chmod(facts.st_mode & 0o7777)
        elif file.uid:
            os.chown(path, file.uid, file.gid)
            path.chmod(0o700)

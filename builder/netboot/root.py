"""One node's root and boot directory, made of a generation: copied, reflinked, snapshotted, or shared."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from builder.errors import HostError, InputError, Problem
from builder.host.confine import Held, Owner, held, is_directory, resolve_in
from builder.netboot.generation import Generation, is_btrfs
from builder.netboot.layout import PERSIST, Netboot, nearest
from builder.netboot.personalise import NodeFile, Personal
from builder.netboot.record import Way
from builder.run import run

Method = Literal["auto", "copy", "reflink", "shared"]
_SUBVOLUME = 256  # inode number of a btrfs subvolume's own directory
_FICLONE = 0x40049409  # linux/fs.h
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EISDIR)
SHARED_SCRIPT = "usr/share/initramfs-tools/scripts/init-bottom/pibuild-shared-root"
SHARED_SCRIPT_OWN = "etc/initramfs-tools/scripts/init-bottom/pibuild-shared-root"


def find_way(dest: Path, generation: Generation, method: Method) -> Way:
    """Return how a root is made here: for `auto` and `reflink` found out by trying. Leaves nothing behind.

    `dest` is where nodes boot from. Raises HostError for `reflink` where its file system cannot, InputError for
    `shared` with an image that cannot.
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
    if _shares_blocks(nearest(dest)):
        return "reflink"
    if method == "reflink":
        message = f"the file system of {dest} cannot share blocks between files"
        raise HostError(message, hint="put it on btrfs, or on xfs made with reflink=1; or take --method copy")
    return "copy"


def _shares_blocks(directory: Path) -> bool:
    """Return whether files there can be clones of each other (ioctl_ficlone(2)), tried with two that have no name."""
    made: list[int] = []
    try:
        made += [os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(2)]
        os.write(made[0], bytes(4096))
        fcntl.ioctl(made[1], _FICLONE, made[0])
    except OSError as error:
        if error.errno in _NO_CLONES:
            return False
        raise
    finally:
        for descriptor in made:
            os.close(descriptor)
    return True


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
    """Make the directories that a node keeps, each once, with what the image has there.

    The node writes where they go: a link on the way stays inside what it keeps. Raises HostError for one that cannot
    be made there.
    """
    if not paths:
        return
    home = netboot.root(node, PERSIST)
    try:
        if not is_directory(home):
            home.mkdir(mode=0o755)
        with held(home) as kept:
            for path in paths:
                _make_kept(netboot, generation, kept, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        hint = f"look at it on the login node, without following links: sudo ls -la {home}"
        raise HostError(f"what {node} keeps cannot be made in {home}: {error}", hint=hint) from error


def _make_kept(netboot: Netboot, generation: Generation, kept: Held, path: str) -> None:
    inside = PurePosixPath("/", path)
    with kept.directory(str(inside.parent), make=lambda _: Owner(mode=0o755)) as parent:
        if parent.facts(inside.name) is not None:
            return
        source = resolve_in(generation.root, path)
        with netboot.scratch() as scratch:
            if source.is_dir():
                run(["cp", "-a", source, scratch / "made"])
            else:
                (scratch / "made").mkdir()
                (scratch / "made").chmod(0o755)
            os.rename(scratch / "made", inside.name, dst_dir_fd=parent.descriptor)


def apply_files(root: Path, files: Sequence[NodeFile], *, of: Path | None = None) -> None:
    """Write a node's files into a root. New directories are root's, those of a home its owner's.

    The root may be one that a node writes in: whatever it does, nothing outside is changed. `of` is the tree that the
    root lies over: directories are made as they are there, and its links are followed. Raises OSError where a file
    cannot be put.
    """
    with held(root) as inside:
        put_files(inside, files, of=of)


def put_files(root: Held, files: Sequence[NodeFile], *, of: Path | None = None) -> None:
    """Write a node's files into a root that is held."""
    for file in files:
        # of a tree that nobody changes: its links are not the root's
        at = resolve_in(of, file.path, follow=False).relative_to(of) if of else PurePosixPath(file.path)
        with root.directory(str(at.parent), make=_new_directory(file, of)) as parent:
            content = file.link or file.content
            parent.put(at.name, content, Owner(mode=file.mode, uid=file.uid, gid=file.gid))


def _new_directory(file: NodeFile, of: Path | None) -> Callable[[PurePosixPath], Owner]:
    """Return how a directory is made that a file lies in."""

    def owner(path: PurePosixPath) -> Owner:
        model = of / path if of else None
        if model is not None and model.is_dir():
            facts = model.stat()
            return Owner(mode=facts.st_mode & 0o7777, uid=facts.st_uid, gid=facts.st_gid)
        return Owner(mode=0o700, uid=file.uid, gid=file.gid) if file.uid else Owner(mode=0o755)

    return owner

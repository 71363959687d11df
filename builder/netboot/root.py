"""One node's root and boot directory, made of a generation: copied, reflinked, snapshotted, or shared."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from builder.errors import HostError, InputError, Problem
from builder.host.confine import Held, Owner, held, is_directory, resolve_in
from builder.inventory.nodes import Node
from builder.netboot.generation import Generation, is_btrfs
from builder.netboot.layout import PERSIST, Netboot, nearest
from builder.netboot.once import Once
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


def make_root(generation: Generation, personal: Personal, way: Way, at: Path, *, once: Once) -> None:
    """Make a node's root at `at`, which must not exist; for `shared` only what lies over the generation's."""
    if way == "shared":
        at.mkdir()
        (at / "files").mkdir(mode=0o755)
        with held(at / "files") as inside:
            put_files(inside, personal.files, of=Over(root=generation.root, once=once))
        (at / "persist").write_text("".join(f"{path}\n" for path in personal.persist))
        return
    if way == "snapshot":
        run(["btrfs", "subvolume", "snapshot", generation.root, at], what="making a root")
    else:
        reflink = "--reflink=always" if way == "reflink" else "--reflink=never"
        run(["cp", "-a", reflink, generation.root, at], what="making a root")
    with held(at) as inside:
        put_files(inside, personal.files)


def make_boot(generation: Generation, personal: Personal, way: Way, at: Path) -> None:
    """Make a node's boot directory at `at`, which must not exist.

    With a shared root nothing on the node can write there, and the files are the generation's own (hard links).
    """
    if way == "shared":
        _link_tree(generation.boot, at)
    else:
        run(["cp", "-a", "--reflink=auto", generation.boot, at], what="making a boot directory")
    cmdline = at / "cmdline.txt"
    cmdline.unlink(missing_ok=True)  # never through a hard link
    cmdline.write_text(personal.cmdline)
    cmdline.chmod(0o644)


def _link_tree(source: Path, at: Path) -> None:
    """Make a tree of hard links to another's files, which nobody changes, its directories as they are there."""
    at.mkdir(mode=0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _link_tree(source / entry.name, at / entry.name)
            else:
                os.link(entry.path, at / entry.name, follow_symlinks=False)
    facts = source.stat()
    os.chown(at, facts.st_uid, facts.st_gid)
    shutil.copystat(source, at)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The tree that a root lies over, which nobody changes: its links are followed, directories made as they are there.

    `once` knows what it said of paths before.
    """

    root: Path
    once: Once

    def place(self, path: str) -> PurePath:
        """Return where in the tree a path leads."""
        return self.once(_place, self.root, path)

    def owner(self, path: PurePosixPath) -> Owner | None:
        """Return how a directory is there, None where there is none."""
        return self.once(_owner, self.root, path)


def _place(root: Path, path: str) -> PurePath:
    return resolve_in(root, path, follow=False).relative_to(root)


def _owner(root: Path, path: PurePosixPath) -> Owner | None:
    if not (root / path).is_dir():
        return None
    facts = (root / path).stat()
    return Owner(mode=facts.st_mode & 0o7777, uid=facts.st_uid, gid=facts.st_gid)


def put_files(root: Held, files: Sequence[NodeFile], *, of: Over | None = None) -> None:
    """Write a node's files into a root. New directories are root's, those of a home its owner's.

    The root may be one that a node writes in: whatever it does, nothing outside is changed. Raises OSError where a file
    cannot be put.
    """
    places = [(of.place(file.path) if of else PurePosixPath(file.path), file) for file in files]
    for parent, group in itertools.groupby(places, key=lambda each: each[0].parent):
        within = list(group)
        with root.directory(str(parent), make=_new_directory(within[0][1], of)) as directory:
            for at, file in within:
                directory.put(at.name, file.link or file.content, Owner(mode=file.mode, uid=file.uid, gid=file.gid))


def _new_directory(file: NodeFile, of: Over | None) -> Callable[[PurePosixPath], Owner]:
    """Return how a directory is made that a file lies in."""

    def owner(path: PurePosixPath) -> Owner:
        model = of.owner(path) if of else None
        return model or (Owner(mode=0o700, uid=file.uid, gid=file.gid) if file.uid else Owner(mode=0o755))

    return owner


def changed_files(netboot: Netboot, node: Node, files: Sequence[NodeFile]) -> tuple[str, ...]:
    """Return the paths of a node's own files that differ from those in the root it boots now."""
    current = netboot.current(node.serial)
    root = netboot.root(node.name, current)
    if not current or not is_directory(root):
        return ()
    record = netboot.record(node.name, current)
    with held(root) as inside, inside.directory("files" if record and record.way == "shared" else "") as own:
        return tuple(file.path for file in files if not _is_there(own, file))


def _is_there(root: Held, file: NodeFile) -> bool:
    if file.link:
        return root.link(file.path) == file.link
    return root.read(file.path, limit=len(file.content)) == file.content

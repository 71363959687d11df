"""Generations: an image's files as nodes' roots are made from them; brought in once, named by digest, never changed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import HostError, InputError, Problem
from builder.host.confine import resolve_in
from builder.host.data import shipped_recipes
from builder.host.hashing import file_digest
from builder.host.named_file import text_in
from builder.image.attach import Method
from builder.image.capabilities import capable_files
from builder.image.ingest import ingest, looked_into
from builder.image.manifest import MANIFEST, read_manifest
from builder.image.passwd import parse_id
from builder.netboot.layout import Netboot
from builder.run import CommandError, find_tool, run

DIGITS = 12  # of an image's sha256, as in output/NAME/DIGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image to explode: the file, and its sha256 (64 hex digits)."""

    path: Path
    sha256: str

    @property
    def digest(self) -> str:
        """What its generation is called."""
        return self.sha256[:DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A line of an image's passwd."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a generation is. `capabilities` maps paths to what setcap(8) calls them: NFS does not carry those."""

    directory: Path
    sha256: str
    boot_mount: str
    capabilities: Mapping[str, str] = field(hash=False)

    @property
    def digest(self) -> str:
        """Its name."""
        return self.directory.name

    @property
    def root(self) -> Path:
        """Its root file system, the mount point of the boot files empty."""
        return self.directory / "root"

    @property
    def boot(self) -> Path:
        """Its boot files."""
        return self.directory / "boot"

    def read(self, path: str) -> str:
        """Return a text file of the root, "" where there is none."""
        return text_in(self.root, path)

    def users(self) -> dict[str, User]:
        """Return the people of its passwd: root, and whoever has a user number from 1000 on."""
        rows = [line.split(":") for line in self.read("/etc/passwd").splitlines()]
        found = [
            User(name=row[0], uid=uid, gid=gid, home=row[5])
            for row in rows
            if len(row) > 6 and (uid := parse_id(row[2])) is not None and (gid := parse_id(row[3])) is not None  # noqa: PLR2004 - passwd(5)
        ]
        return {user.name: user for user in found if user.uid == 0 or 1000 <= user.uid < 60000}  # noqa: PLR2004 - policy 9.2.2


def find_image(given: Path | None, image: str, beside: Path) -> ImageFile:
    """Return the image of a name, as published in `beside`/output or ./output, or the given file or directory.

    Raises InputError when there is none.
    """
    places = [given] if given else [directory / "output" / image / "latest" for directory in (beside, Path())]
    for place in places:
        if place.is_dir() and (place / MANIFEST).is_file():
            published = read_manifest(place)
            image_file = place.resolve() / published.image
            if not image_file.is_file():
                hint = "build the image again, or copy the whole directory again"
                raise InputError(Problem(message=f"{image_file}: no such file; {MANIFEST} names it", hint=hint))
            return ImageFile(path=image_file, sha256=published.sha256)
        if place.is_file():
            return ImageFile(path=place.resolve(), sha256=file_digest(place))
    looked = " nor ".join(str(place) for place in places)
    recipe = image if image in shipped_recipes() else f"{image}.yaml"
    hint = f"sudo pibuild build {recipe}, or name an image: --image DIRECTORY_OR_FILE"
    raise InputError(
        Problem(
            message=f"no image '{image}': neither {looked} is one" if not given else f"{given}: no image", hint=hint
        )
    )


def read_generation(netboot: Netboot, digest: str) -> Generation | None:
    """Return a generation that is there."""
    directory = netboot.generations / digest
    if not (directory / "meta.json").is_file():
        return None
    facts: dict[str, Any] = json.loads((directory / "meta.json").read_text())
    return Generation(directory=directory, **facts)


def bring_in(netboot: Netboot, image: ImageFile, *, attach: Method = "auto") -> Generation:
    """Return an image's generation, made of it unless it is there. The directory's lock must be held.

    Needs root and a private mount namespace. Raises InputError for a file that is no image, or not
    what its manifest says.
    """
    there = read_generation(netboot, image.digest)
    if there is not None:
        return there
    _check_digest(image)
    with netboot.scratch() as scratch:
        tree, work, final = scratch / "tree", scratch / "work", scratch / "final"
        for path in (tree, work, final):
            path.mkdir()
        facts = ingest(image.path, tree, scratch=work, method=attach)
        boot = resolve_in(tree, facts.boot_mount)
        boot.rename(final / "boot")
        boot.mkdir(mode=0o755)
        run(["chmod", "-R", "a+rX,go-w", final / "boot"])  # whoever serves TFTP must be able to read it
        _place_root(tree, final / "root")
        found = _capabilities(final / "root")
        meta = {"sha256": image.sha256, "boot_mount": facts.boot_mount, "capabilities": found}
        (final / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        seal(final)
        netboot.flush()
        final.rename(netboot.generations / image.digest)
    made = read_generation(netboot, image.digest)
    if made is None:
        raise HostError(f"{netboot.generations / image.digest} is not whole", hint="remove it")
    return made


@contextlib.contextmanager
def looked_at(image: ImageFile, scratch: Path, *, attach: Method = "auto") -> Iterator[Generation]:
    """Give what an image's generation would be for the time of the block: mounted where that can be, else copied.

    Needs root and a private mount namespace; `scratch` is an empty directory. Raises as `bring_in` does.
    """
    _check_digest(image)
    with looked_into(image.path, scratch, method=attach) as (_, facts):
        named = scratch / image.digest
        (scratch / "files").rename(named)
        try:
            found = _capabilities(named / "root")
            yield Generation(directory=named, sha256=image.sha256, boot_mount=facts.boot_mount, capabilities=found)
        finally:
            named.rename(scratch / "files")


def _check_digest(image: ImageFile) -> None:
    if file_digest(image.path) != image.sha256:
        hint = "build it again, or copy it again"
        raise InputError(Problem(message=f"{image.path} is not what the manifest beside it says", hint=hint))


def seal(directory: Path) -> None:
    """Take write access from a finished generation; only root enters it, as it holds password hashes."""
    (directory / "meta.json").chmod(0o400)
    directory.chmod(0o500)


def _place_root(tree: Path, root: Path) -> None:
    """Move a tree to its place: on btrfs a subvolume, since snapshots can be made of those alone."""
    if is_btrfs(tree):
        run([find_tool("btrfs", package="btrfs-progs"), "subvolume", "create", root])
        run(["cp", "-a", "--reflink=always", f"{tree}/.", root])
    else:
        tree.rename(root)


def is_btrfs(path: Path) -> bool:
    """Return whether a path lies on btrfs."""
    return run(["stat", "-f", "-c", "%T", path]).stdout.strip() == "btrfs"


def _capabilities(root: Path) -> dict[str, str]:
    """Return the file capabilities in a tree: in-root path to text (`cap_net_raw=ep`)."""
    found: dict[str, str] = {}
    for path in capable_files(root):
        if not path.name.isprintable() or not str(path.relative_to(root)).isprintable():
            hint = "no package has such a file: rename it, or take its capability away, where the image is made"
            where = f"/{path.relative_to(root)}"
            raise InputError(Problem(message=f"{where!r} has a capability and a name that cannot be told", hint=hint))
        try:
            said = run([find_tool("getcap", package="libcap2-bin"), "-n", path]).stdout
        except CommandError:
            said = run(["getcap", path]).stdout
        found[f"/{path.relative_to(root)}"] = said.strip().removeprefix(f"{path} ")
    return found

"""A whole SD card image as the base of a recipe: found, verified, unpacked, and its files brought into one tree.

The root partition is copied with `cp` of coreutils, which every machine has and which keeps owners, modes, hard links,
extended attributes (file capabilities and ACLs are such), times and holes; asked for by name, an attribute that cannot
be kept is an error. rsync does the same only with five options and a package, and tar would pass every byte through a
pipe twice and make holes of what were none.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from builder.errors import FetchError, InputError, Problem
from builder.host.artifacts import find_artifact, obtain, signed_checksum
from builder.host.hashing import Artifact, file_digest
from builder.image.ingest import ImagePlaces
from builder.recipe.schema import BaseImage


def resolve_image(image: BaseImage, directory: Path, *, offline: bool = False) -> str:
    """Return the sha256 that the image file must have: the recipe's own, or the one its signed list gives.

    `directory` is the recipe's; a relative keyring counts from it. Raises FetchError.
    """
    if image.sha256 is not None:
        return image.sha256.lower()
    if image.checksums is None:
        raise InputError(Problem(message="a base image needs `sha256` or `checksums`"))
    name = PurePosixPath(unquote(urlsplit(image.url).path)).name if image.url else Path(image.path or "").name
    checksums = image.checksums
    if offline:
        raise FetchError(
            f"{checksums.url} is not asked for the base image's checksum: --offline fetches nothing",
            hint="build once without --offline, or give the image's sha256 in the recipe",
        )
    return signed_checksum(checksums.url, checksums.signature, directory / checksums.keyring, name)


def obtain_image(image: BaseImage, sha256: str, places: ImagePlaces, *, offline: bool = False) -> Path:
    """Return the verified image file as it was published, packed or not.

    A path of the recipe counts from its directory. Raises FetchError when it cannot be had or has another checksum.
    """
    if image.url is not None:
        wanted = Artifact(url=image.url, sha256=sha256)
        found = obtain(wanted, cache_dir=places.cache, search=places.search, offline=offline)
        if found is None:
            raise FetchError(f"base image {sha256} could not be had")
        return found
    path = places.directory / (image.path or "")
    if not path.is_file():
        raise FetchError(f"base image {path}: no such file", hint="check `path` in the recipe")
    if find_artifact(sha256, [path], remembered=places.cache / "digests.json") is None:
        raise FetchError(
            f"base image {path}: wrong checksum\n  promised sha256 {sha256}\n  the file's sha256 {file_digest(path)}",
            hint="the file is another one or was changed: fetch it again, or correct `sha256` in the recipe",
        )
    return path

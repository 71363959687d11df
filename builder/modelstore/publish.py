"""Publishing models and keeping what was published: into a store, out of it when nothing names it, and checked.

Chunks come first, the signature after them, the manifest last: a version is there when its manifest is, and whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import FetchError, InputError, Problem
from builder.host.named_file import open_named
from builder.modelstore.chunks import FIXED, LONGEST, cut
from builder.modelstore.manifest import LARGEST, Chunk, Manifest, check_names, manifest_object, read_manifest
from builder.modelstore.store import DirectoryStore, Store
from builder.modelstore.store_s3 import S3Store
from builder.run import find_tool, run

NAMESPACE = "pibuild-model"  # of the signatures: one made for something else does not count (ssh-keygen(1), -n)
_SIGNATURE = ".sig"
_DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be published, under which name and version.

    `key` is a private ssh key that signs the manifest; `plain` a URL at which the file lies whole. `longest` and
    `fixed` are bytes.
    """

    path: Path
    model: str
    version: str
    key: Path | None = None
    plain: str = ""
    longest: int = LONGEST
    fixed: int = FIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version in a store. `added` is bytes that the store did not have; `signed` whether there is a signature."""

    manifest: Manifest
    added: int
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A version in a store. `own` is bytes of chunks that no other version has, `shared` of the others."""

    model: str
    version: str
    size: int
    chunks: int
    own: int
    shared: int
    published: str
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A chunk that is missing or not what its name says, and the versions that need it."""

    name: str
    why: str
    needed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """An object that goes, or would; `size` in bytes."""

    name: str
    size: int
    why: str


def open_store(where: str, *, make: bool = False) -> Store:
    """Return the store of a directory, or of `s3://BUCKET[/PREFIX]`; with `make`, a directory that is missing is made.

    Raises InputError.
    """
    parts = urlsplit(where)
    if parts.scheme == "s3":
        return S3Store.open(parts.netloc, parts.path.strip("/"))
    if "://" in where:
        problem = f"cannot publish to {parts.scheme}://"
        raise InputError(Problem(message=problem, hint="--store: a directory, or s3://BUCKET/PREFIX"))
    directory = Path(where)
    if make:
        directory.mkdir(parents=True, exist_ok=True)
    if not directory.is_dir():
        raise InputError(Problem(message=f"no store at {directory}", hint="pibuild models publish FILE makes one"))
    return DirectoryStore(directory)


def publish(store: Store, wanted: Publication, *, dry_run: bool = False) -> Published:
    """Put a model into a store, which is locked meanwhile; what is there already is not written again.

    A dry run says what would be written and writes nothing. Raises InputError when name and version hold another
    content, or for a file that is broken off.
    """
    check_names(wanted.model, wanted.version)
    with store.locked():
        there = find_manifest(store, wanted.model, wanted.version)
        sha256, chunks = cut(wanted.path, longest=wanted.longest, fixed=wanted.fixed)
        if there is not None and there.sha256 != sha256:
            problem = f"{wanted.model} {wanted.version} is published, with another content ({there.published})"
            raise InputError(Problem(message=problem, hint="a version never changes: give this one another --version"))
        manifest = there or _manifest(wanted, sha256, chunks)
        if dry_run:
            return Published(manifest=manifest, added=_missing(store, manifest), signed=wanted.key is not None)
        added = 0 if manifest.plain else _put_chunks(store, wanted.path, manifest)
        content = store.read(manifest.object) if there else manifest.to_json()
        signed = _sign(store, manifest, content or b"", wanted.key)
        if there is None and not store.create(manifest.object, manifest.to_json()):
            problem = f"{wanted.model} {wanted.version} was published by another publisher meanwhile"
            raise InputError(Problem(message=problem, hint="run the same command again: it compares"))
    return Published(manifest=manifest, added=added, signed=signed)


def _manifest(wanted: Publication, sha256: str, chunks: tuple[Chunk, ...]) -> Manifest:
    manifest = Manifest(
        model=wanted.model,
        version=wanted.version,
        file=f"model{wanted.path.suffix}",
        sha256=sha256,
        size=chunks[-1].off + chunks[-1].len,
        published=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        plain=wanted.plain,
        chunks=chunks,
    )
    if len(manifest.to_json()) > LARGEST:
        problem = f"{wanted.path}: cut into {len(chunks)} chunks, more than a manifest holds"
        raise InputError(Problem(message=problem, hint="is it a model? GGUF files are cut at their tensors"))
    return manifest


def _missing(store: Store, manifest: Manifest) -> int:
    """Return the bytes of the chunks that are not there."""
    sizes = {name: each.size for name, each in store.held("chunks").items()}
    lacking = {chunk.object: chunk.len for chunk in manifest.chunks if sizes.get(chunk.object) != chunk.len}
    return 0 if manifest.plain else sum(lacking.values())


def _put_chunks(store: Store, path: Path, manifest: Manifest) -> int:
    """Write the chunks that are missing; return their bytes."""
    sizes = {name: each.size for name, each in store.held("chunks").items()}
    added = 0
    with open_named(path) as file:
        for chunk in manifest.chunks:
            if sizes.get(chunk.object) == chunk.len:
                continue
            file.seek(chunk.off)
            content = file.read(chunk.len)
            if hashlib.sha256(content).hexdigest() != chunk.sha256:
                raise InputError(
                    Problem(message=f"{path} changed while it was read", hint="publish it when it is whole")
                )
            store.put(chunk.object, content)
            sizes[chunk.object] = chunk.len
            added += chunk.len
    return added


def _sign(store: Store, manifest: Manifest, content: bytes, key: Path | None) -> bool:
    """Write the manifest's signature, where there is a key and none is there for this content yet."""
    name = manifest.object + _SIGNATURE
    if key is None:
        return store.read(name) is not None
    keygen = find_tool("ssh-keygen", package="openssh-client")
    made = run([keygen, "-q", "-Y", "sign", "-n", NAMESPACE, "-f", key], input=content, what="signing the manifest")
    store.put(name, made.stdout.encode())
    return True


def find_manifest(store: Store, model: str, version: str) -> Manifest | None:
    """Return a version's manifest, None when there is none. Raises FetchError for one that is not whole."""
    name = manifest_object(model, version)
    content = store.read(name)
    return None if content is None else read_manifest(content, f"{store.shown}/{name}")


def show(store: Store, model: str, version: str | None) -> Manifest:
    """Return a version's manifest, without a version the newest's. Raises InputError when there is none."""
    versions = [each for each in manifests(store) if each.model == model and version in (None, each.version)]
    if not versions:
        what = f"{model} {version}" if version else model
        raise InputError(Problem(message=f"no model {what} in {store.shown}", hint="pibuild models list"))
    return versions[-1]


def manifests(store: Store) -> list[Manifest]:
    """Return every version, by model and then by age, the newest last."""
    names = [name for name in store.held("manifests") if name.endswith(".json")]
    found = [read_manifest(store.read(name) or b"", f"{store.shown}/{name}") for name in names]
    return sorted(found, key=lambda each: (each.model, each.published, each.version))


def list_models(store: Store) -> tuple[Listed, ...]:
    """Return every version with what it shares with others."""
    signatures = {name for name in store.held("manifests") if name.endswith(_SIGNATURE)}
    versions = manifests(store)
    users = _users(versions)
    return tuple(
        Listed(
            model=each.model,
            version=each.version,
            size=each.size,
            chunks=len(each.chunks),
            own=sum(length for sha256, length in _lengths(each).items() if len(users[sha256]) == 1),
            shared=sum(length for sha256, length in _lengths(each).items() if len(users[sha256]) > 1),
            published=each.published,
            signed=each.object + _SIGNATURE in signatures,
        )
        for each in versions
    )


def _lengths(manifest: Manifest) -> Mapping[str, int]:
    return {chunk.sha256: chunk.len for chunk in manifest.chunks}


def _users(versions: Collection[Manifest]) -> dict[str, list[str]]:
    """Return the versions that need each chunk."""
    users: dict[str, list[str]] = {}
    for each in versions:
        for sha256 in _lengths(each):
            users.setdefault(sha256, []).append(f"{each.model} {each.version}")
    return users


def verify(store: Store, *, drop: bool = False) -> tuple[int, tuple[Bad, ...]]:
    """Read every chunk that a version needs; return the bytes read and what is wrong. With `drop`, bad chunks go."""
    versions = [each for each in manifests(store) if not each.plain]
    chunks = {chunk.sha256: chunk for each in versions for chunk in each.chunks}
    users, read, bad = _users(versions), 0, []
    for sha256, chunk in chunks.items():
        found = hashlib.sha256()
        try:
            for block in store.blocks(chunk.object):
                found.update(block)
                read += len(block)
        except FileNotFoundError:
            bad.append(Bad(name=chunk.object, why="missing", needed_by=tuple(users[sha256])))
            continue
        if found.hexdigest() != sha256:
            bad.append(Bad(name=chunk.object, why="not what its name says", needed_by=tuple(users[sha256])))
            if drop:
                store.delete(chunk.object)
    return read, tuple(bad)


def collect(
    store: Store, *, keep: int | None, needed: Collection[tuple[str, str]] = (), keep_days: int, dry_run: bool
) -> tuple[Collected, ...]:
    """Remove versions beyond the `keep` newest of each model, and chunks that nothing names.

    Versions in `needed` (model, version) stay, and so do chunks younger than `keep_days` days. Raises FetchError, and
    removes nothing, where a manifest cannot be read: what it names is not known then.
    """
    with store.locked():
        versions = manifests(store)
        old = [each for each in versions if keep is not None and each in _beyond(versions, each.model, keep)]
        going = [each for each in old if (each.model, each.version) not in needed]
        objects = store.held("manifests")
        found = [
            Collected(name=name, size=objects[name].size, why=f"older than the {keep} newest")
            for each in going
            for name in (each.object, each.object + _SIGNATURE)
            if name in objects
        ]
        named = {chunk.object for each in versions if each not in going for chunk in each.chunks}
        before = time.time() - keep_days * _DAY
        found += [
            Collected(name=each.name, size=each.size, why="no version needs it")
            for each in store.held("chunks").values()
            if each.name not in named and each.written <= before
        ]
        for one in () if dry_run else found:
            store.delete(one.name)
    return tuple(found)


def _beyond(versions: Collection[Manifest], model: str, keep: int) -> list[Manifest]:
    own = [each for each in versions if each.model == model]
    return own[: max(0, len(own) - keep)]


def check_verified(bad: Collection[Bad]) -> None:
    """Raise FetchError when something is wrong with a store."""
    if bad:
        hint = "pibuild models verify --drop-bad, then publish the files again: only what is missing is written"
        raise FetchError(f"{len(bad)} chunks are missing or spoilt", hint=hint)

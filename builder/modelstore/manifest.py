"""What a published model is made of: its manifest, and where manifest and chunks lie in a store.

    manifests/NAME/VERSION.json        the manifest; `.json.sig` beside it is its signature
    chunks/ab/abcdef…                  a chunk, named by the sha256 of its content

A manifest never changes once it is there. The reader on the node is `overlays/models/…/pibuild-fetch-model`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from builder.errors import FetchError, InputError, Problem

FORMAT = 1
LARGEST = 16 << 20  # bytes of a manifest; overlays/models has the same
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAKEN = frozenset({"current", "pointer.json"})  # what else lies beside a node's versions
_UNWHOLE = "bring the store's own copy back, or remove the file and publish the version again"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a model: the sha256 of its content (64 hex digits), where it begins, and its length, in bytes."""

    sha256: str
    off: int
    len: int

    @property
    def object(self) -> str:
        """Where it lies in a store."""
        return f"chunks/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a model.

    `sha256` and `size` (bytes) are the whole file's, `file` is its name on a node, `published` a time of ISO 8601 in
    UTC. `plain` is a URL at which the file lies whole: nodes take ranges of it, and the store has none of its chunks.
    """

    model: str
    version: str
    file: str
    sha256: str
    size: int
    published: str
    plain: str = ""
    chunks: tuple[Chunk, ...]

    @property
    def object(self) -> str:
        """Where it lies in a store."""
        return manifest_object(self.model, self.version)

    def to_json(self) -> bytes:
        """Return the file's content: JSON on one line."""
        written = {"format": FORMAT, **asdict(self)}
        if not self.plain:
            del written["plain"]
        return json.dumps(written, separators=(",", ":")).encode() + b"\n"


def manifest_object(model: str, version: str) -> str:
    """Return where a manifest lies in a store."""
    return f"manifests/{model}/{version}.json"


def name_problem(what: str, written: str) -> str:
    """Return what is wrong with the name of a model or a version, which become directories; "" when nothing is."""
    if not _NAME.fullmatch(written):
        return f"{what} '{written}': letters, digits, '.', '_' and '-', a letter or digit first, 100 characters at most"
    return f"{what} '{written}' is a name that nodes use themselves" if written in _TAKEN else ""


def check_names(model: str, version: str) -> None:
    """Raise InputError for a name or a version that cannot be one."""
    problems = [name_problem("model", model), name_problem("version", version)]
    if any(problems):
        raise InputError(*(Problem(message=problem) for problem in problems if problem))


def _check_types(manifest: Manifest) -> None:
    """Raise TypeError for a field that is something else than it is to be."""
    texts = (manifest.model, manifest.version, manifest.file, manifest.sha256, manifest.published, manifest.plain)
    numbers = (manifest.size, *(number for chunk in manifest.chunks for number in (chunk.off, chunk.len)))
    if not all(isinstance(text, str) for text in (*texts, *(chunk.sha256 for chunk in manifest.chunks))):
        raise TypeError("a text that is none")
    if not all(type(number) is int for number in numbers):
        raise TypeError("a number that is none")


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in a file. Raises FetchError for one that is not whole, or not of this format."""
    if len(content) > LARGEST:
        raise FetchError(f"{where}: not a manifest: over {LARGEST} bytes", hint=_UNWHOLE)
    try:
        read = json.loads(content)
        if read.pop("format") != FORMAT:
            raise FetchError(f"{where}: a manifest of another format", hint="use a newer pibuild")
        chunks = tuple(Chunk(**chunk) for chunk in read.pop("chunks"))
        manifest = Manifest(**read, chunks=chunks)
        _check_types(manifest)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FetchError(f"{where}: not a whole manifest: {ascii(str(error))[:200]}", hint=_UNWHOLE) from error
    reached = 0
    for chunk in chunks:
        if not _SHA256.fullmatch(chunk.sha256) or chunk.off != reached or chunk.len <= 0:
            raise FetchError(f"{where}: not a whole manifest: the chunk at {chunk.off}", hint=_UNWHOLE)
        reached += chunk.len
    if reached != manifest.size:
        raise FetchError(f"{where}: its chunks end at {reached} of {manifest.size} bytes", hint=_UNWHOLE)
    return manifest

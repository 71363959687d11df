"""What a version is made of, as its publisher signed it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failures import FailedError
from files import read_json

FORMAT = 1
LARGEST_CHUNK = 1 << 30
NAMESPACE = "pibuild-model"  # a signature made for something else does not count
SIGNER = "publisher"  # what the file of signers calls them all
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of models, versions and their files
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Chunk:
    """A piece of the file: its sha256, where it begins and its length, in bytes."""

    sha256: str
    off: int
    len: int


@dataclass(frozen=True)
class Manifest:
    """One version. `plain` is where the file lies whole; `content` the manifest as it was read."""

    model: str
    version: str
    file: str
    sha256: str
    size: int
    published: str
    plain: str
    chunks: tuple[Chunk, ...]
    content: bytes


def check_signature(content: bytes, signature: Path, signers: Path) -> None:
    """Raise FailedError unless a key in the file `signers` (ssh-keygen(1), ALLOWED SIGNERS) signed the content."""
    if not signers.is_file() or not signers.read_text().strip():
        raise FailedError(f"{signers} names nobody who may publish")
    verify = ("ssh-keygen", "-Y", "verify", "-f", signers, "-I", SIGNER, "-n", NAMESPACE, "-s", signature)
    ended = subprocess.run(verify, input=content, capture_output=True, check=False)
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip()
        raise FailedError(f"the manifest's signature is not good: {said}")


def parse(content: bytes, model: str, version: str) -> Manifest:
    """Return the manifest of that version. Raises FailedError for another, or one that names what it must not."""
    try:
        manifest = _manifest(json.loads(content), content)
        right = _holds(manifest, model, version)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise FailedError(f"not a manifest: {ascii(error)[:200]}") from None
    if not right:
        raise FailedError(f"not a manifest of {model} {version}, or not a whole one")
    return manifest


def _holds(manifest: Manifest, model: str, version: str) -> bool:
    """Whether it is that version's, and its chunks are the whole file. Raises TypeError."""
    named = (manifest.model, manifest.version) == (model, version)
    ends = [0, *(chunk.off + chunk.len for chunk in manifest.chunks)]
    whole = [*(chunk.off for chunk in manifest.chunks), manifest.size] == ends
    sums = all(_SHA256.fullmatch(each) for each in (manifest.sha256, *(chunk.sha256 for chunk in manifest.chunks)))
    lengths = all(0 < chunk.len <= LARGEST_CHUNK for chunk in manifest.chunks)
    texts = all(isinstance(each, str) for each in (manifest.published, manifest.plain))
    file = NAME.fullmatch(manifest.file) and not manifest.file.endswith((".json", ".sig", ".part"))
    return bool(named and whole and sums and lengths and texts and file and type(manifest.size) is int)


def _manifest(read: dict[str, Any], content: bytes) -> Manifest:
    if read["format"] != FORMAT:
        raise FailedError(f"a manifest of format {ascii(read['format'])[:40]}, which this program does not know")
    return Manifest(
        model=read["model"],
        version=read["version"],
        file=read["file"],
        sha256=read["sha256"],
        size=read["size"],
        published=read["published"],
        plain=read.get("plain", ""),
        chunks=tuple(Chunk(each["sha256"], int(each["off"]), int(each["len"])) for each in read["chunks"]),
        content=content,
    )


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest that lies in a version's directory, None when none does, or no whole one."""
    try:
        content = (directory / "manifest.json").read_bytes()
        held = read_json(directory / "manifest.json")
        return parse(content, held["model"], held["version"])
    except (OSError, KeyError, FailedError):
        return None

"""Damaged archives: read as far as they go, or refused in words; never another exception."""

from __future__ import annotations

import contextlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.recipe.steps.archives import ArchiveError, decompressed, members

_TEXT = random.Random(1).randbytes(3000) + b"x" * 5000  # noqa: S311 - the same in every run


def _tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name in ("a", "b/c"):
            member = tarfile.TarInfo(name)
            member.size = len(_TEXT)
            tar.addfile(member, io.BytesIO(_TEXT))
    return out.getvalue()


def _zip(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a", _TEXT)
        archive.writestr("b/c", b"hello" * 900)
    return out.getvalue()


_SOUND = {
    **{f"tar{mode}": _tar(f"w{mode}") for mode in ("", ":gz", ":bz2", ":xz")},
    **{f"zip{method}": _zip(method) for method in (0, 8, 12, 14)},
}


def _damaged(sound: bytes, *, seed: int) -> Iterator[bytes]:
    yield from (sound[: len(sound) * part // 16] for part in range(16))
    chance = random.Random(seed)  # noqa: S311
    for number in range(150):
        spoilt = bytearray(sound)
        for _ in range(1 + number % 8):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        yield bytes(spoilt)


def _read(path: Path) -> None:
    with members(path) as found:
        for member in found:
            if member.kind == "file":
                with member.open() as stream:
                    stream.read()


@pytest.mark.parametrize("kind", _SOUND)
def test_a_damaged_archive_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    path, refused = tmp_path / "archive", 0
    path.write_bytes(_SOUND[kind])
    _read(path)
    for content in _damaged(_SOUND[kind], seed=len(kind)):
        path.write_bytes(content)
        try:
            _read(path)
        except ArchiveError:
            refused += 1
        with contextlib.suppress(ArchiveError), decompressed(path) as stream:
            stream.read()
    assert refused > 16


def test_a_disk_that_fills_is_no_damage_of_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(_SOUND["zip8"])
    with pytest.raises(OSError, match="No space"), members(path):
        raise OSError(28, "No space left on device")

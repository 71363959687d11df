"""Archives of every format: whole, cut off, with bytes flipped, and bombs. Members, or words, soon; nothing else."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import resource
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.recipe.steps.archives import ArchiveError, decompressed, members
from builder.run import run

pytestmark = pytest.mark.tools
CONTENT = bytes(random.Random(1).choices(range(64), k=60_000))  # noqa: S311 - the same every time
NAMES = ("a/one", "a/two", "three")
PACKED = ("gz", "bz2", "xz", "zst")
ZIPPED = {
    "stored.zip": zipfile.ZIP_STORED,
    "zip": zipfile.ZIP_DEFLATED,
    "bz2.zip": zipfile.ZIP_BZIP2,
    "lzma.zip": zipfile.ZIP_LZMA,
}
FORMATS = ("tar", *(f"tar.{kind}" for kind in PACKED), *ZIPPED)


def pack(kind: str, data: bytes, scratch: Path) -> bytes:
    if kind == "zst":
        (scratch / "plain").write_bytes(data)
        run(["zstd", "-q", "-f", scratch / "plain", "-o", scratch / "packed"])
        return (scratch / "packed").read_bytes()
    ways: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return ways[kind](data)


def archive(form: str, scratch: Path, content: bytes = CONTENT) -> bytes:
    made = io.BytesIO()
    if form.endswith("zip"):
        with zipfile.ZipFile(made, "w", ZIPPED[form]) as zipped:
            for name in NAMES:
                zipped.writestr(name, content)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    kind = form.partition(".")[2]
    return pack(kind, made.getvalue(), scratch) if kind else made.getvalue()


def contents(file: Path) -> dict[str, bytes]:
    with members(file) as found:
        return {str(member.name): member.open().read() for member in found if member.kind == "file"}


def read_whole(file: Path) -> None:
    with decompressed(file) as stream:
        while stream.read(1 << 16):
            continue


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_one_gives_its_members(tmp_path: Path, form: str) -> None:
    (tmp_path / "x").write_bytes(archive(form, tmp_path))
    assert contents(tmp_path / "x") == dict.fromkeys(NAMES, CONTENT)


def damaged(whole: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield an archive cut off, with bytes of it replaced, and with bits of it flipped, most of them at its begin."""
    yield from (whole[: len(whole) * part // 16] for part in range(16))
    for number in range(150):
        spoilt = bytearray(whole)
        for _ in range(1 + number % 8):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        yield bytes(spoilt)
    for number in range(60):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(number % 3 * 4):
            data[chance.randrange(min(len(data), 512 if number % 2 else len(data)))] ^= 1 << chance.randrange(8)
        yield bytes(data)


@pytest.mark.parametrize("form", FORMATS)
def test_one_that_is_cut_off_or_has_bytes_flipped_ends_in_words(tmp_path: Path, form: str) -> None:
    """Also where what is no single compressed file is read as one."""
    refused, file = 0, tmp_path / "x"
    for data in damaged(archive(form, tmp_path), random.Random(form)):  # noqa: S311
        file.write_bytes(data)
        try:
            contents(file)
        except ArchiveError:
            refused += 1
        with contextlib.suppress(ArchiveError):
            read_whole(file)
    assert refused > 16 + 10


def test_a_disk_that_fills_is_no_damage_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(archive("zip", tmp_path))
    with pytest.raises(OSError, match="No space"), members(tmp_path / "x"):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", PACKED)
def test_a_single_file_that_is_damaged_ends_in_words(tmp_path: Path, kind: str) -> None:
    whole, chance = pack(kind, CONTENT, tmp_path), random.Random(kind)  # noqa: S311
    (tmp_path / "x").write_bytes(whole)
    with decompressed(tmp_path / "x") as stream:
        assert stream.read() == CONTENT
    for number in range(40):
        data = bytearray(whole)
        if number % 2:
            data[chance.randrange(6, len(data))] ^= 0xFF
        else:
            del data[chance.randrange(6, len(data) - 8) :]
        (tmp_path / "x").write_bytes(data)
        try:
            read_whole(tmp_path / "x")
        except ArchiveError:
            continue
        assert number % 2, "cut off, and nobody noticed"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an archive unpack to 4 MiB, so that a bomb need not be big."""
    monkeypatch.setattr("builder.recipe.steps.archives._ALWAYS", 4 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("tar", "stored.zip")])
def test_a_bomb_is_not_unpacked(tmp_path: Path, form: str) -> None:
    (tmp_path / "x").write_bytes(archive(form, tmp_path, bytes(30 << 20)))
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        contents(tmp_path / "x")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", PACKED)
def test_a_bomb_of_a_single_file_is_not_unpacked(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(pack(kind, bytes(60 << 20), tmp_path))
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        read_whole(tmp_path / "x")


def test_a_header_of_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    """tarfile reads extended headers whole; this one says that it has 6 GiB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    (tmp_path / "x").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArchiveError):
        contents(tmp_path / "x")
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def test_a_link_of_a_zip_is_no_longer_than_a_path(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as zipped:
        link = zipfile.ZipInfo("l")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, b"a" * (100 << 20))
    with members(tmp_path / "x") as found:
        assert [len(member.link) for member in found] == [4096]

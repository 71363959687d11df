"""Reading archives (tar, plain or compressed with gzip, bzip2, xz or zstd; zip) and single compressed files."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

from builder.host.scratch import temporary
from builder.run import find_tool, run

Kind = Literal["file", "directory", "link", "hard link", "special"]
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, UnicodeDecodeError)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1


class ArchiveError(Exception):
    """A file is no archive, a damaged one, or one whose names lead out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An archive's member. `link` is a symbolic link's target, or the member that a hard link is another name of."""

    name: PurePosixPath
    kind: Kind
    mode: int
    link: str
    open: Callable[[], IO[bytes]]


@contextlib.contextmanager
def members(archive: Path) -> Iterator[Iterator[Member]]:
    """Open an archive for one pass over its members. Raises ArchiveError, HostError where zstd is not installed."""
    with _plain(archive) as plain, _errors():
        if tarfile.is_tarfile(plain):
            with tarfile.open(plain) as tar:
                yield _tar_members(tar)
        elif zipfile.is_zipfile(plain):
            with zipfile.ZipFile(plain) as zipped:
                yield _zip_members(zipped)
        else:
            raise ArchiveError("is neither a tar nor a zip archive")


@contextlib.contextmanager
def decompressed(file: Path) -> Iterator[IO[bytes]]:
    """Open a single compressed file (gzip, bzip2, xz, zstd) for reading. Raises ArchiveError, HostError."""
    openers: dict[bytes, Callable[[Path], object]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
    }
    with _plain(file) as plain, _errors():
        if plain != file:
            with plain.open("rb") as stream:
                yield stream
            return
        with file.open("rb") as stream:
            head = stream.read(8)
        opener = next((opener for magic, opener in openers.items() if head.startswith(magic)), None)
        if opener is None:
            raise ArchiveError("is not compressed with gzip, bzip2, xz or zstd")
        with cast("IO[bytes]", opener(file)) as stream:
            yield stream


@contextlib.contextmanager
def _plain(file: Path) -> Iterator[Path]:
    """Yield a file, decompressed where it is zstd's, which Python's library cannot read before 3.14."""
    with file.open("rb") as stream:
        is_zstd = stream.read(4) == _ZSTD_MAGIC
    if not is_zstd:
        yield file
        return
    with temporary("archive") as directory:
        plain = directory / "plain"
        run([find_tool("zstd", package="zstd"), "-d", "-q", "-o", plain, file], what="decompress")
        yield plain


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what libraries raise for a damaged file into ArchiveError; what fails while a member is written stays."""
    try:
        yield
    except RuntimeError as error:  # of zipfile: encrypted, or made by a later version of the format
        raise ArchiveError(f"cannot be read: {error}") from error
    except _DAMAGED as error:
        raise ArchiveError(f"is damaged: {error}") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of bz2 and gzip, and of a place before the start
            raise
        raise ArchiveError(f"is damaged: {error}") from error


def _name(text: str) -> PurePosixPath:
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts:
        raise ArchiveError(f"has a member outside itself: {text}")
    return name


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    kinds: dict[bytes, Kind] = {
        tarfile.REGTYPE: "file",
        tarfile.AREGTYPE: "file",
        tarfile.CONTTYPE: "file",
        tarfile.GNUTYPE_SPARSE: "file",
        tarfile.DIRTYPE: "directory",
        tarfile.SYMTYPE: "link",
        tarfile.LNKTYPE: "hard link",
    }
    for info in tar:
        kind = kinds.get(info.type, "special")

        def read(info: tarfile.TarInfo = info) -> IO[bytes]:
            found = tar.extractfile(info)
            if found is None:
                raise ArchiveError(f"{info.name} is no file")
            return found

        link = str(_name(info.linkname)) if kind == "hard link" else info.linkname
        yield Member(name=_name(info.name), kind=kind, mode=info.mode & 0o7777, link=link, open=read)


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[Member]:
    for info in zipped.infolist():
        unix = info.external_attr >> 16  # the high half holds st_mode (APPNOTE 4.4.15, version made by 3)

        def read(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return zipped.open(info)

        is_link = stat.S_ISLNK(unix)
        yield Member(
            name=_name(info.filename),
            kind="directory" if info.is_dir() else "link" if is_link else "file",
            mode=stat.S_IMODE(unix) or (0o755 if info.is_dir() else 0o644),
            link=zipped.read(info).decode() if is_link else "",
            open=read,
        )

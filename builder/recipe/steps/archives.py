"""Reading archives (tar, plain or compressed with gzip, bzip2, xz or zstd; zip) and single compressed files."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

from builder.host.scratch import temporary
from builder.host.unwritable import is_full
from builder.run import CommandError, find_tool, run

Kind = Literal["file", "directory", "link", "hard link", "special"]
_RATIO, _ALWAYS = 200, 1 << 30  # how many times its size, and how many bytes, anything may unpack to
_AT_ONCE = 64 << 20  # bytes; tarfile reads a header as a whole, however big it says it is
_LONGEST_LINK = 4096
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # a name that is no text, a number out of reach
    OverflowError,
)
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
        if zipfile.is_zipfile(plain) and not _is_tar(plain):
            with zipfile.ZipFile(plain) as zipped:
                yield _zip_members(zipped, _limit(archive))
        elif _is_tar(plain):
            with (
                _stream(plain) as stream,
                tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream, _limit(archive)))) as tar,
            ):
                yield _tar_members(tar)
        else:
            raise ArchiveError("is neither a tar nor a zip archive")


@contextlib.contextmanager
def decompressed(file: Path) -> Iterator[IO[bytes]]:
    """Open a single compressed file (gzip, bzip2, xz, zstd) for reading. Raises ArchiveError, HostError."""
    with _plain(file) as plain, _errors(), _stream(plain) as stream:
        if plain == file and isinstance(stream, io.BufferedReader):
            raise ArchiveError("is not compressed with gzip, bzip2, xz or zstd")
        yield cast("IO[bytes]", _Bounded(stream, _limit(file)))


class _Bounded(io.RawIOBase):
    """What comes out of a decompressor: no more in all, and at once, than an honest archive has."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: tarfile goes over what it does not read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes. Raises ArchiveError where they are too many."""
        if size > _AT_ONCE:
            raise ArchiveError(f"has a header of {size} bytes")
        data = self._stream.read(_AT_ONCE if size < 0 else size)
        self._check(self._stream.tell())
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, which is decompressed up to there. Raises ArchiveError where that is too far."""
        if whence == os.SEEK_SET:
            self._check(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise ArchiveError(f"unpacks to more than {self._limit >> 20} MiB, {_RATIO} times what it is")


def _limit(archive: Path) -> int:
    """Return how many bytes may come out of a file."""
    return max(_ALWAYS, _RATIO * archive.stat().st_size)


@contextlib.contextmanager
def _stream(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed where it is packed."""
    openers: dict[bytes, Callable[[Path], object]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
    }
    with file.open("rb") as stream:
        head = stream.read(8)
    opener = next((opener for magic, opener in openers.items() if head.startswith(magic)), None)
    with file.open("rb") if opener is None else cast("IO[bytes]", opener(file)) as stream:
        yield stream


def _is_tar(file: Path) -> bool:
    """Return whether a tar archive begins here, by its first header; an empty one is none."""
    with _stream(file) as stream:
        head = stream.read(tarfile.BLOCKSIZE)
    try:
        return bool(tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape"))
    except tarfile.HeaderError:
        return False


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
        bounded: list[str | Path] = [find_tool("prlimit", package="util-linux"), f"--fsize={_limit(file)}"]
        try:
            run([*bounded, find_tool("zstd", package="zstd"), "-d", "-q", "-o", plain, file], what="decompress")
        except CommandError as error:
            if is_full(error):
                raise
            said = error.completed.stderr.strip() or f"it unpacks to more than {_limit(file) >> 20} MiB"
            raise ArchiveError(f"is damaged: {said}") from error
        yield plain


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what libraries raise for a damaged file into ArchiveError; what fails while a member is written stays."""
    try:
        yield
    except RuntimeError as error:  # of zipfile: encrypted, or made by a later version of the format
        raise ArchiveError(f"cannot be read: {error}") from error
    except _DAMAGE as error:
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


def _zip_members(zipped: zipfile.ZipFile, limit: int) -> Iterator[Member]:
    if sum(info.file_size for info in zipped.infolist()) > limit:  # more than it says does not come out
        raise ArchiveError(f"unpacks to more than {limit >> 20} MiB, {_RATIO} times what it is")
    for info in zipped.infolist():
        if not info.filename:
            raise ArchiveError("has a member without a name")
        unix = info.external_attr >> 16  # the high half holds st_mode (APPNOTE 4.4.15, version made by 3)

        def read(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return zipped.open(info)

        is_link = stat.S_ISLNK(unix)
        yield Member(
            name=_name(info.filename),
            kind="directory" if info.is_dir() else "link" if is_link else "file",
            mode=stat.S_IMODE(unix) or (0o755 if info.is_dir() else 0o644),
            link=zipped.open(info).read(_LONGEST_LINK).decode() if is_link else "",
            open=read,
        )

"""Getting files from outside, over links that break: resumed, retried, and never named before they are right.

A file is written beside its place as `.NAME.part` and renamed only when its checksum holds. What a broken transfer left
stays there, with what the server said of it in `.NAME.part.json`, and the next attempt (of this run or a later one)
goes on from it (RFC 9110, sections 13.1.5 and 14). Messages never show a URL's password, token or query.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from urllib3.exceptions import HTTPError as TransportError

from builder.console import note, size, transfer
from builder.errors import FetchError, HostError
from builder.host.fetch_watch import Watch
from builder.host.files import sync
from builder.host.hashing import file_digest
from builder.host.locks import take
from builder.host.named_file import open_named

_CHUNK = 1 << 18
_FROM_NETWORK = 1 << 14  # read at once: what drips is seen to
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # a later attempt may go through
_LONGEST_PAUSE = 60.0
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_LARGEST = 64 << 30  # bytes of a file, where its server does not say when it ends


class UnreachableError(FetchError):
    """The origin could not be reached or did not give the file. What an optional artifact may be missing for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to put up with a bad link. Times are seconds.

    `attempts` counts those in a row that brought nothing new; `most` counts all.
    """

    connect: float = 20.0
    read: float = 60.0
    attempts: int = 5
    most: int = 100
    pause: float = 1.0  # before the second attempt; doubles with each further one, up to a minute


class _InterruptedTransfer(Exception):  # noqa: N818 - a turn of the retry loop, never seen outside
    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(url: str, *, sha256: str | None, into: Path, patience: Patience | None = None) -> Path:
    """Bring the file at `url` (http, https, file, or a local path) to the path `into` and return that path.

    With `sha256` (64 hex digits) the file gets its name only when it has that checksum, and one that is there with it
    is kept. Raises UnreachableError when the origin does not give the file, FetchError when it is not what was
    promised, HostError when it cannot be written.
    """
    wanted = sha256.lower() if sha256 else None
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with _Partial.open(into, url=url, wanted=wanted) as partial:
            if wanted and into.is_file() and file_digest(into) == wanted:
                partial.discard()
                return into
            resumed = _fill(partial, url, patience or Patience())
            if resumed and wanted and partial.digest() != wanted:
                note(f"{shown(url)}: the resumed file has the wrong checksum; starting over")
                partial.reset()
                _fill(partial, url, patience or Patience())
            _check(partial, url, wanted)
            partial.finish()
    except OSError as error:
        raise HostError(
            f"{into}: cannot be written: {error.strerror or error}",
            hint=f"make room or check the permissions in {into.parent}; what came already is kept and resumed",
        ) from error
    return into


def _check(partial: _Partial, url: str, wanted: str | None) -> None:
    if wanted is None:
        return
    got = partial.digest()
    if got != wanted:
        partial.discard()
        raise FetchError(
            f"{shown(url)}: wrong checksum\n  promised sha256 {wanted}\n  received sha256 {got}",
            hint="the file changed at its origin, or something on the way replaced it: check the URL and the checksum",
        )


def _fill(partial: _Partial, url: str, patience: Patience) -> bool:
    """Get the whole of the file. Returns whether it began with what an earlier transfer left."""
    local = local_path(url)
    if local is not None:
        partial.reset()
        _copy(local, partial)
        return False
    resumed = partial.size() > 0
    furthest, fruitless = partial.size(), 0
    for attempt in range(1, patience.most + 1):
        try:
            resumed = _transfer(partial, url, patience) or resumed
        except _InterruptedTransfer as interruption:
            reached = partial.size()
            fruitless = 0 if reached > furthest else fruitless + 1
            furthest = max(furthest, reached)
            if fruitless >= patience.attempts or attempt == patience.most:
                raise UnreachableError(
                    f"{shown(url)}: {interruption} (after {attempt} attempts, {size(reached)} received)",
                    hint="check the network and run the same command again: it goes on from here",
                ) from None
            pause = min(max(patience.pause * 2**fruitless, interruption.wait), _LONGEST_PAUSE)
            note(f"{shown(url)}: {interruption}; again in {pause:.0f} s")
            time.sleep(pause)
        else:
            break
    return resumed


def _copy(source: Path, partial: _Partial) -> None:
    try:
        file = open_named(source)
    except OSError as error:
        raise UnreachableError(f"{source}: {error.strerror}", hint="check the path") from error
    with file:
        partial.file.seek(0)
        while chunk := file.read(_CHUNK):
            partial.file.write(chunk)


def _transfer(partial: _Partial, url: str, patience: Patience) -> bool:
    """Make one request and take what it gives. Returns whether it was a resumed one that the server went along with."""
    begin = partial.size()
    headers = {"Accept-Encoding": "identity", "User-Agent": "pibuild", **partial.range_headers()}
    try:
        with Watch(2 * patience.read) as watch:
            times = (patience.connect, patience.read)
            with watch.session.get(url, headers=headers, stream=True, timeout=times) as response:
                total = _accept(response, partial, begin, url)
                if total == begin and response.status_code == requests.codes.requested_range_not_satisfiable:
                    return True
                _receive(response, partial, url, total, watch)
        if watch.overdue:
            raise _InterruptedTransfer("next to nothing came")
    except requests.TooManyRedirects:
        raise UnreachableError(f"{shown(url)}: redirected without end", hint="check the URL") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        hint = "http, https, file or a path; the server may have redirected to something else"
        raise UnreachableError(f"{shown(url)}: not a URL that can be fetched", hint=hint) from None
    except (requests.RequestException, TransportError) as error:
        if _causes(error, ssl.SSLCertVerificationError):
            raise UnreachableError(
                f"{shown(url)}: the server's certificate does not hold",
                hint="check this machine's clock and its ca-certificates package",
            ) from None
        raise _InterruptedTransfer(_reason(error)) from None
    except ValueError:  # an address or a header that no library takes
        hint = "check the URL; the server may have redirected to something else"
        raise UnreachableError(f"{shown(url)}: what the server answers cannot be followed", hint=hint) from None
    finally:
        partial.file.flush()
    if total is not None and partial.size() != total:
        raise _InterruptedTransfer(f"broke off after {partial.size()} of {total} bytes")
    return begin > 0 and response.status_code == requests.codes.partial_content


def _accept(response: requests.Response, partial: _Partial, begin: int, url: str) -> int | None:
    """Place the partial file where the answer's body begins. Returns the whole file's bytes, None when unknown."""
    status = response.status_code
    placed = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    whole = int(placed[2]) if placed and placed[2] != "*" else None
    if status == requests.codes.ok:
        partial.begin(response.headers)
        length = response.headers.get("Content-Length", "")
        return int(length) if _LENGTH.fullmatch(length) else None
    if status == requests.codes.partial_content and placed and placed[1] == str(begin):
        return whole
    if status == requests.codes.requested_range_not_satisfiable and whole == begin:
        return whole
    if status in (requests.codes.partial_content, requests.codes.requested_range_not_satisfiable):
        partial.reset()
        raise _InterruptedTransfer("the server does not continue where it broke off")
    if status in _AGAIN:
        after = response.headers.get("Retry-After", "")
        raise _InterruptedTransfer(f"{status} {response.reason}", wait=float(after) if after.isdecimal() else 0.0)
    raise UnreachableError(f"{shown(url)}: {status} {response.reason}", hint=_STATUS_HINTS.get(status, "check the URL"))


_STATUS_HINTS = {
    401: "the server wants a login: put it in the URL or in ~/.netrc",
    403: "the server refuses; a proxy in between may do so too",
    404: "the file is not (or no longer) there: check the URL",
}


def _receive(response: requests.Response, partial: _Partial, url: str, total: int | None, watch: Watch) -> None:
    partial.file.seek(0, os.SEEK_END)
    count = partial.file.tell()
    with transfer(shown(url), partial.written, total=total):
        for chunk in response.raw.stream(_FROM_NETWORK, decode_content=False):
            partial.file.write(chunk)
            watch.fed(len(chunk))
            count += len(chunk)
            if count > max(total or 0, _LARGEST):
                partial.reset()
                raise UnreachableError(f"{shown(url)}: does not end after {size(count)}", hint="check the URL")


def _causes(error: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is wrapped in it: requests and urllib3 carry causes in args and `reason` as well."""
    yield error
    inner = [*error.args, getattr(error, "reason", None), error.__cause__, error.__context__]
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _chain(cause)
            return


def _reason(error: BaseException) -> str:
    """Say why a transfer failed without the library's own text, which repeats the whole URL."""
    for cause in reversed(list(_chain(error))):
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
    if isinstance(error, requests.Timeout) or "Timeout" in type(error).__name__:
        return "no answer in time"
    return f"the connection failed ({type(list(_chain(error))[-1]).__name__})"


class _Partial:
    """A file on its way: `.NAME.part`, locked by the process that fills it, and what is known of its origin."""

    def __init__(self, final: Path, file: IO[bytes], *, origin: str, wanted: str | None) -> None:
        self.file = file
        self._final = final
        self._path = _partial_path(final)
        self._notes = self._path.with_name(f"{self._path.name}.json")
        self._identity = {"origin": hashlib.sha256(origin.encode()).hexdigest(), "sha256": wanted}
        self._validator = self._known_validator()
        if self._validator is None:
            self.reset()

    @classmethod
    @contextlib.contextmanager
    def open(cls, final: Path, *, url: str, wanted: str | None) -> Iterator[_Partial]:
        """Open and lock the partial file; another process at the same file is waited for."""
        path = _partial_path(final)
        while True:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                take(file.fileno(), path, busy=f"another process is fetching {final.name}")
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    yield cls(final, file, origin=url, wanted=wanted)
                    return

    def _known_validator(self) -> str | None:
        """Return what If-Range takes ("" where only the checksum can tell), None where there is nothing to resume."""
        known = _read_json(self._notes)
        if any(known.get(key) != value for key, value in self._identity.items()):
            return None
        validator = str(known.get("validator", ""))
        return validator if validator or self._identity["sha256"] else None

    def range_headers(self) -> dict[str, str]:
        begin = self.size()
        if begin == 0:
            return {}
        return {"Range": f"bytes={begin}-"} | ({"If-Range": self._validator} if self._validator else {})

    def begin(self, headers: Mapping[str, str]) -> None:
        """Start at zero with an answer's body, and keep what resuming it will need (a weak ETag is of no use)."""
        self.reset()
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")
        self._notes.write_text(json.dumps({**self._identity, "validator": self._validator}))

    def reset(self) -> None:
        self._notes.unlink(missing_ok=True)
        self._validator = None
        self.file.seek(0)
        self.file.truncate()

    def written(self) -> int:
        """Return the bytes that are in the file already; another thread may ask."""
        return os.fstat(self.file.fileno()).st_size

    def size(self) -> int:
        self.file.flush()
        return os.fstat(self.file.fileno()).st_size

    def digest(self) -> str:
        """Return the sha256 of what has been written, as it reads back."""
        self.file.flush()
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type]

    def discard(self) -> None:
        self._path.unlink()
        self._notes.unlink(missing_ok=True)

    def finish(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self._path.rename(self._final)
        self._notes.unlink(missing_ok=True)
        sync(self._final.parent)


def _partial_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.part")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of our own; one that is missing or was cut short counts as empty."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def local_path(url: str) -> Path | None:
    """Return the path a URL without a scheme or with `file:` means; None for what the network has."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise FetchError(f"{shown(url)}: not a URL that can be fetched", hint="http, https, file or a path") from None
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if "://" in url:
        raise FetchError(
            f"{shown(url)}: cannot fetch from {parts.scheme}://", hint="http, https, file:///path or a path"
        )
    return Path(url)


def shown(url: str) -> str:
    """Return a URL fit for messages and logs: without user, password, query and fragment, which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))

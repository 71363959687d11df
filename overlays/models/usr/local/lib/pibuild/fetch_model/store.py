"""Reading a store over links that break."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from failures import FailedError, InterruptedTransferError, say

BLOCK = 1 << 18  # bytes read at once from a disk
_FROM_NETWORK = 1 << 14  # and from a store, each within twice the time that an answer may take
ATTEMPTS = 8  # in a row that brought next to nothing new, before a run gives up
PROGRESS = 4096  # bytes that count as something new
WASTE = 16 << 20  # bytes of one model that may come in vain, beside what chunks that came wrong cost: links are metered
LONGEST_PAUSE = 60.0
TIMEOUT = 60.0
REDIRECTS = 5
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})

_DIGITS = re.compile(r"bytes ([0-9]{1,18})-", re.ASCII)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wanted:
    """What to ask for: the bytes of `url` from `begin` on.

    Of a file that lies there whole, the piece is the `length` bytes from `offset` on, and `begin` counts from there.
    `fresh` asks caches on the way to step aside.
    """

    url: str
    begin: int = 0
    offset: int = 0
    length: int | None = None
    fresh: bool = False

    def headers(self) -> dict[str, str]:
        """Return the request's headers."""
        headers = {"User-Agent": "pibuild", "Accept-Encoding": "identity"}
        if self.begin or self.length is not None:
            end = "" if self.length is None else self.offset + self.length - 1
            headers["Range"] = f"bytes={self.offset + self.begin}-{end}"
        return headers | ({"Cache-Control": "no-cache"} if self.fresh else {})


class Store:
    """One connection, which is kept. `received` counts the bytes of bodies, `kept` those that were of use.

    `limit` is bytes per second, 0 for none; `pause` the seconds before a second attempt, which double with each further
    one; `patience` those that an answer may take. The token is for the store alone, not for where it sends us.
    """

    def __init__(
        self, url: str, *, token: str = "", limit: int = 0, pause: float = 1.0, patience: float = TIMEOUT
    ) -> None:
        self.url = url.rstrip("/") + "/"
        self.received = self.kept = 0
        self.waste = WASTE
        self._patience = patience
        self._token = token
        self._limit = limit
        self._pause = pause
        self._connection: http.client.HTTPConnection | None = None
        self._place: tuple[str, str] = ("", "")
        self._begun = time.monotonic()

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def small(self, name: str, most: int) -> bytes:
        """Return an object of at most `most` bytes. Raises FailedError."""
        url = self.url + quote(name)
        content = bytearray()

        def transfer() -> bytes:
            content.clear()
            with self.open(Wanted(url)) as (_, blocks):
                for block in blocks:
                    content.extend(block)
                    if len(content) > most:
                        raise FailedError(f"{url}: longer than {most} bytes")
            return bytes(content)

        whole = self.patiently(transfer, name, lambda: len(content))
        self.kept += len(whole)
        return whole

    @contextlib.contextmanager
    def open(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Give where the answer begins, counted as `wanted.begin` is, and the blocks of its body."""
        response = self._answer(wanted.url, wanted.headers())
        try:
            yield _accept(response, wanted), self._blocks(response)
        finally:
            if not response.isclosed() or response.will_close:
                self.close()

    def patiently(self, transfer: Callable[[], Result], what: str, reached: Callable[[], int]) -> Result:
        """Call `transfer` until it ends, with longer and longer pauses while nothing new comes. Raises FailedError.

        `reached` says how many bytes there are that stay: only what goes beyond the furthest so far is new.
        """
        fruitless, furthest = 0, reached()
        while True:
            try:
                return transfer()
            except InterruptedTransferError as interruption:
                self.close()
                new = reached() - furthest
                fruitless = 0 if new >= PROGRESS else fruitless + 1
                furthest = max(furthest, furthest + new)
                if fruitless >= ATTEMPTS:
                    raise FailedError(f"{what}: {interruption} (after {fruitless} attempts)") from None
                wasted = self.received - self.kept - reached()
                if wasted > self.waste:
                    raise FailedError(f"{what}: {interruption}; {wasted} bytes came in vain") from None
                longest = min(self._pause * 2**fruitless, LONGEST_PAUSE)
                pause = max(longest * random.uniform(0.5, 1), min(interruption.wait, LONGEST_PAUSE))
                say(f"{what}: {interruption}; again in {pause:.1f} s")
                time.sleep(pause)

    def _answer(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        for _ in range(REDIRECTS):
            parts = _parts(url)
            own = urlsplit(self.url)[:2] == parts[:2]
            authorized = {"Authorization": f"Bearer {self._token}"} if self._token and own else {}
            response = self._ask(parts, {**headers, **authorized})
            if response.status not in _MOVED:
                return response
            url = _follow(url, response.getheader("Location", ""))
            self.close()
        raise FailedError(f"{url}: redirected more than {REDIRECTS} times")

    def _ask(self, parts: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        kept = self._connection if parts[:2] == self._place else None
        if kept is None:
            self.close()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection = kept or _connect(parts, self._patience)
            self._connection, self._place = connection, (parts.scheme, parts.netloc)
            with _within(2 * self._patience):
                connection.request("GET", path, headers=dict(headers))
                return connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise FailedError(f"{parts.hostname}: its certificate does not hold: {error.verify_message}") from None
        except InterruptedTransferError:
            self.close()
            raise
        except http.client.InvalidURL as error:
            self.close()
            raise FailedError(f"{_shown(parts.geturl())}: not an address that can be fetched: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept is not None:  # the server ends idle connections
                return self._ask(parts, headers)
            raise InterruptedTransferError(_reason(error)) from None
        except ValueError as error:  # a name that no name server takes, a path that no request can hold
            self.close()
            raise FailedError(f"{_shown(parts.geturl())}: not an address that can be fetched: {error}") from None

    def _blocks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        most = min(_FROM_NETWORK, max(1024, self._limit // 4)) if self._limit else _FROM_NETWORK
        while True:
            try:
                with _within(2 * self._patience):
                    block = response.read(most)
            except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
                raise InterruptedTransferError(_reason(error)) from None
            if not block:
                break
            self.received += len(block)
            self._slow_down()
            yield block
        if response.length:
            raise InterruptedTransferError(f"broke off {response.length} bytes before the end")

    def _slow_down(self) -> None:
        """Keep to the limit, on average since the first byte."""
        if self._limit:
            time.sleep(max(0.0, self.received / self._limit - (time.monotonic() - self._begun)))


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Interrupt what the block waits for when it has taken that long: a server that sends a byte a minute answers."""

    def overdue(*_: object) -> None:
        raise InterruptedTransferError(f"next to nothing came within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _parts(url: str) -> SplitResult:
    """Return the parts of an address. Raises FailedError for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        good = parts.scheme in ("http", "https") and parts.hostname and url.isascii()
    except ValueError:
        good = False
    if not good:
        raise FailedError(f"{_shown(url)}: not an address that can be fetched")
    return parts


def _follow(url: str, location: str) -> str:
    """Return where an answer sends us. Raises FailedError."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise FailedError(f"{url}: redirected to {_shown(location)}, which is no address") from None


def _shown(url: str) -> str:
    """Return an address fit for a line of the journal."""
    return ascii(url)[1:-1][:200]


def _connect(parts: SplitResult, patience: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        return kind(parts.hostname or "", parts.port, timeout=patience)
    except ValueError as error:
        raise FailedError(f"{parts.netloc}: not an address that can be fetched: {error}") from None


def _accept(response: http.client.HTTPResponse, wanted: Wanted) -> int:
    """Return where the body begins. Raises InterruptedTransferError for what passes, FailedError for what does not."""
    status = response.status
    placed = _DIGITS.match(response.getheader("Content-Range", ""))
    if status == http.client.PARTIAL_CONTENT and placed and int(placed[1]) == wanted.offset + wanted.begin:
        return wanted.begin
    if status == http.client.OK:
        if wanted.length is not None:
            raise FailedError(f"{wanted.url}: the server gives no ranges")
        return 0
    if status in (http.client.PARTIAL_CONTENT, http.client.REQUESTED_RANGE_NOT_SATISFIABLE):
        raise InterruptedTransferError("the server does not go on where it broke off", restart=True)
    if status in _AGAIN:
        after = response.getheader("Retry-After", "")
        wait = float(after) if after.isdecimal() else 0.0
        raise InterruptedTransferError(f"{status} {_shown(response.reason)}", wait=wait)
    raise FailedError(f"{wanted.url}: {status} {_shown(response.reason)}")


def _reason(error: Exception) -> str:
    return _shown(str(error)) or type(error).__name__

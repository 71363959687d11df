"""Stop a transfer that makes no progress: a server that sends a byte a minute never times out.

requests' timeouts are those of one read of the socket; this bounds headers and bodies as a whole.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_LEAST = 4096  # bytes that are something
_opened = threading.local()


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _opened.socket = self.sock


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _opened.socket = self.sock


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *words: Any, **options: Any) -> None:
        super().init_poolmanager(*words, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}


class Watch:
    """A session whose connections are shut when within `seconds` next to nothing was `fed`. For one thread."""

    def __init__(self, seconds: float) -> None:
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter())
        self.overdue = False
        self._seconds = seconds
        self._fed = 0
        self._ended = threading.Event()
        self._own = _opened.__dict__
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._own.clear()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.session.close()

    def fed(self, count: int) -> None:
        """Count bytes of a body."""
        self._fed += count

    def _look(self) -> None:
        before = 0
        while not self._ended.wait(self._seconds):
            if self._fed - before < _LEAST:
                self.overdue = True
                held = self._own.get("socket")
                if held is not None:
                    with contextlib.suppress(OSError):  # it is closed by now
                        held.shutdown(socket.SHUT_RDWR)
            before = self._fed

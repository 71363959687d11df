"""A link that can be cut: relays TCP connections between programs on this machine, until it is told to swallow all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Link:
    """Relays `127.0.0.1:port` to another port. While it is cut, nothing comes through and nothing is refused."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.server.getsockname()[1]
        self.cut = threading.Event()
        self.ended = threading.Event()
        self.open: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def restore(self) -> None:
        """Let everything through again; what hung in the cut link is reset, as by a NAT that has forgotten it."""
        self.cut.clear()
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                here, _ = self.server.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                here.close()
                continue
            self.open += [here, there]
            for source, sink in ((here, there), (there, here)):
                self.threads.append(threading.Thread(target=self._relay, args=(source, sink)))
                self.threads[-1].start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self.cut.is_set():
                    return self._swallow(source)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
        return None

    def _swallow(self, source: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while source.recv(65536):
                pass

    def close(self) -> None:
        """End it."""
        self.ended.set()
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.restore()
        for thread in self.threads:
            thread.join()
        for one in self.open:
            one.close()


@contextlib.contextmanager
def link(to: int) -> Iterator[Link]:
    """Relay to a port for the time of the block."""
    made = Link(to)
    try:
        yield made
    finally:
        made.close()

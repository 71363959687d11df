"""The fleet manager's HTTP side.

    POST /v1/nodes/NAME    a node's report, JSON, with `Authorization: Bearer TOKEN`; 201 the first time, then 200
    GET  /healthz          whether it answers

It stands on a network that others are on too: a request has 15 seconds in all, a body 64 KiB, 256 requests are answered
at once, of one address 48, and more are hung up on; a wrong token and an unknown node get the same answer. Nothing of
what was sent is ever said: a line that is no request may hold a token.
"""

from __future__ import annotations

import collections
import ipaddress
import json
import socket
import ssl
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from builder import console
from builder.errors import HostError, InputError, Problem
from builder.fleet.reports import Database, Report, Tokens

_BODY = 64 << 10  # bytes
_SECONDS = 15.0  # for a whole request, however slowly it comes
_AT_ONCE = 256
_OF_ONE = 48  # of an address; a site's nodes may share one
_NODES = "/v1/nodes/"


class _Refused(Exception):  # noqa: N818 - an answer rather than an error
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class FleetServer(ThreadingHTTPServer):
    """Serves until it is told to stop. Raises HostError where it cannot listen."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listen: tuple[str, int], database: Database, tokens: Tokens) -> None:
        self.database, self.tokens = database, tokens
        self.address_family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self._lock = threading.Lock()
        self._answered: collections.Counter[str] = collections.Counter()
        try:
            super().__init__(listen, _Handler)
        except OSError as error:
            message = f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}"
            raise HostError(message, hint="another address or port: --listen ADDRESS:PORT") from error

    def secure(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on. Raises InputError for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            message = f"{certificate} and {key} are not a certificate and its key: {error}"
            problem = Problem(message=message, hint="both in PEM; --certificate FILE --key FILE")
            raise InputError(problem) from error
        # the handshake is the request's own business: in its thread, within its time
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or hang up where too many are answered already."""
        if not self._enter(client_address):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(client_address)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and end the connection when its time is over."""
        ender = threading.Timer(_SECONDS, _hang_up, [request])
        ender.daemon = True
        ender.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ender.cancel()
            self._leave(client_address)

    def _enter(self, client_address: Any) -> bool:
        """Count a connection, unless there are too many of all or of its address."""
        whose = _whose(client_address)
        with self._lock:
            if self._answered.total() >= _AT_ONCE or self._answered[whose] >= _OF_ONE:
                return False
            self._answered[whose] += 1
        return True

    def _leave(self, client_address: Any) -> None:
        whose = _whose(client_address)
        with self._lock:
            self._answered[whose] -= 1
            if self._answered[whose] <= 0:
                del self._answered[whose]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Say in a line what ended a connection: a client that goes away is nobody's failure."""
        console.note(f"{client_address[0]}: {type(sys.exc_info()[1]).__name__}")


def _whose(client_address: Any) -> str:
    """Return whom a connection counts for: an IPv4 address, or the network that an IPv6 host takes addresses from."""
    address = ipaddress.ip_address(str(client_address[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _hang_up(request: socket.socket) -> None:
    """Shut a connection; it may be closed by now."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    server: FleetServer
    timeout = _SECONDS
    server_version = "pibuild-fleet"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer whether the manager is there."""
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, {"ok": True})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is /healthz, and POST /v1/nodes/NAME"})

    def do_POST(self) -> None:
        """Take a report."""
        try:
            name = self._node()
            report = self._report()
            first = self.server.database.record(name, self.client_address[0], report)
        except _Refused as refused:
            self._answer(refused.status, {"error": refused.why})
            return
        if first:
            console.note(f"{name}: registered, from {self.client_address[0]}")
        self._answer(HTTPStatus.CREATED if first else HTTPStatus.OK, {"node": name, "registered": True})

    def _node(self) -> str:
        """Return the node that sends, once its token is its own."""
        if not self.path.startswith(_NODES):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is POST /v1/nodes/NAME")
        name = self.path.removeprefix(_NODES)
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not self.server.tokens.allow(name, token.strip()):
            raise _Refused(HTTPStatus.UNAUTHORIZED, "not this node's token")
        return name

    def _report(self) -> Report:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if len(length) > 9 or int(length) > _BODY:  # noqa: PLR2004 - digits
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a report has at most {_BODY} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body ended early")
        try:
            return Report.model_validate(json.loads(body))
        except ValidationError as error:
            where = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
            raise _Refused(HTTPStatus.BAD_REQUEST, where) from error
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON") from error

    def _answer(self, status: HTTPStatus, document: dict[str, object]) -> None:
        content = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        """Keep quiet about what went well: a rack reports a hundred times an hour."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what is no request, and say so without a word of it."""
        super().send_error(code)

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say what did not: a status, or what kind of failure; the library's arguments may quote what was sent."""
        about = f"{args[0]:d}" if args and isinstance(args[0], int) else type(args[0]).__name__ if args else ""
        console.note(f"{self.client_address[0]}: {format.partition(' ')[0].rstrip(',:')} {about}".rstrip())

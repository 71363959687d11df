"""The fleet: what nodes have reported, in SQLite, and the table of those in the inventory beside those that were seen.

A node's first report registers it; every later one says that it is still there. What comes over the network is checked
as what a person writes is, with a pydantic model: it is as little to be trusted. Unknown fields are passed over, so
that a newer node can report to an older manager.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from builder.errors import HostError, InputError, PibuildError, Problem
from builder.inventory.nodes import Inventory

DATABASE = Path("/var/lib/pibuild-fleet/fleet.db")
PORT = 9340
INTERVAL = 600  # seconds between two reports of a node; overlays/bootstrap has the same
LATE = 3 * INTERVAL + 60  # a node that missed three reports
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, as the inventory's names
_DEVICE_TREE_SERIAL = 8  # of 16 hexadecimal digits the last 8 count

_TABLE = """
CREATE TABLE IF NOT EXISTS nodes (
    name    TEXT PRIMARY KEY,
    first   REAL NOT NULL,   -- seconds since 1970, the manager's clock
    last    REAL NOT NULL,
    reports INTEGER NOT NULL,
    address TEXT NOT NULL,   -- where the last report came from
    report  TEXT NOT NULL    -- JSON, as it was checked
) STRICT
"""

_Text = Annotated[str, StringConstraints(max_length=200)]
_Count = Annotated[int, Field(ge=0, le=1 << 62)]


class Report(BaseModel):
    """What a node says of itself. Sizes in bytes, `uptime` in seconds; an empty text where the node cannot tell."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    serial: _Text = ""
    mac: _Text = ""
    hostname: _Text = ""
    board: _Text = ""
    kernel: _Text = ""
    image: _Text = ""
    root: _Text = ""
    boot: _Text = ""
    uptime: _Count | None = None
    disk_size: _Count | None = None
    disk_free: _Count | None = None
    failed_units: Annotated[list[_Text], Field(max_length=50)] = []
    models: Annotated[dict[_Text, _Text], Field(max_length=50)] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A node that has reported. `first` and `last` in seconds since 1970."""

    name: str
    first: float
    last: float
    reports: int
    address: str
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A node in the list: of the inventory, or one that has reported without being in it. `last` None: never seen."""

    node: str
    serial: str
    image: str
    root: str
    kernel: str
    address: str
    last: float | None
    health: str
    models: dict[str, str]


_ANOTHER = {"SQLITE_NOTADB", "SQLITE_ERROR"}  # no SQLite file, or one without our table (sqlite.org/rescode.html)


class Database:
    """Reports in a SQLite file. Each call has a connection of its own, so that threads need no lock of ours.

    A report that was answered is on the disk. Whoever may read the file can list it: no write-ahead log, whose readers
    have to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the file and its table where they are not. Raises InputError for another file, HostError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> PibuildError:
        """Return what is wrong with the file: it is another program's, or this machine does not let us."""
        message = f"{self.path} cannot be used: {error}"
        if getattr(error, "sqlite_errorname", "") in _ANOTHER:
            return InputError(Problem(message=message, hint="--database FILE, written by pibuild fleet serve"))
        return HostError(message, hint="another file: --database FILE")

    def record(self, name: str, address: str, report: Report, *, now: float | None = None) -> bool:
        """Keep a node's report; return whether it is its first."""
        at = time.time() if now is None else now
        with self._open() as connection:
            written = connection.execute(
                "INSERT INTO nodes VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (name) DO UPDATE SET last = excluded.last,"
                " reports = reports + 1, address = excluded.address, report = excluded.report RETURNING reports",
                (name, at, at, address, report.model_dump_json()),
            )
            return bool(written.fetchone()[0] == 1)

    def known(self) -> dict[str, Known]:
        """Return every node that has ever reported, by name. Raises InputError where there is no database."""
        if not self.path.is_file():
            hint = "sudo pibuild fleet serve makes it; or --database FILE"
            raise InputError(Problem(message=f"no database at {self.path}", hint=hint))
        try:
            with self._open() as connection:
                rows = connection.execute("SELECT name, first, last, reports, address, report FROM nodes").fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return {
            row[0]: Known(
                name=row[0],
                first=row[1],
                last=row[2],
                reports=row[3],
                address=row[4],
                report=Report.model_validate(json.loads(row[5])),
            )
            for row in rows
        }

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=15)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                yield connection
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The nodes' tokens: `fleet-token` in each node's state. Read when they are asked for: nodes come and go."""

    state: Path

    def allow(self, name: str, token: str) -> bool:
        """Return whether a token is the node's own. Takes as long for a node that there is not."""
        right = ""
        if NODE_NAME.fullmatch(name):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                right = (self.state / name / "fleet-token").read_text().strip()
        same = hmac.compare_digest(token.encode(errors="surrogateescape"), (right or "-" * 64).encode())
        return same and bool(right)


def listed(inventory: Inventory, known: dict[str, Known], now: float) -> list[Row]:
    """Return the nodes of the inventory, in its order, then others that have reported."""
    rows = [_row(node.name, node.serial, known.get(node.name), now) for node in inventory.nodes]
    mine = {node.name for node in inventory.nodes}
    strangers = (known[name] for name in sorted(known) if name not in mine)
    return rows + [_row(node.name, "", node, now) for node in strangers]


def _row(name: str, serial: str, known: Known | None, now: float) -> Row:
    if known is None:
        nothing = dict.fromkeys(("image", "root", "kernel", "address"), "")
        return Row(node=name, serial=serial, last=None, health="never seen", models={}, **nothing)
    report = known.report
    return Row(
        node=name,
        serial=serial or report.serial,
        image=report.image,
        root=report.root,
        kernel=report.kernel,
        address=known.address,
        last=known.last,
        health=_health(serial, known, now),
        models=dict(report.models),
    )


def _health(serial: str, known: Known, now: float) -> str:
    report, told = known.report, []
    if not serial:
        told.append("not in the inventory")
    elif report.serial and report.serial.lower()[-_DEVICE_TREE_SERIAL:] != serial:
        told.append(f"board is {report.serial}, not {serial}")
    if now - known.last > LATE:
        told.append("silent")
    if report.failed_units:
        told.append(f"failed: {', '.join(report.failed_units)}")
    if report.disk_size and report.disk_free is not None and report.disk_free * 20 < report.disk_size:
        told.append("disk over 95 % full")
    return "; ".join(told) or "ok"

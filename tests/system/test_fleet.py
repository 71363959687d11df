"""The fleet manager and the nodes' own program, as both are shipped, over a real connection."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess  # noqa: TID251 - for the type of what builder.run gives
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from builder.run import Completed, run, spawn

pytestmark = [pytest.mark.root, pytest.mark.waits]
PROJECT = Path(__file__).parents[2]
AGENT = PROJECT / "overlays/bootstrap/usr/local/sbin/pibuild-bootstrap"
PIBUILD = (sys.executable, "-m", "builder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """A manager that runs, and nodes that report to it."""

    home: Path
    url: str
    process: subprocess.Popen[bytes]

    def token(self, node: str) -> str:
        """Return a node's token; the command that makes it is for one of them, as it makes the whole state."""
        path = self.home / "netboot/state" / node / "fleet-token"
        if not path.exists():
            path.parent.mkdir()
            path.write_text(f"{secrets.token_hex(32)}\n")
        return path.read_text().strip()

    def node(self, name: str, *, token: str | None = None, url: str = "", ca: str = "/nonexistent") -> Node:
        state = self.home / "nodes" / name
        state.mkdir(parents=True, exist_ok=True)
        (state / "token").write_text(self.token(name) if token is None else token)
        env = {
            "NODE_NAME": name,
            "FLEET_URL": url or self.url,
            "FLEET_IMAGE": "7721a68c6d09ba94" * 4,
            "FLEET_CA": ca,
            "FLEET_MODELS": str(state / "models"),
            "RUNTIME_DIRECTORY": str(state),
            "CREDENTIALS_DIRECTORY": str(state),
        }
        return Node(state=state, env=env)

    def listed(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(pibuild(self.home, "list", "--json", "--database", str(self.home / "fleet.db")).stdout)
        return {row["node"]: row for row in rows}

    def log(self) -> str:
        return (self.home / "log").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The shipped program with the surroundings that systemd gives it."""

    state: Path
    env: dict[str, str]

    def report(self) -> Completed:
        return run([AGENT, "report"], env=self.env, check=False, timeout=60)

    def wait(self) -> float:
        """Return the seconds until there is something to do again."""
        return int((self.state / "due").read_text()) - float(Path("/proc/uptime").read_text().split()[0])

    def make_due(self) -> None:
        (self.state / "due").unlink()


def pibuild(home: Path, *words: str) -> Completed:
    return run([*PIBUILD, "fleet", *words, "--cluster", home / "cluster.yaml"], cwd=PROJECT)


@contextlib.contextmanager
def manager(home: Path, *words: str, listen: str = "127.0.0.1:0", under: tuple[str, ...] = ()) -> Iterator[Manager]:
    """Run `pibuild fleet serve` for the time of the block; `under` comes before it."""
    (home / "cluster.yaml").write_text((PROJECT / "cluster.yaml").read_text())
    (home / "netboot/state").mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = [
        *under,
        *PIBUILD,
        "fleet",
        "serve",
        "--listen",
        listen,
        "--database",
        home / "fleet.db",
        *words,
    ]
    argv += ["--dest", home / "netboot"]
    with (home / "log").open("wb") as log, spawn(argv, stdout=log, cwd=PROJECT) as process:
        deadline = time.monotonic() + 30
        while "listening on " not in (home / "log").read_text():
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        address = (home / "log").read_text().split("listening on ")[1].split(",")[0]
        scheme = "https" if "--key" in words else "http"
        yield Manager(home=home, url=f"{scheme}://{address}", process=process)


def test_a_node_registers_reports_and_is_listed(tmp_path: Path) -> None:
    with manager(tmp_path) as fleet:
        made = pibuild(tmp_path, "token", "yellow3", "--dest", str(tmp_path / "netboot")).stdout.strip()
        assert made == fleet.token("yellow3")
        assert (tmp_path / "netboot/state/yellow3/fleet-token").stat().st_mode & 0o777 == 0o600
        node = fleet.node("yellow3")
        (node.state / "models/jen/v2").mkdir(parents=True)
        (node.state / "models/jen/current").symlink_to("v2")
        begun = time.time()
        done = node.report()
        assert done.returncode == 0, done.stderr
        assert f"{fleet.url} knows this node" in done.stdout
        rows = fleet.listed()
        assert len(rows) == 19
        assert [row["health"] for name, row in rows.items() if name != "yellow3"] == ["never seen"] * 18
        row = rows["yellow3"]
        assert row["kernel"] == os.uname().release
        assert row["image"].startswith("7721a68c6d09")
        assert row["models"] == {"jen": "v2"}
        assert row["serial"] == "c0a3cab4"
        assert begun - 1 <= row["last"] <= time.time() + 1

        assert node.report().returncode == 0  # not due: nothing is sent
        assert fleet.listed()["yellow3"]["last"] == row["last"]
        node.make_due()
        assert node.report().returncode == 0
        assert fleet.listed()["yellow3"]["last"] > row["last"]
        assert fleet.log().count("yellow3: registered") == 1
        table = pibuild(tmp_path, "list", "--database", str(tmp_path / "fleet.db")).stdout.splitlines()
        assert table[0].split()[:4] == ["node", "last", "contact", "health"]
        assert len(table) == 20
        assert any(line.startswith("green1 ") and "never seen" in line for line in table)


def test_a_token_is_one_nodes_alone(tmp_path: Path) -> None:
    with manager(tmp_path) as fleet:
        other = fleet.token("yellow4")
        assert other != fleet.token("yellow3")
        for token in (other, "", "x" * 64):
            node = fleet.node("yellow3", token=token)
            done = node.report()
            assert done.returncode == 1
            assert "refuses this node (401)" in done.stderr
            assert token not in done.stderr or not token
            node.make_due()
        assert fleet.node("yellow99", token=other).report().returncode == 1  # no such node: the same answer
        for name in ("..%2Fyellow4", "../yellow4", "yellow4/../yellow3", ".cluster", ""):
            answer = requests.post(f"{fleet.url}/v1/nodes/{name}", "{}", headers=bearer(other), timeout=10)
            assert answer.status_code in {401, 404}
        assert {row["health"] for row in fleet.listed().values()} == {"never seen"}
        assert other not in fleet.log()


@pytest.mark.parametrize("command", ["fleet", "metrics"])
def test_a_token_is_made_where_nodes_boot_from_alone(tmp_path: Path, command: str) -> None:
    """Another directory would get keys and a token that opens nothing."""
    argv: list[str | Path] = [*PIBUILD, command, "token", "yellow3", "--dest", tmp_path / "elsewhere"]
    done = run([*argv, "--cluster", PROJECT / "cluster.yaml"], cwd=PROJECT, check=False, timeout=60)
    assert (done.returncode, "nothing was exploded into" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "elsewhere").exists()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_manager_that_does_not_answer_is_tried_less_and_less_often(tmp_path: Path) -> None:
    with manager(tmp_path) as fleet, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = fleet.node("yellow3", url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        waits = []
        for _ in range(7):
            begun = time.monotonic()
            done = nobody.report()
            assert done.returncode == 75, done.stderr
            assert time.monotonic() - begun < 5
            assert "later again" in done.stderr
            waits.append(nobody.wait())
            assert nobody.report().returncode == 0  # not due
            nobody.make_due()
        assert 28 < waits[0] <= 61
        assert 895 <= waits[-1] <= 1801
        assert int((nobody.state / "delay").read_text()) == 1800
        found = fleet.node("yellow3")
        assert found.report().returncode == 0
        assert not (found.state / "delay").exists()
        assert 299 <= found.wait() <= 601


def test_what_was_answered_survives_kill(tmp_path: Path) -> None:
    with manager(tmp_path) as fleet:
        node = fleet.node("yellow3")
        assert node.report().returncode == 0
        fleet.process.send_signal(signal.SIGKILL)
        fleet.process.wait(timeout=10)
        node.make_due()
        assert node.report().returncode == 75
        before = fleet.listed()["yellow3"]
        listen = fleet.url.removeprefix("http://")
    with manager(tmp_path, listen=listen) as again:
        assert again.listed()["yellow3"] == before
        node.make_due()
        assert node.report().returncode == 0
        assert "registered" not in again.log()  # it was before


def test_it_runs_as_its_unit_runs_it(tmp_path: Path) -> None:
    """As a user that may read everything and write nothing of others': CAP_DAC_READ_SEARCH, nothing else."""
    database, capability = tmp_path / "fleet", "+dac_read_search"
    database.mkdir()
    os.chown(database, 65534, 65534)
    state = tmp_path / "netboot/state"
    state.mkdir(parents=True, mode=0o700)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
    capable = (
        *nobody,
        "--bounding-set=-all,+dac_read_search",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
    )
    pem, key = certificate(tmp_path, "fleet")
    key.chmod(0o600)
    words = ("--database", str(database / "fleet.db"), "--certificate", str(pem), "--key", str(key))
    with manager(tmp_path, *words, under=capable) as fleet:
        assert fleet.node("yellow3", ca=str(pem)).report().returncode == 0
        assert (database / "fleet.db").stat().st_uid == 65534
    argv: list[str | Path] = [*nobody, *PIBUILD, "fleet", "serve", "--database", database / "x", "--dest", state.parent]
    refused = run(argv, cwd=PROJECT, check=False, timeout=30)
    assert (refused.returncode, "cannot be read" in refused.stderr) == (3, True), refused.stderr


def test_many_nodes_at_once(tmp_path: Path) -> None:
    with manager(tmp_path) as fleet, ThreadPoolExecutor(max_workers=40) as threads:
        names = [f"{colour}{number}" for colour in ("green", "yellow") for number in range(1, 9)]
        tokens = {name: fleet.token(name) for name in names}

        def report(number: int) -> int:
            name = names[number % len(names)]
            body = json.dumps({"uptime": number, "failed_units": ["x.service"], "new": {"field": [1]}})
            url = f"{fleet.url}/v1/nodes/{name}"
            return requests.post(url, body, headers=bearer(tokens[name]), timeout=30).status_code

        codes = list(threads.map(report, range(320)))
        assert (codes.count(201), codes.count(200)) == (16, 304)
        rows = fleet.listed()
        assert {rows[name]["health"] for name in names} == {"failed: x.service"}


@pytest.fixture(scope="module")
def open_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with manager(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


WRONG: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "not UTF-8": (b'{"kernel": "\xff\xfe"}', 400),
    "a list": (b"[]", 400),
    "deep": (b"[" * 30000, 400),
    "a number for a text": (b'{"kernel": 6}', 400),
    "a text for a number": (b'{"uptime": "1"}', 400),
    "not a number": (b'{"uptime": NaN}', 400),
    "negative": (b'{"disk_free": -1}', 400),
    "beyond SQLite": (b'{"disk_free": 99999999999999999999}', 400),
    "long": (b'{"kernel": "%s"}' % (b"x" * 201), 400),
    "many": (b'{"failed_units": [%s]}' % b",".join([b'"u"'] * 51), 400),
    "large": (b" " * (65 << 10), 413),
}


@pytest.mark.parametrize(("body", "status"), WRONG.values(), ids=WRONG)
def test_a_report_that_is_none_is_refused(open_manager: Manager, body: bytes, status: int) -> None:
    url, headers = f"{open_manager.url}/v1/nodes/green1", bearer(open_manager.token("green1"))
    answer = requests.post(url, body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert requests.get(f"{open_manager.url}/healthz", timeout=10).json() == {"ok": True}
    assert open_manager.listed()["green1"]["health"] == "never seen"
    assert "Traceback" not in open_manager.log()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # TLS on a plain port
        (b"GET / HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"POST /v1/nodes/green1 HTTP/1.0\r\nAuthorization: Bearer TOKEN\r\n\r\n", b"411"),
        (b"POST /v1/nodes/green1 HTTP/1.0\r\nAuthorization: Bearer TOKEN\r\nContent-Length: -5\r\n\r\n", b"411"),
        (b"POST /v1/nodes/green1 HTTP/1.0\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 1e3\r\n\r\n", b"411"),
        (b"POST /v1/nodes/green1 HTTP/1.0\r\nAuthorization: Bearer \xff\xff\r\nContent-Length: 2\r\n\r\n{}", b"401"),
        (b"POST /v1/nodes/green1 HTTP/1.0\r\nAuthorization: Basic TOKEN\r\nContent-Length: 2\r\n\r\n{}", b"401"),
        (b"DELETE /v1/nodes/green1 HTTP/1.0\r\n\r\n", b"501"),
        (b"GET / HTTP/1.0\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"POST /v1/nodes/green1 HTTP/1.0 Authorization: Bearer TOKEN\r\n\r\n", b"400"),
        (b"Authorization: Bearer TOKEN\r\n\r\n", b"400"),
        (b"TOKEN /v1/nodes/green1 HTTP/1.0\r\n\r\n", b"501"),
        (b"GET /v1/nodes/green1 HTTP/TOKEN\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n" + b"A" * 70000 + b"TOKEN\r\n\r\n", b"431"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_what_is_no_request_is_answered_so(open_manager: Manager, sent: bytes, answer: bytes) -> None:
    host, _, port = open_manager.url.removeprefix("http://").rpartition(":")
    sent = sent.replace(b"TOKEN", open_manager.token("green1").encode())
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(4096):
                got += part
    assert answer in got.split(b"\r\n", 1)[0]
    assert open_manager.token("green1") not in open_manager.log()
    assert "Traceback" not in open_manager.log()


def test_those_who_say_nothing_do_not_keep_others_out(open_manager: Manager) -> None:
    host, _, port = open_manager.url.removeprefix("http://").rpartition(":")

    def asked(address: str) -> bytes:
        with socket.create_connection((host, int(port)), timeout=20, source_address=(address, 0)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                return connection.recv(100)
        return b""

    with contextlib.ExitStack() as stack:
        for _ in range(140):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        time.sleep(0.5)
        assert asked("127.0.0.1") == b""  # hung up on, not kept waiting
        assert b"200" in asked("127.0.0.2")
        begun = time.monotonic()
        while not asked("127.0.0.1"):
            assert time.monotonic() - begun < 25  # their 15 seconds are over by then, though they still are there
            time.sleep(0.5)


def certificate(home: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for this machine's loopback and its key."""
    pem, key = home / f"{name}.pem", home / f"{name}.key"
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", key, "-out", pem),
        ]
    )
    return pem, key


def test_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "fleet")
    other, _ = certificate(tmp_path, "other")
    with manager(tmp_path, "--certificate", str(pem), "--key", str(key)) as fleet:
        host, _, port = fleet.url.removeprefix("https://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20):  # a handshake that never comes holds nobody up
            stranger = fleet.node("yellow4", ca=str(other))
            assert stranger.report().returncode == 75  # the token is not given to whoever answers
            assert fleet.listed()["yellow4"]["last"] is None
            node = fleet.node("yellow3", ca=str(pem))
            assert node.report().returncode == 0
        assert fleet.listed()["yellow3"]["last"] is not None
        assert "Traceback" not in fleet.log()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--listen", "nowhere"], 2, "'nowhere' is not ADDRESS:PORT"),
        (["--listen", "192.0.2.1:9340"], 3, "cannot listen on 192.0.2.1:9340"),
        (["--certificate", "cluster.yaml"], 2, "--certificate and --key go together"),
        (["--certificate", "cluster.yaml", "--key", "cluster.yaml"], 2, "not a certificate and its key"),
        (["--database", "cluster.yaml"], 2, "file is not a database"),
        (["--database", "/proc/nowhere/db"], 3, "/proc/nowhere/db cannot be used"),
        (["--dest", "/nonexistent"], 3, "the nodes' tokens in /nonexistent/state cannot be read"),
    ],
)
def test_a_manager_that_cannot_serve_says_why(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    (tmp_path / "cluster.yaml").write_text((PROJECT / "cluster.yaml").read_text())
    (tmp_path / "netboot/state").mkdir(parents=True)
    argv: list[str | Path] = [
        *PIBUILD,
        "fleet",
        "serve",
        "--dest",
        tmp_path / "netboot",
        "--database",
        tmp_path / "db",
        *words,
    ]
    done = run([*argv, "--cluster", tmp_path / "cluster.yaml"], cwd=PROJECT, check=False, timeout=30)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr

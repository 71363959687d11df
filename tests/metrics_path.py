"""The way of metrics on this machine: the node's real programs run as the shipped units say, and real stores."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.inventory.load import load_inventory
from builder.monitoring.forwarder import forwarder_files
from builder.run import run, spawn
from tests.trixie import program
from tests.unit_files import OVERLAYS, UNITS, environment, exec_start
from tests.web import QuietHandler, listening

COLLECTORS = OVERLAYS / "metrics/usr/local/lib/pibuild"
INVENTORY = """\
cluster:
  name: test
  subnet: 10.0.0.0/24
  gateway: 10.0.0.1
  servers: {login: {node: gate}}
defaults: {site: lab}
nodes:
  - {name: gate, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login}
  - name: edge1
    serial: "00000002"
    mac: "02:00:00:00:00:02"
    address: 10.0.0.2
    role: worker
    labels: {cable: green}
    metrics: {mode: local, store: %(store)s, url: "%(scheme)s://127.0.0.1:%(port)d/api/v1/write", ca: %(ca)s}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(port: int, path: str, data: bytes | None = None, kind: str = "text/plain", host: str = "127.0.0.1") -> str:
    headers = {"Content-Type": kind} if data is not None else {}
    request = urllib.request.Request(f"http://{host}:{port}{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(answer.read().decode())


def wait_for(what: str, there: Callable[[], bool], seconds: float = 30) -> float:
    """Wait for something; returns the seconds it took. A server that does not answer yet is not there."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        try:
            if there():
                return time.monotonic() - begun
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass(slots=True)
class VictoriaMetrics:
    """The store, with the options of its part."""

    directory: Path
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"

    @property
    def words(self) -> list[str]:
        """Return its command."""
        env = environment((OVERLAYS / "store-victoria-metrics/etc/default/victoria-metrics").read_text())
        words = env["ARGS"].replace("127.0.0.1:8428", f"{self.host}:{self.port}")
        words = words.replace("/var/lib/victoria-metrics", str(self.directory))
        return [str(program("victoria-metrics", "/usr/bin/victoria-metrics")), *words.split()]

    def get(self, path: str) -> str:
        return get(self.port, path, host=self.host)

    @contextlib.contextmanager
    def run(self) -> Iterator[VictoriaMetrics]:
        with spawn(self.words):
            wait_for("victoria-metrics", lambda: self.get("/health") == "OK")
            yield self

    def samples(self, selector: str) -> list[dict[str, Any]]:
        """Return what is stored of series, as /api/v1/export has it: metric, values, timestamps (ms)."""
        self.get("/internal/force_flush")
        query = urllib.parse.urlencode({"match[]": selector})
        return [json.loads(line) for line in self.get(f"/api/v1/export?{query}").splitlines()]

    def count(self, selector: str) -> int:
        return sum(len(set(series["timestamps"])) for series in self.samples(selector))

    def values(self, selector: str) -> set[float]:
        """Return the values of series; None is a mark of staleness, as of a target that a stopped agent has left."""
        return {value for series in self.samples(selector) for value in series["values"] if value is not None}


@dataclass(slots=True)
class Agent:
    """vmagent as its unit runs it; `kill` restarts it as systemd would. `faster` divides the times of its scrapes."""

    directory: Path
    to: int
    store: str = "victoria-metrics"
    faster: int = 1
    exporter: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    queue: Path | None = None
    options: str = ""
    ca: Path | None = None  # with it, it speaks TLS
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: Any = None

    @property
    def words(self) -> list[str]:
        etc = self.directory / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        scheme, ca = ("https", self.ca) if self.ca else ("http", "null")
        values = {"port": self.to, "store": self.store, "scheme": scheme, "ca": ca}
        (self.directory / "cluster.yaml").write_text(INVENTORY % values)
        inventory = load_inventory(self.directory / "cluster.yaml")
        for path, text in forwarder_files(inventory, inventory.node("edge1")).items():
            (etc / Path(path).name).write_text(self._here(text))
        if not (etc / "remote-write.token").exists():
            (etc / "remote-write.token").write_text("a token\n")
        env = environment((etc / "vmagent.env").read_text()) | {"VMAGENT_OPTIONS": self.options}
        queue = self.queue or self.directory / "queue"
        places = {
            "/usr/bin/vmagent": str(program("victoria-metrics", "/usr/bin/vmagent")),
            "/usr/local/share": str(OVERLAYS / "metrics/usr/local/share"),
            "/etc/pibuild": str(etc),
            "/var/lib/vmagent": str(queue),
            "%d/": f"{etc}/",
            "127.0.0.1:8429": f"127.0.0.1:{self.port}",
        }
        return exec_start(UNITS / "vmagent.service", env, places)

    def _here(self, text: str) -> str:
        for there, here in (
            ("127.0.0.1:9100", f"127.0.0.1:{self.exporter}"),
            ("127.0.0.1:8429", f"127.0.0.1:{self.port}"),
            ("scrape_interval: 15s", f"scrape_interval: {15000 // self.faster}ms"),
            ("scrape_interval: 60s", f"scrape_interval: {60000 // self.faster}ms"),
        ):
            assert there in text or "scrape" not in text, there
            text = text.replace(there, here)
        return text

    @contextlib.contextmanager
    def run(self) -> Iterator[Agent]:
        with self._stack:
            self.start()
            yield self

    def start(self) -> None:
        log = self._stack.enter_context((self.directory.parent / "vmagent.log").open("ab"))
        words = self.words
        self._process = self._stack.enter_context(spawn(words, stdout=log))
        wait_for("vmagent", lambda: get(self.port, "/health") == "OK")

    def kill(self) -> tuple[float, float]:
        """End it without a chance to write anything, and start it again; return when it ended and when it was back."""
        ended = time.time()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        time.sleep(1 / self.faster)
        self.start()
        return ended, time.time()

    def alive(self) -> bool:
        return self._process.poll() is None

    def metric(self, name: str) -> float:
        """Return the sum of a metric over the agent's lanes."""
        rows = [line for line in get(self.port, "/metrics").splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(row.split()[-1]) for row in rows)


@dataclass(slots=True)
class Textfiles:
    """node_exporter as its unit runs it, and the heartbeat's own program every `interval` seconds."""

    directory: Path
    port: int
    interval: float
    _ended: threading.Event = field(default_factory=threading.Event)
    beats: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def run(self) -> Iterator[Textfiles]:
        self.directory.mkdir(parents=True, exist_ok=True)
        places = {
            "/usr/bin/prometheus-node-exporter": str(
                program("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter")
            ),
            "/run/node-textfile": str(self.directory),
        }
        unit = UNITS / "prometheus-node-exporter.service.d/pibuild.conf"
        words = exec_start(unit, {"LISTEN": f"127.0.0.1:{self.port}"}, places)
        with spawn(words):
            wait_for("node_exporter", lambda: "node_" in get(self.port, "/metrics"))
            thread = threading.Thread(target=self._beat)
            thread.start()
            try:
                yield self
            finally:
                self._ended.set()
                thread.join()

    def _beat(self) -> None:
        env = {"TEXTFILE_DIRECTORY": str(self.directory)}
        while not self._ended.wait(self.interval):  # from run to run, as OnUnitActiveSec= has it
            run([COLLECTORS / "node-heartbeat"], env=env)
            text = (self.directory / "heartbeat.prom").read_text()
            self.beats.append(float(text.split()[-1]))


@dataclass(slots=True)
class Sink:
    """A store that takes everything and looks for words in it, in the order they came in: snappy keeps them whole."""

    words: tuple[bytes, ...]
    found: list[bytes] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def run(self) -> Iterator[Sink]:
        sink = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802 - http.server calls it so
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.found += [word for word in sink.words if word in body]
                self.send_response(204)
                self.end_headers()

        with listening(Handler) as self.port:
            yield self


@contextlib.contextmanager
def prometheus(directory: Path, port: int) -> Iterator[None]:
    """Run Prometheus as a store, with the file and the options of its part."""
    env = environment((OVERLAYS / "store-prometheus/etc/default/prometheus").read_text())
    words = env["ARGS"].replace("127.0.0.1:9090", f"127.0.0.1:{port}").split()
    config = OVERLAYS / "store-prometheus/etc/prometheus/prometheus.yml"
    own: Mapping[str, Path] = {"--config.file": config, "--storage.tsdb.path": directory}
    words += [f"{name}={path}" for name, path in own.items()]
    with spawn([program("prometheus", "/usr/bin/prometheus"), *words]):
        wait_for("prometheus", lambda: "Ready" in get(port, "/-/ready"))
        yield

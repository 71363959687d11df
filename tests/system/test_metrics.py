"""Metrics over a link that fails: the node's real programs, run as the shipped units say, and the parts' stores."""

from __future__ import annotations

import base64
import json
import os
import struct
import tempfile
import time
import urllib.parse
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest
import requests
import yaml

from builder.inventory.load import load_inventory
from builder.monitoring.forwarder import gateway
from builder.run import find_tool, run, spawn
from tests.link import link
from tests.metrics_path import COLLECTORS, Agent, Sink, Textfiles, VictoriaMetrics, free_port, get, prometheus, wait_for
from tests.trixie import program
from tests.unit_files import OVERLAYS, environment, lines

pytestmark = [pytest.mark.network, pytest.mark.waits]

RECIPES = Path(__file__).parents[2] / "recipes"
FASTER = 15  # 30 minutes without a store are two: beats every 2 s, samples every 1 and 4 s; the link's times are real
MINUTE = 60_000  # ms
HEARTBEAT = "edge_heartbeat_timestamp_seconds"


def test_every_heartbeat_of_half_an_hour_without_a_store_arrives(tmp_path: Path) -> None:
    store = VictoriaMetrics(tmp_path / "store")
    with store.run(), link(store.port) as way:
        agent = Agent(tmp_path / "agent", to=way.port, faster=FASTER)
        with Textfiles(tmp_path / "textfile", agent.exporter, 30 / FASTER).run() as node, agent.run():
            wait_for("the first heartbeat", lambda: bool(store.samples(HEARTBEAT)))
            wait_for("node metrics", lambda: bool(store.samples("node_load1")))
            way.cut.set()
            cut_at = time.time()
            time.sleep(15 * 60 / FASTER)
            ended, back = agent.kill()
            time.sleep(15 * 60 / FASTER - 1)
            restored_at = time.time()
            assert max(store.values(HEARTBEAT)) < cut_at + 2
            way.restore()
            fresh = wait_for("a heartbeat of now", lambda: max(store.values(HEARTBEAT)) > restored_at - 1, seconds=20)
            # a beat that was replaced by the next one before the agent was back to read it was never there to be sent
            replaced = {beat for beat, next_ in pairwise(node.beats) if ended - 1 < beat and next_ < back + 1}
            missed = {beat for beat in node.beats if cut_at < beat < restored_at} - replaced
            empty = wait_for("the queue's end", lambda: agent.metric("vm_persistentqueue_bytes_pending") == 0, 40)
            time.sleep(2)  # until what was sent last can be read
            (beats,) = store.samples(HEARTBEAT)
            load = store.samples("node_load1")
    lost = sorted(beat - cut_at for beat in missed - set(beats["values"]))
    assert not lost, f"heartbeats of these seconds of the outage: {lost}"
    assert len(missed) >= 45, f"current after {fresh:.1f} s, the queue empty {empty:.1f} s later"
    who = {"instance": "edge1", "node": "edge1", "site": "lab", "role": "worker", "cable": "green"}
    assert beats["metric"] == {"__name__": HEARTBEAT, "job": "heartbeat", **who}
    assert [series["metric"] for series in load] == [{"__name__": "node_load1", "job": "node", **who}]


def _backlog(now: int) -> tuple[str, str]:
    """Return three hours of ten nodes' heartbeats and of forty other series, in the text format with times in ms."""
    begin = now - 180 * MINUTE
    beats = [
        f'{HEARTBEAT}{{node="n{node}"}} {time_ // 1000} {time_}'
        for node in range(10)
        for time_ in range(begin, now, MINUTE // 2)
    ]
    others = [
        f'bulk{{name="{name}",node="n1"}} {(time_ // 1000) % 977} {time_}'
        for name in range(40)
        for time_ in range(begin, now, MINUTE)
    ]
    return "\n".join(beats) + "\n", "\n".join(others) + "\n"


def _push(agent: Agent, text: str) -> None:
    get(agent.port, "/api/v1/import/prometheus", text.encode())


@pytest.mark.parametrize("kind", ["victoria-metrics", "prometheus"])
def test_a_backlog_of_three_hours_arrives_whole(tmp_path: Path, kind: str) -> None:
    now = int(time.time()) * 1000
    beats, others = _backlog(now - 5 * MINUTE)
    store = VictoriaMetrics(tmp_path / "store")
    running: AbstractContextManager[object] = (
        store.run() if kind == "victoria-metrics" else prometheus(tmp_path / "store", store.port)
    )
    ask = "/api/v1/query?" + urllib.parse.urlencode(
        {"query": f'sum(count_over_time({{__name__=~"{HEARTBEAT}|bulk"}}[4h]))'}
    )

    def arrived() -> int:
        if kind == "victoria-metrics":
            return store.count(f'{{__name__=~"{HEARTBEAT}|bulk"}}')
        found = json.loads(get(store.port, ask))["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    with running, link(store.port) as way, Agent(tmp_path / "agent", to=way.port, store=kind).run() as agent:
        newest = "".join(f'{HEARTBEAT}{{node="n{node}"}} {now // 1000} {now}\n' for node in range(10))
        newest += "".join(f'bulk{{name="{name}",node="n1"}} 1 {now}\n' for name in range(40))
        _push(agent, newest)
        wait_for("what is current", lambda: arrived() == 50)
        way.cut.set()
        for text in (beats, others):
            lines = text.splitlines(keepends=True)
            for at in range(0, len(lines), 2500):
                _push(agent, "".join(lines[at : at + 2500]))
                time.sleep(1.2)  # what comes within a second is one block
        wait_for("the queue", lambda: agent.metric("vm_persistentqueue_bytes_pending") > 0)
        way.restore()
        sent = beats.count("\n") + others.count("\n") + 50
        wait_for("the backlog", lambda: arrived() >= sent, seconds=60)
        assert arrived() == sent == 10 * 360 + 40 * 180 + 50


@pytest.mark.root
def test_a_full_queue_lets_the_oldest_go_and_the_agent_lives_on() -> None:
    cache = Path(
        os.environ.get("PIBUILD_CACHE", "/var/cache/pibuild")
    )  # no memory file system, which the queue refuses
    with tempfile.TemporaryDirectory(dir=cache) as name:
        image, queue = Path(name) / "queue.ext4", Path(name) / "queue"
        queue.mkdir()
        for _ in range(2):  # the second time it is there, and checked
            run([COLLECTORS / "vmagent-queue"], env={"QUEUE_IMAGE": str(image), "QUEUE_OWNER": "0:0"})
        run([find_tool("mount", package="mount"), "-o", "loop", image, queue])
        try:
            _fill(Path(name), queue)
        finally:
            run([find_tool("umount", package="mount"), queue])


def _fill(directory: Path, queue: Path) -> None:
    """Send more into a queue than it takes, while nobody takes anything out of it; then let it go."""
    sink = Sink((b"the-oldest", b"the-newest"))
    with (
        sink.run(),
        link(sink.port) as way,
        Agent(directory / "agent", to=way.port, store="prometheus", queue=queue).run() as agent,
    ):
        way.cut.set()
        _push(agent, 'mark{n="before-the-cut"} 1\n')  # what is on its way when the link ends waits in memory
        time.sleep(3)
        _push(agent, 'mark{n="the-oldest"} 1\n')
        pushed = 0
        while agent.metric("vm_persistentqueue_bytes_dropped_total") == 0:
            assert pushed < 1 << 30, "nothing was dropped"
            noise = base64.b64encode(os.urandom(9_000_000)).decode()
            _push(agent, "".join(f'noise{{n="{noise[at : at + 4000]}"}} 1\n' for at in range(0, len(noise), 4000)))
            pushed += len(noise)
        _push(agent, 'mark{n="the-newest"} 1\n')
        assert agent.metric("vm_persistentqueue_bytes_pending") > 400 << 20
        assert os.statvfs(queue).f_bavail * os.statvfs(queue).f_frsize > 64 << 20
        assert agent.alive()
        way.restore()
        wait_for("the newest", lambda: b"the-newest" in sink.found, seconds=120)
        assert sink.found == [b"the-newest"]
        assert agent.alive()


def test_a_token_writes_as_its_own_node_and_a_wrong_one_loses_nothing(tmp_path: Path) -> None:
    """TLS with a certificate of the inventory's, vmauth with what `pibuild metrics vmauth` writes."""
    openssl: list[str | Path] = [find_tool("openssl", package="openssl"), "req", "-x509", "-nodes", "-days", "1"]
    openssl += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    openssl += ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    run([*openssl, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem"])
    store, port = VictoriaMetrics(tmp_path / "store"), free_port()
    agent = Agent(tmp_path / "agent", to=port, ca=tmp_path / "ca.pem")
    token = tmp_path / "agent/etc/remote-write.token"
    token.parent.mkdir(parents=True)
    token.write_text("a wrong one\n")
    assert f"-remoteWrite.tlsCAFile={tmp_path}/agent/etc/metrics-ca.pem" in agent.words
    inventory = load_inventory(tmp_path / "agent/cluster.yaml")
    config = tmp_path / "vmauth.yml"
    config.write_text(gateway(inventory, {"edge1": "the right one"}, f"http://127.0.0.1:{store.port}"))
    tls = ["-tls", f"-tlsCertFile={tmp_path}/ca.pem", f"-tlsKeyFile={tmp_path}/key.pem"]
    vmauth: list[str | Path] = [program("victoria-metrics", "/usr/bin/vmauth"), f"-auth.config={config}", *tls]
    with store.run(), spawn([*vmauth, f"-httpListenAddr=127.0.0.1:{port}"]), agent.run():
        _push(agent, 'mark{node="another",site="another"} 1\n')
        wait_for("a refusal", lambda: agent.metric("vmagent_remotewrite_retries_count_total") > 1)
        assert store.count("mark") == 0
        token.write_text("the right one\n")
        wait_for("the metric", lambda: store.count("mark") == 1)
        (mark,) = store.samples("mark")
    assert mark["metric"] == {"__name__": "mark", "node": "edge1", "site": "lab", "role": "worker"}


def test_vmauth_tells_strangers_nothing_of_itself(tmp_path: Path) -> None:
    """As its unit starts it: what it serves beside the writers' way is on another address, of the machine alone."""
    outside, inside = free_port(), free_port()
    config = tmp_path / "vmauth.yml"
    config.write_text("users: [{bearer_token: right, url_prefix: 'http://127.0.0.1:9/'}]\n")
    unit = OVERLAYS / "store-victoria-metrics/etc/systemd/system/vmauth.service"
    (start,) = lines(unit, "ExecStart")
    words = start.replace("%d/vmauth.yml", str(config)).replace(":8427", f"127.0.0.1:{outside}")
    _, *options = words.replace(":8426", f":{inside}").replace(" $ARGS", "").split()
    private = ("/metrics", "/flags", "/debug/pprof/", "/debug/pprof/cmdline", "/-/reload")
    with spawn([program("victoria-metrics", "/usr/bin/vmauth"), *options]):
        wait_for("vmauth", lambda: requests.get(f"http://127.0.0.1:{inside}/health", timeout=5).status_code == 200)
        for port, status in ((inside, 200), (outside, 401)):
            got = {path: requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code for path in private}
            assert got == dict.fromkeys(private, status)


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of protobuf, shorter than 128 bytes (protobuf.dev, encoding)."""
    return bytes([number << 3 | 2, len(content)]) + content


def _otlp(name: str, value: float, nanoseconds: int) -> bytes:
    """Return an ExportMetricsServiceRequest with one gauge: opentelemetry/proto/metrics/v1/metrics.proto."""
    point = b"\x19" + nanoseconds.to_bytes(8, "little") + b"\x21" + struct.pack("<d", value)
    metric = _field(1, name.encode()) + _field(5, _field(1, point))
    return _field(1, _field(2, _field(2, metric)))


def test_opentelemetry_arrives_as_the_nodes_own(tmp_path: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "parts/opentelemetry.yaml").read_text())
    env = environment(recipe["layers"][0]["steps"][0]["files"][0]["content"])
    port = free_port()
    options = env["VMAGENT_OPTIONS"].replace("127.0.0.1:4318", f"127.0.0.1:{port}")
    store = VictoriaMetrics(tmp_path / "store")
    with store.run(), Agent(tmp_path / "agent", to=store.port, options=options).run():
        body = _otlp("jen.queue.length", 3.0, time.time_ns())
        get(port, "/opentelemetry/v1/metrics", body, "application/x-protobuf")
        wait_for("the metric", lambda: store.count("jen_queue_length") == 1)
        (series,) = store.samples("jen_queue_length")
    assert series["values"] == [3]
    assert series["metric"] == {"__name__": "jen_queue_length", "node": "edge1", "site": "lab", "role": "worker"}


def test_promtool_takes_what_the_collectors_print(tmp_path: Path) -> None:
    places = {"TEXTFILE_DIRECTORY": str(tmp_path)}
    for name in ("node-heartbeat", "node-state", "node-packages"):
        run([COLLECTORS / name], env=places)
    texts = [path.read_bytes() for path in sorted(tmp_path.glob("*.prom"))]
    assert len(texts) == 3
    for text in texts:
        run([program("promtool", "/usr/bin/promtool"), "check", "metrics"], input=text)

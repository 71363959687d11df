"""Metrics over a link that fails: the node's real programs, run as the shipped units say, and the parts' stores."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.run import find_tool, run
from tests.link import link
from tests.metrics_path import COLLECTORS, Agent, Textfiles, VictoriaMetrics, get, prometheus, wait_for

pytestmark = pytest.mark.network

FASTER = 15  # 30 minutes without a store are two: beats every 2 s, samples every 1 and 4 s; the link's times are real
MINUTE = 60_000  # ms
HEARTBEAT = "edge_heartbeat_timestamp_seconds"


def test_every_heartbeat_of_half_an_hour_without_a_store_arrives(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    store = VictoriaMetrics(tmp_path / "store")
    with store.run(), link(store.port) as way:
        agent = Agent(tmp_path / "agent", to=way.port, faster=FASTER)
        with Textfiles(tmp_path / "textfile", agent.exporter, 30 / FASTER).run() as node, agent.run():
            wait_for("the first heartbeat", lambda: bool(store.samples(HEARTBEAT)))
            wait_for("node metrics", lambda: bool(store.samples("node_load1")))
            way.cut.set()
            cut_at = time.time()
            time.sleep(15 * 60 / FASTER)
            agent.kill()
            time.sleep(15 * 60 / FASTER - 1)
            restored_at = time.time()
            assert max(store.values(HEARTBEAT)) < cut_at + 2
            way.restore()
            fresh = wait_for("a heartbeat of now", lambda: max(store.values(HEARTBEAT)) > restored_at - 1, seconds=20)
            missed = {beat for beat in node.beats if cut_at < beat < restored_at}
            empty = wait_for("the queue's end", lambda: agent.metric("vm_persistentqueue_bytes_pending") == 0, 40)
            wait_for("every heartbeat", lambda: missed <= store.values(HEARTBEAT), seconds=10)
            (beats,) = store.samples(HEARTBEAT)
            load = store.samples("node_load1")
    record_property("heartbeats", len(missed))
    record_property("seconds until current, and until the queue is empty", f"{fresh:.1f} {empty:.1f}")
    assert len(missed) >= 55
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
        f'bulk_{name}{{node="n1"}} {(time_ // 1000) % 977} {time_}'
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
    running = store.run() if kind == "victoria-metrics" else prometheus(tmp_path / "store", store.port)
    ask = "/api/v1/query?" + urllib.parse.urlencode(
        {"query": f'sum(count_over_time({{__name__=~"{HEARTBEAT}|bulk_.*"}}[4h]))'}
    )

    def arrived() -> int:
        if kind == "victoria-metrics":
            return store.count(f'{{__name__=~"{HEARTBEAT}|bulk_.*"}}')
        found = json.loads(get(store.port, ask))["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    with running, link(store.port) as way, Agent(tmp_path / "agent", to=way.port, store=kind).run() as agent:
        newest = "".join(f'{HEARTBEAT}{{node="n{node}"}} {now // 1000} {now}\n' for node in range(10))
        newest += "".join(f'bulk_{name}{{node="n1"}} 1 {now}\n' for name in range(40))
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
    """Send more into a queue than it takes, while nobody takes anything out of it."""
    store = VictoriaMetrics(directory / "store")
    with store.run(), link(store.port) as way, Agent(directory / "agent", to=way.port, queue=queue).run() as agent:
        way.cut.set()
        _push(agent, "oldest 1\n")
        pushed = 0
        while agent.metric("vm_persistentqueue_bytes_dropped_total") == 0:
            assert pushed < 1 << 30, "nothing was dropped"
            noise = base64.b64encode(os.urandom(9_000_000)).decode()
            _push(agent, "".join(f'noise{{n="{noise[at : at + 4000]}"}} 1\n' for at in range(0, len(noise), 4000)))
            pushed += len(noise)
        _push(agent, "newest 1\n")
        wait_for("the newest", lambda: agent.metric("vm_persistentqueue_bytes_pending") > 1 << 28)
        assert agent.alive()
        free = os.statvfs(queue).f_bavail * os.statvfs(queue).f_frsize
        assert free > 64 << 20
        way.restore()
        wait_for("the newest", lambda: store.count("newest") == 1, seconds=90)
        assert store.count("oldest") == 0
        assert agent.alive()

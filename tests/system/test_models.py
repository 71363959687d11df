"""Models from a store to a node: what is not sent twice, what breaks on the way, and what a node is left with."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.host.hashing import file_digest
from builder.modelstore.manifest import Manifest
from builder.modelstore.publish import Publication, publish
from builder.modelstore.store import DirectoryStore
from builder.run import run, spawn
from tests import gguf
from tests.fetcher import Fetcher
from tests.web import Web, serve

pytestmark = pytest.mark.waits

SMALL = 256 << 10  # bytes of a tensor, and of the longest chunk
COUNT = 8
TENSOR = 4_400_000  # 48 of them: a file of 211 MB
WHOLE = 1 << 30


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "store").mkdir()
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def web(store: DirectoryStore) -> Iterator[Web]:
    with serve() as server:
        server.root = store.directory
        yield server


@pytest.fixture
def node(web: Web, tmp_path: Path) -> Fetcher:
    return Fetcher(home=tmp_path / "node", settings={"store": web.url("/")})


def published(store: DirectoryStore, path: Path, version: str, *, key: Path | None = None, plain: str = "") -> Manifest:
    wanted = Publication(path=path, model="jen", version=version, key=key, plain=plain, longest=SMALL, fixed=SMALL)
    return publish(store, wanted).manifest


def two_versions(store: DirectoryStore, directory: Path) -> tuple[Manifest, Manifest]:
    """Publish versions 1 and 2, which differ in the tensors 2 and 5."""
    weights = gguf.tensors(COUNT, SMALL)
    first = published(store, gguf.write(directory / "1.gguf", weights), "1")
    changed = {"blk.2.weight": os.urandom(SMALL), "blk.5.weight": os.urandom(SMALL)}
    return first, published(store, gguf.write(directory / "2.gguf", weights | changed), "2")


def test_two_changed_tensors_of_48_are_all_that_is_sent(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    """Of 211 MB, over a link that breaks off twice; the chat template, which moves every byte, has changed as well."""
    weights = gguf.tensors(48, TENSOR)
    path = gguf.write(tmp_path / "model.gguf", weights, words=30_000)
    publish(store, Publication(path=path, model="jen", version="1"))
    node.fetch(jen="1")
    assert path.stat().st_size > 200_000_000
    assert node.current("jen") == "1"
    changed = {name: os.urandom(TENSOR) for name in ("blk.7.weight", "blk.31.weight")}
    gguf.write(path, weights | changed, words=30_000, template="a longer one " * 100)
    added = publish(store, Publication(path=path, model="jen", version="2")).added
    web.sent, web.requests = 0, []
    web.break_after = [*[WHOLE] * 3, 1_500_000, 700_000]  # the manifest and the header come whole
    said = node.fetch(jen="2")
    assert (node.current("jen"), web.break_after) == ("2", [])
    assert file_digest(node.models / "jen/current/model.gguf") == file_digest(path)
    assert said.count("broke off") == 2
    assert len([asked for asked in web.asked("Range") if asked]) == 2
    assert node.metric("edge_model_fetched_bytes_total") > 200_000_000
    print(f"\n{path.stat().st_size} bytes, of which {web.sent} were sent for 2 x {TENSOR} changed")  # noqa: T201
    assert 2 * TENSOR < web.sent <= 1.1 * 2 * TENSOR
    assert added <= 1.1 * 2 * TENSOR


def test_a_spoilt_chunk_is_refused_and_fetched_again(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    _, second = two_versions(store, tmp_path)
    bad = f"/{second.chunks[3].object}"
    web.spoil[bad] = 1
    said = node.fetch(jen="2")
    assert said.count("came with the wrong checksum") == 1
    assert [headers.get("Cache-Control") for path, headers in web.requests if path == bad] == [None, "no-cache"]
    assert node.current("jen") == "2"
    assert node.metric("edge_model_spoilt_chunks_total") == 1


def test_a_spoilt_store_leaves_the_node_what_it_has(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    _, second = two_versions(store, tmp_path)
    node.fetch(jen="1")
    web.spoil[f"/{second.chunks[3].object}"] = 100
    assert "wrong checksum 3 times" in node.fails(jen="2")
    assert node.current("jen") == "1"
    assert node.metric("edge_model_failures_total") == 1
    assert node.metric("edge_model_up_to_date") == 0
    assert node.metric("edge_model_last_success_timestamp_seconds") > 0
    web.spoil.clear()
    node.fetch(jen="2")
    assert (node.current("jen"), node.metric("edge_model_up_to_date")) == ("2", 1)


def test_the_version_before_stays_and_going_back_asks_nobody(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    third = gguf.write(tmp_path / "3.gguf", gguf.tensors(COUNT, SMALL))
    published(store, third, "3")
    for version in ("1", "2", "3"):
        node.fetch(jen=version)
    assert node.there("jen") == {"2", "3", "current", "pointer.json"}
    assert node.pointer("jen")["previous"] == "2"
    opened = (node.models / "jen/current/model.gguf").open("rb")
    web.requests = []
    with opened:
        assert "in use again" in node.fetch(jen="2")
        assert file_digest(third) == file_digest(Path(f"/proc/self/fd/{opened.fileno()}"))
    assert (node.current("jen"), web.requests) == ("2", [])
    assert node.pointer("jen") == node.pointer("jen") | {"version": "2", "previous": "3", "model": "jen"}
    node.fetch(jen="2")
    assert node.there("jen") == {"2", "3", "current", "pointer.json"}


def test_what_a_backup_holds_is_enough_to_fetch_the_model_again(
    store: DirectoryStore, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    node.fetch(jen="1")
    node.fetch(jen="2")
    before = node.pointer("jen")
    for version in ("1", "2"):
        shutil.rmtree(node.models / "jen" / version)
    assert node.there("jen") == {"current", "pointer.json"}
    node.fetch(jen="2")
    assert (node.current("jen"), node.pointer("jen")) == ("2", before)


def test_a_fetcher_killed_anywhere_goes_on_and_never_breaks_what_is_in_use(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    node.fetch(jen="1")
    different = gguf.write(tmp_path / "3.gguf", gguf.tensors(COUNT, SMALL))
    third = published(store, different, "3")
    node.settings |= {"models": {"jen": "3"}, "limit": third.size // 2}
    web.sent, killed = 0, 0
    dice = random.Random(5)  # noqa: S311
    while node.current("jen") == "1":
        with spawn(node.command()) as process:
            time.sleep(dice.uniform(0.1, 0.7))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
        assert node.current("jen") in ("1", "3")
        assert killed < 60
    assert killed > 2
    node.fetch(jen="3")
    assert node.current("jen") == "3"
    assert node.there("jen") == {"1", "3", "current", "pointer.json"}
    print(f"\nkilled {killed} times, {web.sent} bytes sent for {third.size}")  # noqa: T201


@pytest.mark.parametrize("keep", [0, 1, SMALL, SMALL + 1, 3 * SMALL + 4711])
def test_what_a_power_cut_leaves_is_read_again_and_kept_as_far_as_it_is_right(
    keep: int, store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    first, _ = two_versions(store, tmp_path)
    left = node.models / "jen/.incoming-1/model.gguf.part"
    left.parent.mkdir(parents=True)
    content = (tmp_path / "1.gguf").read_bytes()
    left.write_bytes(content[:keep] + bytes(2 * SMALL))  # blocks that never reached the disk read as zeros
    node.fetch(jen="1")
    assert node.current("jen") == "1"
    verified = max((chunk.off + chunk.len for chunk in first.chunks if chunk.off + chunk.len <= keep), default=0)
    assert web.sent <= first.size - verified + SMALL + 10_000


@pytest.mark.root
def test_a_full_disk_is_told_and_left_with_room(store: DirectoryStore, node: Fetcher, tmp_path: Path) -> None:
    first, second = two_versions(store, tmp_path)
    with small_disk(node.models, first.size * 3 // 2):
        node.fetch(jen="1")
        assert "no room" in node.fails(jen="2")
        node.options = ("--reserve", "-1000000000")  # as if somebody else had filled it meanwhile
        assert "No space left on device" in node.fails(jen="2")
        assert node.current("jen") == "1"
        assert node.there("jen") == {"1", "current", "pointer.json"}
        assert node.metric("edge_model_failures_total") == 2
        run(["mount", "-o", f"remount,size={first.size * 3}", node.models])
        node.options = ("--reserve", "0")
        node.fetch(jen="2")
        assert (node.current("jen"), second.version) == ("2", "2")


@contextlib.contextmanager
def small_disk(at: Path, size: int) -> Iterator[None]:
    at.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "models", at])
    try:
        yield
    finally:
        run(["umount", at])


@pytest.mark.root
def test_older_versions_make_room(store: DirectoryStore, node: Fetcher, tmp_path: Path) -> None:
    first, _ = two_versions(store, tmp_path)
    published(store, gguf.write(tmp_path / "3.gguf", gguf.tensors(COUNT, SMALL)), "3")
    with small_disk(node.models, first.size * 5 // 2):
        for version in ("1", "2", "3"):
            node.fetch(jen=version)
        assert node.there("jen") == {"2", "3", "current", "pointer.json"}


def test_outside_of_the_window_a_new_version_waits_and_a_first_one_does_not(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    hour = (time.localtime().tm_hour + 12) % 24
    node.settings["window"] = {"start": f"{hour:02}:00", "length": 3600}
    node.options = ("--scheduled",)
    node.fetch(jen="1")
    assert node.current("jen") == "1"
    web.requests = []
    assert "waits for the staging window" in node.fetch(jen="2")
    assert (node.current("jen"), web.requests) == ("1", [])
    node.settings["window"] = {"start": f"{time.localtime().tm_hour:02}:00", "length": 7200}
    node.fetch(jen="2")
    assert node.current("jen") == "2"


def test_a_first_version_waits_for_the_nodes_seconds_after_its_start(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    node.options = ("--scheduled",)
    running = time.clock_gettime(time.CLOCK_BOOTTIME)
    node.settings["boot_delay"] = int(running) + 1000
    assert "waits for its moment" in node.fetch(jen="1")
    assert (node.current("jen"), web.requests) == ("", [])
    node.settings["boot_delay"] = int(running) - 1
    node.fetch(jen="1")
    assert node.current("jen") == "1"


def test_a_signature_says_who_may_publish(store: DirectoryStore, node: Fetcher, tmp_path: Path) -> None:
    keys = {name: tmp_path / name for name in ("publisher", "stranger")}
    for path in keys.values():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path])
    public = keys["publisher"].with_suffix(".pub").read_text()
    node.signers = f'publisher namespaces="pibuild-model" {public}'
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(COUNT, SMALL))
    published(store, path, "1")
    assert "1.json.sig: 404" in node.fails(jen="1")
    published(store, path, "1", key=keys["stranger"])
    assert "signature is not good" in node.fails(jen="1")
    manifest = store.directory / "manifests/jen/1.json"
    signature: list[str | Path] = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", keys["publisher"]]
    elsewhere = run(signature, input=manifest.read_bytes()).stdout
    manifest.with_suffix(".json.sig").write_text(elsewhere)
    assert "signature is not good" in node.fails(jen="1")
    published(store, path, "1", key=keys["publisher"])
    node.fetch(jen="1")
    assert node.current("jen") == "1"
    second = published(store, gguf.write(tmp_path / "2.gguf", gguf.tensors(1, SMALL)), "2", key=keys["publisher"])
    changed = store.directory / "manifests/jen/2.json"
    changed.write_bytes(changed.read_bytes().replace(second.published.encode(), b"2020-01-01T00:00:00Z"))
    assert "signature is not good" in node.fails(jen="2")
    assert node.current("jen") == "1"


def test_a_signed_manifest_of_another_version_is_refused(store: DirectoryStore, node: Fetcher, tmp_path: Path) -> None:
    two_versions(store, tmp_path)
    (store.directory / "manifests/jen/3.json").write_bytes((store.directory / "manifests/jen/1.json").read_bytes())
    assert "not a manifest of jen 3" in node.fails(jen="3")


def test_a_file_that_lies_whole_elsewhere_is_fetched_in_ranges(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    weights = gguf.tensors(COUNT, SMALL)
    web.files["/cdn/1.gguf"] = gguf.write(tmp_path / "1.gguf", weights)
    web.files["/cdn/2.gguf"] = gguf.write(tmp_path / "2.gguf", weights | {"blk.3.weight": os.urandom(SMALL)})
    for version in ("1", "2"):
        published(store, tmp_path / f"{version}.gguf", version, plain=web.url(f"/cdn/{version}.gguf"))
    assert not (store.directory / "chunks").exists()
    node.fetch(jen="1")
    web.sent = 0
    web.break_after = [WHOLE, 100_000]
    node.fetch(jen="2")
    assert node.current("jen") == "2"
    assert SMALL < web.sent < 1.2 * SMALL
    web.ranges = False
    published(store, gguf.write(tmp_path / "3.gguf", gguf.tensors(2, SMALL)), "3", plain=web.url("/cdn/1.gguf"))
    assert "gives no ranges" in node.fails(jen="3")


def test_a_token_goes_to_the_store_and_not_to_where_it_sends_us(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    first, _ = two_versions(store, tmp_path)
    node.command()
    (node.home / "models.token").write_text("hush\n")
    with serve() as mirror:
        mirror.root = store.directory
        web.redirects = {f"/{chunk.object}": mirror.url(f"/{chunk.object}") for chunk in first.chunks}
        node.fetch(jen="1")
        assert set(web.asked("Authorization")) == {"Bearer hush"}
        assert set(mirror.asked("Authorization")) == {""}
    assert node.current("jen") == "1"


def test_a_store_that_is_away_is_asked_again_and_given_up(
    store: DirectoryStore, web: Web, node: Fetcher, tmp_path: Path
) -> None:
    two_versions(store, tmp_path)
    web.statuses = [503, 500, 429]
    said = node.fetch(jen="1")
    assert said.count("again in") == 3
    web.statuses = [503] * 20
    node.options = ("--pause", "0.01")
    assert "after 8 attempts" in node.fails(jen="2")
    assert node.current("jen") == "1"


def test_publishing_killed_anywhere_leaves_whole_objects_alone(tmp_path: Path) -> None:
    where = tmp_path / "store"
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(64, 1 << 20))
    pibuild: list[str | Path] = [sys.executable, "-m", "builder", "models"]
    command = [*pibuild, "publish", path, "--name", "jen", "--version", "1"]
    command += ["--store", where]
    dice = random.Random(7)  # noqa: S311
    for _ in range(6):
        with spawn(command) as process:
            _sleep_until(where / "chunks", dice.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        for chunk in where.glob("chunks/*/*"):
            assert file_digest(chunk) == chunk.name
    run(command)
    assert not list(where.glob("tmp/*"))
    again = run([*command, "--json"]).stdout
    assert '"added": 0' in again
    assert "every chunk is what its name says" in run([*pibuild, "verify", "--store", where]).stdout


def _sleep_until(path: Path, more: float) -> None:
    until = time.monotonic() + 5
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(more)

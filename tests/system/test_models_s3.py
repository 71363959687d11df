"""The store of models in an S3 bucket: the real client against moto's server, which keeps objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from builder.errors import FetchError, InputError
from builder.modelstore.publish import Publication, collect, list_models, open_store, publish, verify
from builder.modelstore.store import Store
from tests import gguf
from tests.fetcher import Fetcher

SMALL = 256 << 10


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    for name, value in (
        ("AWS_ENDPOINT_URL_S3", address),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    requests.post(f"{address}/moto-api/reset", timeout=10)  # what another test has left in this process
    boto3.client("s3").create_bucket(Bucket="models", ACL="public-read")
    yield address
    server.stop()


@pytest.fixture
def store(endpoint: str) -> Store:
    assert endpoint
    return open_store("s3://models/fleet")


def put(store: Store, path: Path, version: str) -> int:
    return publish(store, Publication(path=path, model="jen", version=version, longest=SMALL, fixed=SMALL)).added


def test_versions_in_a_bucket_share_chunks_and_reach_a_node(store: Store, endpoint: str, tmp_path: Path) -> None:
    weights = gguf.tensors(8, SMALL)
    first = gguf.write(tmp_path / "1.gguf", weights)
    assert put(store, first, "1") == first.stat().st_size
    assert put(store, first, "1") == 0
    second = gguf.write(tmp_path / "2.gguf", weights | gguf.tensors(1, SMALL))
    assert put(store, second, "2") == SMALL
    with pytest.raises(InputError, match="with another content"):
        put(store, second, "1")
    assert [(each.version, each.own) for each in list_models(store)] == [("1", SMALL), ("2", SMALL)]
    node = Fetcher(home=tmp_path / "node", settings={"store": f"{endpoint}/models/fleet"})
    node.fetch(jen="2")
    assert node.current("jen") == "2"


def test_a_bucket_is_verified_and_collected(store: Store, tmp_path: Path) -> None:
    first = gguf.write(tmp_path / "1.gguf", gguf.tensors(2, SMALL))
    put(store, first, "1")
    put(store, gguf.write(tmp_path / "2.gguf", gguf.tensors(2, SMALL)), "2")
    name = next(iter(store.held("chunks")))
    store.put(name, b"spoilt")
    assert [each.name for each in verify(store, drop=True)[1]] == [name]
    assert len(collect(store, keep=1, keep_days=0, dry_run=False)) >= 3
    assert [each.version for each in list_models(store)] == ["2"]


def test_a_manifest_is_written_once(store: Store) -> None:
    assert store.create("manifests/jen/1.json", b"one")
    assert not store.create("manifests/jen/1.json", b"two")
    assert store.read("manifests/jen/1.json") == b"one"
    assert store.read("manifests/jen/2.json") is None


def test_a_bucket_that_is_not_there_and_one_that_goes_away(store: Store) -> None:
    with pytest.raises(InputError, match="s3://none"):
        open_store("s3://none")
    boto3.client("s3").delete_bucket(Bucket="models")
    with pytest.raises(FetchError, match="NoSuchBucket"):
        store.put("chunks/aa/aa", b"content")

"""The store of models: publishing, what is shared, what is wrong, what goes; and manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cli import main as cli
from builder.errors import FetchError, HostError, InputError
from builder.host.hashing import file_digest
from builder.modelstore.manifest import Manifest, name_problem, read_manifest
from builder.modelstore.publish import Publication, collect, list_models, manifests, open_store, publish, show, verify
from builder.modelstore.store import DirectoryStore
from tests import gguf

SMALL = 4096


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "store").mkdir()
    return DirectoryStore(tmp_path / "store")


def put(store: DirectoryStore, path: Path, version: str, model: str = "jen") -> Manifest:
    return publish(store, Publication(path=path, model=model, version=version, longest=SMALL, fixed=SMALL)).manifest


def two(store: DirectoryStore, directory: Path) -> tuple[Manifest, Manifest]:
    """Publish two versions; the second has another tensor 2 of 4."""
    weights = gguf.tensors(4, SMALL)
    first = put(store, gguf.write(directory / "1.gguf", weights), "1")
    weights["blk.2.weight"] = os.urandom(SMALL)
    return first, put(store, gguf.write(directory / "2.gguf", weights), "2")


def test_publishing_twice_writes_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(4, SMALL))
    wanted = Publication(path=path, model="jen", version="1")
    first = publish(store, wanted)
    assert first.added == path.stat().st_size
    times = {each: each.stat().st_mtime_ns for each in store.directory.rglob("*") if each.name != "tmp"}
    again = publish(store, wanted)
    assert (again.added, again.manifest) == (0, first.manifest)
    assert {each: each.stat().st_mtime_ns for each in store.directory.rglob("*") if each.name != "tmp"} == times


def test_another_content_under_the_same_version_is_refused_before_anything_is_written(
    store: DirectoryStore, tmp_path: Path
) -> None:
    put(store, gguf.write(tmp_path / "1.gguf", gguf.tensors(4, SMALL)), "1")
    before = sorted(store.directory.rglob("*"))
    with pytest.raises(InputError, match="jen 1 is published, with another content") as caught:
        put(store, gguf.write(tmp_path / "2.gguf", gguf.tensors(4, SMALL)), "1")
    assert "another --version" in str(caught.value)
    assert sorted(store.directory.rglob("*")) == before


def test_chunks_are_named_by_their_content_and_can_be_read_by_a_web_server(
    store: DirectoryStore, tmp_path: Path
) -> None:
    os.umask(0o077)
    first, second = two(store, tmp_path)
    os.umask(0o022)
    chunks = list(store.directory.glob("chunks/*/*"))
    assert len(chunks) == len({chunk.sha256 for chunk in (*first.chunks, *second.chunks)})
    for chunk in chunks:
        assert (chunk.name, chunk.parent.name) == (file_digest(chunk), chunk.name[:2])
    assert {path.stat().st_mode & 0o777 for path in chunks} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in store.directory.rglob("*/") if path.name != "tmp"} == {0o755}


def test_a_manifest_says_what_the_file_is_made_of(store: DirectoryStore, tmp_path: Path) -> None:
    manifest, _ = two(store, tmp_path)
    written = json.loads((store.directory / "manifests/jen/1.json").read_text())
    path = tmp_path / "1.gguf"
    assert written == {
        "format": 1,
        "model": "jen",
        "version": "1",
        "file": "model.gguf",
        "sha256": file_digest(path),
        "size": path.stat().st_size,
        "published": manifest.published,
        "chunks": [{"sha256": each.sha256, "off": each.off, "len": each.len} for each in manifest.chunks],
    }
    assert read_manifest(manifest.to_json(), "here") == manifest


def test_versions_share_what_is_the_same(store: DirectoryStore, tmp_path: Path) -> None:
    two(store, tmp_path)
    first, second = list_models(store)
    assert (first.version, second.version, first.signed) == ("1", "2", False)
    assert first.own == second.own == SMALL
    assert first.shared == first.size - SMALL
    assert show(store, "jen", None).version == "2"
    assert show(store, "jen", "1").version == "1"
    with pytest.raises(InputError, match="no model jen 3"):
        show(store, "jen", "3")


def test_a_spoilt_and_a_missing_chunk_are_found_and_published_again(store: DirectoryStore, tmp_path: Path) -> None:
    first, _ = two(store, tmp_path)
    assert verify(store)[1] == ()
    spoilt, missing = (store.directory / first.chunks[number].object for number in (1, 3))
    spoilt.write_bytes(bytes(SMALL))
    missing.unlink()
    bad = verify(store, drop=True)[1]
    found = {each.name: (each.why, each.needed_by) for each in bad}
    assert found[first.chunks[1].object] == ("not what its name says", ("jen 1", "jen 2"))
    assert found[first.chunks[3].object] == ("missing", ("jen 1",))
    put(store, tmp_path / "1.gguf", "1")
    assert verify(store)[1] == ()


def test_what_no_version_needs_goes(store: DirectoryStore, tmp_path: Path) -> None:
    two(store, tmp_path)
    assert collect(store, keep=None, keep_days=0, dry_run=False) == ()
    assert collect(store, keep=1, keep_days=0, needed={("jen", "1")}, dry_run=False) == ()
    would = collect(store, keep=1, keep_days=0, dry_run=True)
    assert len(manifests(store)) == 2
    gone = collect(store, keep=1, keep_days=0, dry_run=False)
    assert gone == would
    assert [each.version for each in manifests(store)] == ["2"]
    assert sum(each.size for each in gone if each.name.startswith("chunks/")) == SMALL
    assert verify(store)[1] == ()


def test_young_chunks_stay(store: DirectoryStore) -> None:
    store.put("chunks/aa/aa", b"of somebody who is publishing")
    assert collect(store, keep=None, keep_days=1, dry_run=False) == ()
    assert len(collect(store, keep=None, keep_days=0, dry_run=False)) == 1


def test_nothing_is_collected_past_a_manifest_that_cannot_be_read(store: DirectoryStore, tmp_path: Path) -> None:
    two(store, tmp_path)
    (store.directory / "manifests/jen/1.json").write_text('{"format": 1, "chunks": []}')
    with pytest.raises(FetchError, match=r"jen/1\.json: not a whole manifest"):
        collect(store, keep=None, keep_days=0, dry_run=False)


def test_a_file_that_changes_meanwhile_is_refused(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(4, SMALL))
    held = store.held

    def change(prefix: str) -> object:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return held(prefix)

    monkeypatch.setattr(store, "held", change)
    with pytest.raises(InputError, match="changed while it was read"):
        put(store, path, "1")
    assert not (store.directory / "manifests").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "current", "pointer.json", ".hidden", "a" * 101, "a b"])
def test_names_that_cannot_be_directories_are_refused(name: str, store: DirectoryStore, tmp_path: Path) -> None:
    assert name_problem("model", name)
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(1, SMALL))
    with pytest.raises(InputError):
        put(store, path, name)
    with pytest.raises(InputError):
        put(store, path, "1", model=name)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: replace(manifest, size=manifest.size + 1),
        lambda manifest: replace(manifest, chunks=manifest.chunks[1:]),
        lambda manifest: replace(manifest, chunks=(replace(manifest.chunks[0], sha256="../x"), *manifest.chunks[1:])),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(
    spoil: Callable[[Manifest], Manifest], store: DirectoryStore, tmp_path: Path
) -> None:
    manifest, _ = two(store, tmp_path)
    with pytest.raises(FetchError):
        read_manifest(spoil(manifest).to_json(), "here")


def test_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store at"):
        open_store(str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot publish to ftp://"):
        open_store("ftp://example.org/x")


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    with pytest.raises(HostError, match="Permission denied"):
        put(DirectoryStore(tmp_path / "store"), gguf.write(tmp_path / "1.gguf", gguf.tensors(1, SMALL)), "1")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gguf.write(tmp_path / "1.gguf", gguf.tensors(4, SMALL))
    where = ["--store", str(tmp_path / "store")]
    command = ["models", "publish", str(path), "--name", "jen", "--version", "1", *where, "--json"]
    cluster = Path(__file__).parents[3] / "cluster.yaml"
    assert cli.run_command([*command, "--cluster", str(cluster)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["added"] == path.stat().st_size
    assert "it has no signature" in shown.err
    assert cli.run_command(["models", "list", *where]) == 0
    assert cli.run_command(["models", "show", "jen", *where]) == 0
    assert cli.run_command(["models", "verify", *where]) == 0
    assert "jen" in capsys.readouterr().out
    for chunk in (tmp_path / "store").glob("chunks/*/*"):
        chunk.write_bytes(b"x")
    assert cli.run_command(["models", "verify", "--drop-bad", *where]) == 5
    assert cli.run_command(["models", "gc", "--keep-days", "0", *where]) == 0

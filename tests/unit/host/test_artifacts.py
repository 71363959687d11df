"""Finding files by checksum, and reading lists of checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.host import artifacts, hashing
from builder.host.artifacts import find_artifact, find_checksum, obtain
from builder.host.fetch import Patience, UnreachableError
from builder.host.hashing import Artifact
from tests.web import Web, serve

HASTY = Patience(connect=2, read=2, attempts=2, most=4, pause=0)
CONTENT = b"k3s, say"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        server.files["/k3s-arm64"] = CONTENT
        yield server


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to their end."""
    names: list[str] = []
    real = hashing.file_digest

    def spy(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(artifacts, "file_digest", spy)
    return names


def test_finds_a_file_by_checksum_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "download (1)").write_bytes(CONTENT)
    (tmp_path / "b").mkdir()
    assert find_artifact(DIGEST.upper(), [tmp_path / "b", tmp_path / "a"]) == tmp_path / "a" / "deep" / "download (1)"
    assert find_artifact("0" * 64, [tmp_path / "a"]) is None
    assert find_artifact(DIGEST, [tmp_path / "none"]) is None


def test_looks_at_the_likely_name_first(tmp_path: Path, hashed: list[str]) -> None:
    for name in ("aaa", "bbb", "k3s-arm64"):
        (tmp_path / name).write_bytes(CONTENT if name == "k3s-arm64" else name.encode())
    assert find_artifact(DIGEST, [tmp_path], likely="k3s-arm64")
    assert hashed == ["k3s-arm64"]


def test_does_not_read_twice_what_has_not_changed(tmp_path: Path, hashed: list[str]) -> None:
    place, remembered = tmp_path / "place", tmp_path / "cache" / "digests.json"
    place.mkdir()
    (place / "one").write_bytes(b"one")
    (place / "two").write_bytes(CONTENT)
    for _ in range(2):
        assert find_artifact(DIGEST, [place], remembered=remembered) == place / "two"
    assert hashed == ["one", "two"]
    (place / "two").write_bytes(b"other")
    assert find_artifact(DIGEST, [place], remembered=remembered) is None
    assert hashed == ["one", "two", "two"]


def test_a_damaged_memory_costs_only_time(tmp_path: Path) -> None:
    place, remembered = tmp_path / "place", tmp_path / "digests.json"
    place.mkdir()
    (place / "two").write_bytes(CONTENT)
    remembered.write_text('{"1:2:')
    assert find_artifact(DIGEST, [place], remembered=remembered) == place / "two"


def test_obtains_from_the_directories_before_the_network(web: Web, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    wanted = Artifact(url=web.url("/k3s-arm64"), sha256=DIGEST)
    (place / "by hand").write_bytes(CONTENT)
    assert obtain(wanted, cache_dir=tmp_path / "cache", search=[place]) == place / "by hand"
    assert web.requests == []


def test_obtains_from_the_network_once(web: Web, tmp_path: Path) -> None:
    wanted = Artifact(url=web.url("/k3s-arm64"), sha256=DIGEST)
    for _ in range(2):
        assert obtain(wanted, cache_dir=tmp_path / "cache", search=[]) == tmp_path / "cache" / DIGEST
    assert len(web.requests) == 1


def test_an_optional_artifact_may_be_missing_but_never_wrong(
    web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = Artifact(url=web.url("/none?token=s3cret"), sha256=DIGEST, optional=True)
    assert obtain(missing, cache_dir=tmp_path, search=[], patience=HASTY) is None
    printed = capfd.readouterr().err
    assert "optional artifact left out" in printed
    assert "s3cret" not in printed
    web.files["/k3s-arm64"] = b"evil"
    wrong = Artifact(url=web.url("/k3s-arm64"), sha256=DIGEST, optional=True)
    with pytest.raises(FetchError, match="wrong checksum"):
        obtain(wrong, cache_dir=tmp_path, search=[], patience=HASTY)


def test_an_artifact_that_is_not_optional_must_be_there(web: Web, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="404"):
        obtain(Artifact(url=web.url("/none"), sha256=DIGEST), cache_dir=tmp_path, search=[], patience=HASTY)


@pytest.mark.parametrize(
    "line", ["{0}  image.img.xz", "{0} *image.img.xz", "{0}  ./image.img.xz", "SHA256 (image.img.xz) = {0}"]
)
def test_reads_every_style_of_list(line: str) -> None:
    listed = f"# a comment\n{'1' * 64}  image.img.xz.zsync\n{line.format(DIGEST.upper())}\r\n"
    assert find_checksum(listed, "image.img.xz", what="list") == DIGEST


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", "does not list image.img.xz among its 0 files"),
        (f"{DIGEST[:40]}  image.img.xz", "does not list"),
        (f"{DIGEST}  other/image.img.xz", "perhaps you meant other/image.img.xz"),
        (f"{DIGEST}  image.img.xz\n{'0' * 64}  image.img.xz", "2 different checksums"),
    ],
)
def test_refuses_lists_that_do_not_say(listed: str, message: str) -> None:
    with pytest.raises(FetchError) as caught:
        find_checksum(listed, "image.img.xz", what="list")
    assert message in str(caught.value)


def test_offline_nobody_is_asked(web: Web, tmp_path: Path) -> None:
    wanted = Artifact(url=web.url("/image"), sha256=DIGEST)
    with pytest.raises(UnreachableError, match="--offline fetches nothing"):
        obtain(wanted, cache_dir=tmp_path, search=[], offline=True)
    optional = Artifact(url=web.url("/image"), sha256=DIGEST, optional=True)
    assert obtain(optional, cache_dir=tmp_path, search=[], offline=True) is None
    assert web.requests == []

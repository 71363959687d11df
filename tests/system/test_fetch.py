"""Signed checksum lists, with real keys and the real gpgv."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.host.artifacts import signed_checksum
from builder.host.fetch import Patience, UnreachableError
from tests.signing import Signer, signer
from tests.web import Web, serve

pytestmark = pytest.mark.waits

HASTY = Patience(connect=2, read=2, attempts=2, most=4, pause=0)
DIGEST = hashlib.sha256(b"image").hexdigest()
LIST = f"{'1' * 64} *other.img.xz\n{DIGEST} *image.img.xz\n"


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


@pytest.fixture
def key() -> Iterator[Signer]:
    with signer("images") as made:
        yield made


def publish(web: Web, key: Signer, directory: Path, text: str = LIST) -> None:
    listed = directory / "SHA256SUMS"
    listed.write_text(text)
    web.files["/SHA256SUMS"] = listed
    web.files["/SHA256SUMS.gpg"] = key.sign(listed, directory / "SHA256SUMS.gpg")


def promised(web: Web, keyring: Path) -> str:
    return signed_checksum(web.url("/SHA256SUMS"), web.url("/SHA256SUMS.gpg"), keyring, "image.img.xz", patience=HASTY)


def test_a_good_signature_by_binary_and_armored_keyrings(web: Web, key: Signer, tmp_path: Path) -> None:
    publish(web, key, tmp_path)
    assert promised(web, key.keyring) == DIGEST
    assert promised(web, key.armored) == DIGEST


def test_a_changed_list_is_refused(web: Web, key: Signer, tmp_path: Path) -> None:
    publish(web, key, tmp_path)
    web.files["/SHA256SUMS"] = LIST.replace(DIGEST, "0" * 64).encode()
    with pytest.raises(FetchError, match="signature is not good") as caught:
        promised(web, key.keyring)
    assert "BAD signature" in caught.value.message


def test_a_signature_by_another_key_is_refused(web: Web, key: Signer, tmp_path: Path) -> None:
    publish(web, key, tmp_path)
    with signer("stranger") as stranger, pytest.raises(FetchError, match="signature is not good"):
        promised(web, stranger.keyring)


def test_a_second_signature_by_an_unknown_key_does_not_matter(web: Web, key: Signer, tmp_path: Path) -> None:
    publish(web, key, tmp_path)
    with signer("second") as second:
        more = second.sign(tmp_path / "SHA256SUMS", tmp_path / "second").read_bytes()
    web.files["/SHA256SUMS.gpg"] = (tmp_path / "SHA256SUMS.gpg").read_bytes() + more
    assert promised(web, key.keyring) == DIGEST


def test_a_key_that_has_expired_is_refused(web: Web, tmp_path: Path) -> None:
    with signer("short", expires="seconds=1") as short:
        publish(web, short, tmp_path)
        time.sleep(2)
        with pytest.raises(FetchError, match="signature is not good"):
            promised(web, short.keyring)


def test_no_signature_garbage_and_no_keyring(web: Web, key: Signer, tmp_path: Path) -> None:
    publish(web, key, tmp_path)
    with pytest.raises(FetchError, match="no keyring"):
        promised(web, tmp_path / "none.gpg")
    web.files["/SHA256SUMS.gpg"] = b"not a signature"
    with pytest.raises(FetchError, match="signature is not good"):
        promised(web, key.keyring)
    del web.files["/SHA256SUMS.gpg"]
    with pytest.raises(UnreachableError, match="404"):
        promised(web, key.keyring)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rsa1024", ()), ("rsa3072", ("--digest-algo", "SHA1"))],
    ids=["short key", "SHA-1"],
)
def test_a_weak_signature_is_refused(web: Web, tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    with signer("weak", kind=kind) as weak:
        publish(web, weak, tmp_path)
        weak.sign(tmp_path / "SHA256SUMS", tmp_path / "SHA256SUMS.gpg", *options)
        for keyring in (weak.keyring, weak.armored):
            with pytest.raises(FetchError, match="the signature is good but weak"):
                promised(web, keyring)


def test_a_long_rsa_key_is_good(web: Web, tmp_path: Path) -> None:
    with signer("long", kind="rsa2048") as key:
        publish(web, key, tmp_path)
        assert promised(web, key.keyring) == DIGEST

"""Files named by their checksum (placed by hand, in the cache, from the network) and signed lists of checksums."""

from __future__ import annotations

import difflib
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from builder.console import warn
from builder.errors import FetchError
from builder.host.fetch import Patience, UnreachableError, fetch, shown
from builder.host.hashing import Artifact, file_digest
from builder.host.named_file import open_named
from builder.host.scratch import temporary
from builder.run import find_tool, run

_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK"
_WEAK_DIGESTS = ("1", "2", "3")  # MD5, SHA-1, RIPEMD-160
_LENGTH_COUNTS = ("1", "2", "3", "16", "17", "20")  # RSA, Elgamal, DSA (RFC 4880, 9.1)
_LEAST_BITS = 2048
_GNU_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")  # sha256sum(1): two spaces for text, ` *` for binary
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")  # sha256sum --tag


def obtain(
    artifact: Artifact,
    *,
    cache_dir: Path,
    search: Sequence[Path],
    patience: Patience | None = None,
    offline: bool = False,
) -> Path | None:
    """Return the verified file of an artifact: from the cache, hand-placed files in `search`, else the network.

    `offline` leaves the network alone, as if nobody answered there.

    What comes from the network stays in `cache_dir` under its checksum. None means: optional, and its origin did not
    give it; the reason has been printed. Raises UnreachableError when it is not optional, FetchError whenever the
    checksum is wrong.
    """
    cached = cache_dir / artifact.sha256.lower()
    if cached.is_file():
        return cached
    name = PurePosixPath(unquote(urlsplit(artifact.url).path)).name
    placed = find_artifact(artifact.sha256, search, likely=name, remembered=cache_dir / "digests.json")
    if placed is not None:
        return placed
    try:
        if offline:
            _refuse(artifact.url)
        return fetch(artifact.url, sha256=artifact.sha256, into=cached, patience=patience)
    except UnreachableError as error:
        if not artifact.optional:
            raise
        warn(f"optional artifact left out: {error.message}")
        return None


def _refuse(url: str) -> NoReturn:
    hint = "build once without --offline, or give its directory with --artifacts"
    raise UnreachableError(f"{shown(url)} is not here, and --offline fetches nothing", hint=hint)


def find_artifact(
    sha256: str, directories: Sequence[Path], *, likely: str = "", remembered: Path | None = None
) -> Path | None:
    """Return the file with this checksum among `directories` (or files) and all below them, None when there is none.

    Files called `likely` are looked at first. `remembered` is a JSON file of digests by device, inode, size and times
    (the change time cannot be set by hand), so that a repeated search reads only what is new.
    """
    wanted = sha256.lower()
    known = _read_digests(remembered)
    found, fresh = None, dict(known)
    for path in sorted(_files(directories), key=lambda path: (path.name != likely, path)):
        status = path.stat()
        identity = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        if identity not in fresh:
            fresh[identity] = file_digest(path)
        if fresh[identity] == wanted:
            found = path
            break
    if remembered is not None and fresh != known:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_name(f".{remembered.name}.{secrets.token_hex(6)}")
        partial.write_text(json.dumps(fresh, indent=0))
        partial.rename(remembered)
    return found


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
        for path in place.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                yield path


def _read_digests(path: Path | None) -> dict[str, str]:
    """Return the remembered digests; none where the file is missing or damaged, which costs only time."""
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(key): str(digest) for key, digest in value.items()} if isinstance(value, dict) else {}


def signed_checksum(
    list_url: str, signature_url: str, keyring: Path, filename: str, *, patience: Patience | None = None
) -> str:
    """Return the sha256 that a signed list promises for `filename` (64 lower-case hex digits).

    The list is one of `sha256sum` (either style); its detached OpenPGP signature must be good by a key of `keyring`
    (binary or armored) that has neither expired nor been revoked, and is not a weak one. One such signature is enough.
    Raises UnreachableError, or FetchError when the signature is bad or the list does not name the file.
    """
    with temporary("checksums") as scratch:
        checksums = fetch(list_url, sha256=None, into=scratch / "list", patience=patience)
        signature = fetch(signature_url, sha256=None, into=scratch / "signature", patience=patience)
        verify_signature(checksums, signature, keyring, what=shown(list_url))
        return find_checksum(checksums.read_text(errors="replace"), filename, what=shown(list_url))


def verify_signature(file: Path, signature: Path, keyring: Path, *, what: str) -> str:
    """Return the fingerprint of the key whose good detached signature `file` has. `what` names the file in errors."""
    gpgv = find_tool("gpgv", package="gpgv")
    if not keyring.is_file():
        raise FetchError(f"{what}: there is no keyring {keyring}", hint="name the file that holds the signer's key")
    with temporary("gpg") as home:
        usable = _dearmored(keyring.absolute(), home)
        argv: list[str | Path] = [gpgv, "--homedir", home, "--status-fd", "1", "--keyring", usable, signature, file]
        checked = run(argv, check=False)
        signers = _good_signers(checked.stdout)
        strong = [
            signer for signer, digest in signers if digest not in _WEAK_DIGESTS and _is_strong(signer, usable, home)
        ]
    if signers and not strong:
        raise FetchError(
            f"{what}: the signature is good but weak: RSA and DSA keys below {_LEAST_BITS} bits, and the digests MD5, "
            f"SHA-1 and RIPEMD-160, can be forged ({', '.join(signer for signer, _ in signers)})",
            hint="ask its origin for a list that is signed by a key of today, or name the file by its sha256",
        )
    if not strong:
        said = "\n  ".join(checked.stderr.strip().splitlines()[-6:])
        raise FetchError(
            f"{what}: the signature is not good by {keyring}\n  {said}",
            hint="the list was changed, or it is signed by another key: get the signer's key from where you trust",
        )
    return strong[0]


def _good_signers(statuses: str) -> list[tuple[str, str]]:
    """Return fingerprint and digest (a number of RFC 4880, 9.4) of good signatures in gpgv's status lines.

    GOODSIG is said of no signature that has expired or whose key has expired or was revoked; VALIDSIG follows it
    (GnuPG, doc/DETAILS).
    """
    good, found = False, []
    for line in statuses.splitlines():
        word, *arguments = line.removeprefix("[GNUPG:] ").split()
        if good and word == "VALIDSIG":
            found.append((arguments[0], arguments[7]))
        good = word == "GOODSIG" or (good and word not in ("NEWSIG", "VALIDSIG"))
    return found


def _is_strong(fingerprint: str, keyring: Path, home: Path) -> bool:
    """Return whether a keyring's key, or subkey, is long enough; keys on elliptic curves always are."""
    gpg = find_tool("gpg", package="gpg")
    argv: list[str | Path] = [gpg, "--homedir", home, "--batch", "--with-colons", "--show-keys", keyring]
    bits, algorithm = 0, ""
    for line in run(argv, what=f"reading the keyring {keyring}").stdout.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub"):
            bits, algorithm = int(fields[2] or 0), fields[3]
        elif fields[0] == "fpr" and fields[9] == fingerprint:
            return algorithm not in _LENGTH_COUNTS or bits >= _LEAST_BITS
    return False


def _dearmored(keyring: Path, scratch: Path) -> Path:
    """Return a keyring that gpgv reads: it takes no armored one."""
    with open_named(keyring) as file:
        armored = _ARMOR in file.read(4096)
    if not armored:
        return keyring
    plain = scratch / "keyring.gpg"
    gpg = find_tool("gpg", package="gpg")
    argv: list[str | Path] = [gpg, "--homedir", scratch, "--batch", "--output", plain, "--dearmor", keyring]
    run(argv, what=f"reading the armored keyring {keyring}")
    return plain


def find_checksum(checksums: str, filename: str, *, what: str) -> str:
    """Return the sha256 a `sha256sum` list gives for a file. Raises FetchError when there is none, or two."""
    listed: dict[str, set[str]] = {}
    for line in checksums.splitlines():
        if match := _GNU_LINE.fullmatch(line.strip()):
            digest, name = match[1], match[2]
        elif match := _BSD_LINE.fullmatch(line.strip()):
            name, digest = match[1], match[2]
        else:
            continue
        listed.setdefault(name.removeprefix("./"), set()).add(digest.lower())
    digests = listed.get(filename, set())
    if len(digests) == 1:
        return digests.pop()
    if digests:
        raise FetchError(f"{what}: gives {len(digests)} different checksums for {filename}", hint="name one by sha256")
    near = difflib.get_close_matches(filename, listed, n=3, cutoff=0.5)
    hint = f"perhaps you meant {' or '.join(near)}" if near else "check the file's name in the list"
    raise FetchError(f"{what}: does not list {filename} among its {len(listed)} files", hint=hint)

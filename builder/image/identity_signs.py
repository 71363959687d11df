"""Find identities that the table lacks: files of no package, with content that looks random.

A rule, and so no proof: what it finds is told, and nothing is removed for it.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping

from builder.image.filesystem import FileSystem
from builder.image.identities import is_known

PLACES = ("etc", "var/lib")
INFO = "var/lib/dpkg/info"
MOST = 16 << 10  # bytes; a bigger file holds more than an identity
# databases of packages and of programs, that hold digests and identifiers of what every machine has alike
_ELSEWHERE = frozenset(
    ("var/lib/dpkg", "var/lib/apt", "var/lib/ucf", "var/lib/initramfs-tools", "var/lib/pam", "var/lib/systemd/catalog")
)
# of the image's own disk; of its accounts, which have a check of their own; of people who may log in
_ALIKE = frozenset(
    (
        "etc/fstab",
        "etc/crypttab",
        "etc/kernel/cmdline",
        "etc/shadow",
        "etc/gshadow",
        "etc/initramfs-tools/conf.d/resume",
    )
)
_PRIVATE = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_PUBLIC = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LOGIN_KEY = re.compile(r"\b(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ AAAA\S*")
_COMMENT = re.compile(r"^\s*(?:#|;|//|!).*$", re.MULTILINE)
_CHECKSUM = re.compile(r"^\s*[0-9a-fA-F]{32,}[ \t]+\S.*$", re.MULTILINE)  # sha256sum(1)
_UUID = re.compile(r"(?<![0-9a-zA-Z-])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9a-zA-Z-])")
_HEX = re.compile(r"(?<![0-9a-zA-Z/+._-])(?:0x)?[0-9a-fA-F]{32,}(?![0-9a-zA-Z/+._-])")
_WORD = re.compile(r"(?<![0-9A-Za-z/+._%@-])[0-9A-Za-z/+]{22,}={0,2}(?![0-9A-Za-z/+._%@-])")
_BITS = 3.6  # entropy of a character of base64 that is random, in words as short as these; English has 2 to 3.3
_LIST = 16 << 20  # bytes of a package's list of files that are read
_BINARY_BYTES = range(16, 4097)
_BINARY_BITS = 0.85  # of what as many random bytes could have


def sign_of(path: str, mode: int, content: bytes) -> str:
    """Return in words what of a file (its path relative to the root) looks random; "" where nothing does."""
    if path in _ALIKE or len(content) > MOST:
        return ""
    if _PRIVATE.search(content):
        return "a private key"
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        closed = not mode & 0o077 and len(content) in _BINARY_BYTES
        most = math.log2(min(len(content), 256)) if content else 0
        return "a random key, by its bytes" if closed and _entropy(content) >= _BINARY_BITS * most else ""
    for pattern in (_PUBLIC, _LOGIN_KEY, _COMMENT, _CHECKSUM):
        text = pattern.sub("", text)
    if _UUID.search(text):
        return "a UUID"
    if any(_entropy(word.encode()) > 2 for word in _HEX.findall(text)):  # noqa: PLR2004 - bits; not 0000…
        return "a random number in hex"
    return "a random word" if any(_is_random(word) for word in _WORD.findall(text)) else ""


def _is_random(word: str) -> bool:
    """Say whether a word is one of base64 rather than a name or a path."""
    kinds = (str.isdigit, str.isupper, str.islower)
    mixed = all(any(kind(sign) for sign in word) for kind in kinds)
    return mixed and word.count("/") <= len(word) // 12 and _entropy(word.encode()) >= _BITS


def _entropy(content: bytes) -> float:
    """Return bits per byte, by how often each value is there (Shannon)."""
    total = len(content)
    return -sum(count / total * math.log2(count / total) for count in Counter(content).values())


def signs_in(root: FileSystem) -> dict[str, str]:
    """Return what looks like an unknown identity in a file system, by path relative to its root."""
    signs = {}
    todo = [entry for place in PLACES if (entry := root.find(f"/{place}", follow=False)) and entry.directory]
    while todo:
        for entry in root.children(todo.pop()).values():
            path = entry.path.lstrip("/")
            if entry.directory and path not in _ELSEWHERE:
                todo.append(entry)
            elif entry.kind == "file" and 0 < entry.size <= MOST and not is_known(path):
                told = sign_of(path, entry.mode, root.head(entry.path, MOST))
                signs.update({path: told} if told else {})
    return _without_owned(root, signs) if signs else {}


def _without_owned(root: FileSystem, signs: Mapping[str, str]) -> dict[str, str]:
    """Return what of the signs is in none of dpkg's lists of files (dpkg-query(1), --listfiles)."""
    left = dict(signs)
    info = root.find(f"/{INFO}")
    for entry in root.children(info).values() if info and info.directory else ():
        if entry.kind == "file" and entry.name.endswith(".list"):
            for line in root.head(entry.path, _LIST).splitlines():
                left.pop(os.fsdecode(line).lstrip("/"), None)
    return left
